// Update_state: the first of two passes. States advance, and every tensor gets ‖p‖² and ‖u‖².
#pragma once

#include "pass.cuh"
#include "passes.h"
#include "warp.cuh"

namespace yfk {
namespace cuda {

struct Norms {
  double p_sq, u_sq;
};

// A thread sums its elements of a chunk, 256 at most, in float, in two halves; what comes after is
// double.
struct FloatNorms {
  float p_sq[2] = {}, u_sq[2] = {};

  // p and u are 0 in lanes that are not there.
  template <int N>
  __device__ __forceinline__ void add(const Lanes<N>& p, const Lanes<N>& u) {
#pragma unroll
    for (int k = 0; k < N; ++k) {
      p_sq[k % 2] = fmaf(p.at[k], p.at[k], p_sq[k % 2]);
      u_sq[k % 2] = fmaf(u.at[k], u.at[k], u_sq[k % 2]);
    }
  }
};

// All columns but the gradients are read again by apply.
template <class Rule, class Parameter>
__device__ __forceinline__ FloatNorms update_state_chunk(const Piece& piece, uint32_t seed,
                                                         int rank, const Rule& rule,
                                                         const Parameter& param) {
  constexpr int N = Parameter::N;
  constexpr bool kAllWide = Parameter::kAllWide;
  const auto grads =
      column_of<const typename Parameter::Type, kAllWide, Reuse::kStream>(piece, kGrad);
  using States = StatesOf<Rule, N, kAllWide, Reuse::kKeep>;
  const States states(piece);
  const uint32_t element = uint32_t(piece.row.origin + piece.first) + seed;
  FloatNorms norms;

  struct Values {
    Lanes<N> g;
    typename Parameter::Value param;
    typename States::Value state;
  };
  const auto load = [&](int i, auto lanes) {
    return Values{grads.load(i, lanes), param.load(i, lanes), states.load(i, lanes)};
  };
  const auto work = [&](int i, Values& value, auto lanes) {
    const Lanes<N> p = Parameter::newest(value.param);
    norms.add(p, directions(rule, value.g, p, &value.state));
    states.store(i, value.state, element + uint32_t(i), lanes);
  };
  for_each_lanes<N, kAllWide>(piece.n, rank, load, work);
  return norms;
}

// The sums over a tensor's chunks in an order that depends on their number alone; by a warp, whose
// lane 0 returns them.
__device__ __forceinline__ Norms sum_chunks(const Norms* chunks, unsigned count) {
  Norms sum = {0.0, 0.0};
#pragma unroll 4
  for (unsigned i = threadIdx.x; i < count; i += kWarp) {
    sum.p_sq += __ldcg(&chunks[i].p_sq);
    sum.u_sq += __ldcg(&chunks[i].u_sq);
  }
  return {warp_sum(sum.p_sq), warp_sum(sum.u_sq)};
}

template <class P, class Rule>
__global__ void __launch_bounds__(kBlock, 3)  // 80 registers a thread: 64 would spill
    update_state_kernel(Table table, const typename Rule::Coefficients* groups, Norms* chunk_norms,
                        Norms* norms, unsigned* tickets) {
  __shared__ Job<Rule> jobs[kBatch];
  __shared__ Norms ranks[kBatch][kWarps];
  if (groups->active == 0.0) return;
  const int warp = warp_index();

  const auto open = [&](int k, int64_t chunk) {
    Job<Rule>& job = jobs[k];
    const Piece& piece = job.piece = piece_of(table, chunk);
    if (piece.has_grad()) job.set(groups[piece.row.group], steps_of(piece) + 1.0, 1.0);
  };
  const auto update_state = [&](int k) {
    const Job<Rule>& job = jobs[k];
    const Piece& piece = job.piece;
    const int rank = Dealt::rank(warp, k);
    if (!Dealt::has_share(rank, piece.n)) return;
    const Rule rule = job.rule();
    with_parameter<P, Reuse::kKeep>(job, all_wide<P, Rule>(piece, true), [&](const auto& param) {
      const FloatNorms own = update_state_chunk(piece, job.seed, rank, rule, param);
      const Norms sum = {warp_sum(double(own.p_sq[0]) + double(own.p_sq[1])),
                         warp_sum(double(own.u_sq[0]) + double(own.u_sq[1]))};
      if (threadIdx.x % kWarp == 0) ranks[k][rank] = sum;
    });
  };

  // A tensor of one chunk is done with it. Else the last of its chunks to be done adds them up.
  const auto end_chunk = [&](const Piece& piece) {
    Norms sum = {0.0, 0.0};
    for (int r = 0; r < Dealt::shares(piece.n); ++r) {
      sum.p_sq += ranks[threadIdx.x][r].p_sq;
      sum.u_sq += ranks[threadIdx.x][r].u_sq;
    }
    const unsigned chunks = chunks_of(piece, table.chunk_size);
    if (chunks > 1) {
      chunk_norms[piece.chunk] = sum;
      return thread_arrives_last(tickets + piece.index, chunks);
    }
    norms[piece.index] = sum;
    count_step(piece);
    return false;
  };
  const auto close = [&](bool own) {
    __syncthreads();  // all warps' sums are there
    if (threadIdx.x >= kWarp) return;
    const bool last =
        own && jobs[threadIdx.x].piece.has_grad() && end_chunk(jobs[threadIdx.x].piece);
    for (int k = 0; k < kBatch; ++k) {
      if (!told_by(k, last)) continue;
      const Piece& piece = jobs[k].piece;
      const Norms* first = chunk_norms + piece.chunk - piece.first / table.chunk_size;
      const Norms sum = sum_chunks(first, chunks_of(piece, table.chunk_size));
      if (threadIdx.x != 0) continue;
      norms[piece.index] = sum;
      count_step(piece);
    }
  };
  for_each_batch(int(blockIdx.x), int(table.num_chunks), int(gridDim.x), open, update_state, close);
}

template <class P, class Rule>
void launch_update_state(const Table& table, const double* coefficients, double* chunk_norms,
                         double* norms, unsigned* tickets, const Queue& queue) {
  const DeviceGuard guard(queue.device);
  const auto* kernel = reinterpret_cast<const void*>(&update_state_kernel<P, Rule>);
  const int grid = grid_of(table, kernel, queue.device);
  YFK_LAUNCH((update_state_kernel<P, Rule>), grid, kBlock, 0, stream_of(queue), table,
             reinterpret_cast<const typename Rule::Coefficients*>(coefficients),
             reinterpret_cast<Norms*>(chunk_norms), reinterpret_cast<Norms*>(norms), tickets);
}

template <class Rule>
UpdateStatePass update_state_pass(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: break;
    case DType::kBFloat16: return launch_update_state<__nv_bfloat16, Rule>;
    case DType::kFloat16: return launch_update_state<__half, Rule>;
  }
  return launch_update_state<float, Rule>;
}

}  // namespace cuda
}  // namespace yfk
