// Update: one pass over gradients, state and parameters.
#pragma once

#include "move_sums.cuh"
#include "pass.cuh"
#include "passes.h"

namespace yfk {
namespace cuda {

// Nothing but the parameters is wanted before the next step. `sums` has room for the rule's sums of
// the move: a thread sums its elements of a chunk, 256 at most, in float.
template <class Rule, class Parameter>
__device__ __forceinline__ void update_chunk(const Piece& piece, uint32_t seed, int rank,
                                             const Rule& rule, const Parameter& param,
                                             float* sums) {
  constexpr int N = Parameter::N;
  constexpr bool kAllWide = Parameter::kAllWide;
  const auto grads =
      column_of<const typename Parameter::Type, kAllWide, Reuse::kStream>(piece, kGrad);
  using States = StatesOf<Rule, N, kAllWide, Reuse::kStream>;
  const States states(piece);
  const uint32_t element = uint32_t(piece.row.origin + piece.first) + seed;

  struct Values {
    Lanes<N> g;
    typename Parameter::Value param;
    typename States::Value state;
  };
  const auto load = [&](int i, auto lanes) {
    return Values{grads.load(i, lanes), param.load(i, lanes), states.load(i, lanes)};
  };
  const auto work = [&](int i, Values& value, auto lanes) {
    Lanes<N> p = Parameter::newest(value.param);
    const Lanes<N> u = directions(rule, value.g, p, &value.state);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const float moved = rule.moved(p.at[k], u.at[k]);  // 0 in lanes that are not there
      if constexpr (Rule::kMoveSums > 0) {
        float state[Rule::kStates];
#pragma unroll
        for (int c = 0; c < Rule::kStates; ++c) state[c] = value.state.column[c].at[k];
        rule.move_sums(value.g.at[k], p.at[k], moved, state, sums);
      }
      p.at[k] = moved;
    }
    param.store(i, p, lanes);
    states.store(i, value.state, element + uint32_t(i), lanes);
  };
  for_each_lanes<N, kAllWide>(piece.n, rank, load, work);
}

// Blocks on a multiprocessor: 64 registers a thread, or 80 where those would spill.
template <class P, class Rule>
constexpr int kResident = Rule::kMoveSums > 1 && sizeof(P) == 2 ? 3 : 4;

// A tensor's step counts as soon as all its chunks have read it: nobody waits for their end.
template <class P, class Rule>
__global__ void __launch_bounds__(kBlock, kResident<P, Rule>)
    update_kernel(Table table, const typename Rule::Coefficients* groups, double* chunk_move_sums,
                  double* move_sums, unsigned* tickets, unsigned* ticket) {
  constexpr int kMoveSums = Rule::kMoveSums;
  __shared__ Job<Rule> jobs[kBatch];
  __shared__ MoveSums<kMoveSums, kWarps, Dealt> summed;
  if (groups->active == 0.0) return;
  const int warp = warp_index();

  const auto open = [&](int k, int64_t chunk) {
    Job<Rule>& job = jobs[k];
    const Piece& piece = job.piece = piece_of(table, chunk);
    if (!piece.has_grad()) return;
    job.set(groups[piece.row.group], steps_of(piece) + 1.0, 1.0);
    if (!piece.row.column[kStep]) return;
    const unsigned chunks = chunks_of(piece, table.chunk_size);
    if (chunks == 1 || thread_arrives_last(tickets + piece.index, chunks)) count_step(piece);
  };
  const auto update = [&](int k) {
    const Job<Rule>& job = jobs[k];
    const Piece& piece = job.piece;
    const int rank = Dealt::rank(warp, k);
    if (!Dealt::has_share(rank, piece.n)) return;
    const Rule rule = job.rule();
    with_parameter<P, Reuse::kStream>(job, all_wide<P, Rule>(piece, true), [&](const auto& param) {
      float sums[kMoveSums ? kMoveSums : 1] = {};
      update_chunk(piece, job.seed, rank, rule, param, sums);
      if constexpr (kMoveSums > 0) summed.add(k, rank, sums);
    });
  };
  const auto close = [&](bool own) {
    if constexpr (kMoveSums > 0)
      summed.end_batch(own ? &jobs[threadIdx.x].piece : nullptr, chunk_move_sums);
  };
  for_each_batch(int(blockIdx.x), int(table.num_chunks), int(gridDim.x), open, update, close);
  if constexpr (kMoveSums > 0)
    summed.end_table(chunk_move_sums, table.num_chunks, ticket, move_sums);
}

template <class P, class Rule>
void launch_update(const Table& table, const double* coefficients, double* chunk_move_sums,
                   double* move_sums, unsigned* tickets, unsigned* ticket, const Queue& queue) {
  const DeviceGuard guard(queue.device);
  const auto* kernel = reinterpret_cast<const void*>(&update_kernel<P, Rule>);
  const int grid = grid_of(table, kernel, queue.device);
  YFK_LAUNCH((update_kernel<P, Rule>), grid, kBlock, 0, stream_of(queue), table,
             reinterpret_cast<const typename Rule::Coefficients*>(coefficients), chunk_move_sums,
             move_sums, tickets, ticket);
}

template <class Rule>
UpdatePass update_pass(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: break;
    case DType::kBFloat16: return launch_update<__nv_bfloat16, Rule>;
    case DType::kFloat16: return launch_update<__half, Rule>;
  }
  return launch_update<float, Rule>;
}

}  // namespace cuda
}  // namespace yfk
