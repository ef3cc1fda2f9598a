// What the threads of a block do together: sums, in an order that never changes, and finding out
// which block is the last to have summed.
#pragma once

#include "ticket.cuh"
#include "warp.cuh"

namespace yfk {
namespace cuda {

// totals[i] = sum of values[i] over the block; written by the block's first kCount threads.
template <int kCount>
__device__ __forceinline__ void block_sum(const double (&values)[kCount], double* totals) {
  __shared__ double warps[1024 / kWarp][kCount];
  const int warp = threadIdx.x / kWarp;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const double x = warp_sum(values[i]);
    if (threadIdx.x % kWarp == 0) warps[warp][i] = x;
  }
  __syncthreads();
  if (threadIdx.x < kCount) {
    double total = 0.0;
    for (int w = 0; w < int(blockDim.x) / kWarp; ++w) total += warps[w][threadIdx.x];
    totals[threadIdx.x] = total;
  }
}

// True in every thread of the block that arrives last of a grid's, once it can see what the others
// wrote. The ticket goes back to zero by itself.
__device__ __forceinline__ bool block_arrives_last(unsigned* ticket) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = thread_arrives_last(ticket, gridDim.x);
  __syncthreads();
  __threadfence();
  return last;
}

}  // namespace cuda
}  // namespace yfk
