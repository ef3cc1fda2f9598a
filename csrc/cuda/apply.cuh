// Apply: the second of two passes. The parameters move by a length that depends on the norms.
#pragma once

#include "update_state.cuh"

namespace yfk {
namespace cuda {

// Nothing but the parameters is wanted before the next step.
template <class Rule, class Parameter>
__device__ __forceinline__ void apply_chunk(const Piece& piece, int rank, const Rule& rule,
                                            const Parameter& param) {
  constexpr int N = Parameter::N;
  using States = StatesOf<Rule, N, Parameter::kAllWide, Reuse::kStream>;
  const States states(piece);

  struct Values {
    typename Parameter::Value param;
    typename States::Value state;
  };
  const auto load = [&](int i, auto lanes) {
    return Values{param.load(i, lanes), states.load(i, lanes)};
  };
  const auto work = [&](int i, const Values& value, auto lanes) {
    Lanes<N> p = Parameter::newest(value.param);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      float state[Rule::kStates];
#pragma unroll
      for (int c = 0; c < Rule::kStates; ++c) state[c] = value.state.column[c].at[k];
      p.at[k] = rule.moved(p.at[k], rule.recalled(p.at[k], state));
    }
    param.store(i, p, lanes);
  };
  for_each_lanes<N, Parameter::kAllWide>(piece.n, rank, load, work);
}

template <class P, class Rule>
__global__ void __launch_bounds__(kBlock, 4)  // 64 registers a thread
    apply_kernel(Table table, const typename Rule::Coefficients* groups, const Norms* norms) {
  __shared__ Job<Rule> jobs[kBatch];
  if (groups->active == 0.0) return;
  const int warp = warp_index();

  const auto open = [&](int k, int64_t turn) {
    Job<Rule>& job = jobs[k];
    // from the end, where the pass before has stopped: what the L2 cache has kept is met before it
    // is displaced. Reasoned, not measured.
    const Piece& piece = job.piece = piece_of(table, table.num_chunks - 1 - turn);
    if (!piece.has_grad()) return;
    const auto& group = groups[piece.row.group];
    const Norms of_tensor = norms[piece.index];
    job.set(group, steps_of(piece), Rule::trust_ratio(group, of_tensor.p_sq, of_tensor.u_sq));
  };
  const auto apply = [&](int k) {
    const Job<Rule>& job = jobs[k];
    const Piece& piece = job.piece;
    const int rank = Dealt::rank(warp, k);
    if (!Dealt::has_share(rank, piece.n)) return;
    const Rule rule = job.rule();
    with_parameter<P, Reuse::kStream>(job, all_wide<P, Rule>(piece, false), [&](const auto& param) {
      apply_chunk(piece, rank, rule, param);
    });
  };
  for_each_batch(int(blockIdx.x), int(table.num_chunks), int(gridDim.x), open, apply);
}

template <class P, class Rule>
void launch_apply(const Table& table, const double* coefficients, const double* norms,
                  const Queue& queue) {
  const DeviceGuard guard(queue.device);
  const auto* kernel = reinterpret_cast<const void*>(&apply_kernel<P, Rule>);
  const int grid = grid_of(table, kernel, queue.device);
  YFK_LAUNCH((apply_kernel<P, Rule>), grid, kBlock, 0, stream_of(queue), table,
             reinterpret_cast<const typename Rule::Coefficients*>(coefficients),
             reinterpret_cast<const Norms*>(norms));
}

template <class Rule>
ApplyPass apply_pass(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: break;
    case DType::kBFloat16: return launch_apply<__nv_bfloat16, Rule>;
    case DType::kFloat16: return launch_apply<__half, Rule>;
  }
  return launch_apply<float, Rule>;
}

}  // namespace cuda
}  // namespace yfk
