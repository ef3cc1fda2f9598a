// What a rule gauges in a pass: from a block's threads to one sum a chunk, and then to one of the table.
#pragma once

#include "chunks.cuh"
#include "reduce.cuh"
#include "ticket.cuh"

namespace yfk {
namespace cuda {

// In shared memory; Deal: how chunks are dealt out to kWarps warps.
template <int kGauges, int kWarps, class Deal>
struct Gauges {
  double ranks[kBatch][kWarps][kGauges];  // of a batch of chunks
  double totals[kGauges];

  // A thread's sums over its share of the batch's chunk k. By all lanes of a warp.
  __device__ __forceinline__ void add(int k, int rank, const float* sums) {
    for (int i = 0; i < kGauges; ++i) {
      const double sum = warp_sum(double(sums[i]));
      if (threadIdx.x % kWarp == 0) ranks[k][rank][i] = sum;
    }
  }

  // chunk_gauges[chunk][kGauges]; own: the piece that thread k has opened, null for the others.
  __device__ __forceinline__ void end_batch(const Piece* own, double* chunk_gauges) const {
    __syncthreads();  // all warps' sums are there
    if (!own) return;
    for (int i = 0; i < kGauges; ++i) {
      double sum = 0.0;  // of a tensor without a gradient
      for (int r = 0; r < Deal::shares(own->n); ++r) sum += ranks[threadIdx.x][r][i];
      chunk_gauges[own->chunk * kGauges + i] = sum;
    }
  }

  // By the block that is done last, in an order that depends on the number of chunks alone.
  __device__ __forceinline__ void end_table(const double* chunk_gauges, int64_t num_chunks,
                                            unsigned* ticket, double* gauges) {
    if (!block_arrives_last(ticket)) return;
    double sums[kGauges] = {};
    for (int64_t chunk = threadIdx.x; chunk < num_chunks; chunk += kWarps * kWarp)
      for (int i = 0; i < kGauges; ++i) sums[i] += __ldcg(chunk_gauges + chunk * kGauges + i);
    block_sum(sums, totals);
    if (threadIdx.x < kGauges) gauges[threadIdx.x] = totals[threadIdx.x];  // its own
  }
};

template <int kWarps, class Deal>
struct Gauges<0, kWarps, Deal> {};

}  // namespace cuda
}  // namespace yfk
