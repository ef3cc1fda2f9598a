// A rule's sums of the move: from a block's threads to one a chunk, and then to one of the table.
#pragma once

#include "chunks.cuh"
#include "reduce.cuh"
#include "ticket.cuh"

namespace yfk {
namespace cuda {

// In shared memory; Deal: how chunks are dealt out to kWarps warps.
template <int kMoveSums, int kWarps, class Deal>
struct MoveSums {
  double ranks[kBatch][kWarps][kMoveSums];  // of a batch of chunks
  double totals[kMoveSums];

  // A thread's sums over its share of the batch's chunk k. By all lanes of a warp.
  __device__ __forceinline__ void add(int k, int rank, const float* sums) {
    for (int i = 0; i < kMoveSums; ++i) {
      const double sum = warp_sum(double(sums[i]));
      if (threadIdx.x % kWarp == 0) ranks[k][rank][i] = sum;
    }
  }

  // chunk_move_sums[chunk][kMoveSums]; own: the piece that thread k has opened, null for the others.
  __device__ __forceinline__ void end_batch(const Piece* own, double* chunk_move_sums) const {
    __syncthreads();  // all warps' sums are there
    if (!own) return;
    for (int i = 0; i < kMoveSums; ++i) {
      double sum = 0.0;  // of a tensor without a gradient
      for (int r = 0; r < Deal::shares(own->n); ++r) sum += ranks[threadIdx.x][r][i];
      chunk_move_sums[own->chunk * kMoveSums + i] = sum;
    }
  }

  // By the block that is done last, in an order that depends on the number of chunks alone.
  __device__ __forceinline__ void end_table(const double* chunk_move_sums, int64_t num_chunks,
                                            unsigned* ticket, double* move_sums) {
    if (!block_arrives_last(ticket)) return;
    double sums[kMoveSums] = {};
    for (int64_t chunk = threadIdx.x; chunk < num_chunks; chunk += kWarps * kWarp)
      for (int i = 0; i < kMoveSums; ++i)
        sums[i] += __ldcg(chunk_move_sums + chunk * kMoveSums + i);
    block_sum(sums, totals);
    if (threadIdx.x < kMoveSums) move_sums[threadIdx.x] = totals[threadIdx.x];  // its own
  }
};

template <int kWarps, class Deal>
struct MoveSums<0, kWarps, Deal> {};

}  // namespace cuda
}  // namespace yfk
