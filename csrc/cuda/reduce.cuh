// Sums over a block, in an order that never changes.
#pragma once

#include "warp.cuh"

namespace yfk {
namespace cuda {

// totals[i] = sum of values[i] over the block; written by the block's first kCount threads. Once in
// a kernel: nothing keeps a second call off the shared memory that the first is still reading.
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

}  // namespace cuda
}  // namespace yfk
