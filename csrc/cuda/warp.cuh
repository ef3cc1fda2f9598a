// What the threads of a warp do together.
#pragma once

#include <cuda_runtime.h>

namespace yfk {
namespace cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// The calling thread's warp in its block, as lane 0 says it: so the compiler knows that all lanes
// agree, and on branches that follow from it keeps them together, at no cost in registers.
__device__ __forceinline__ int warp_index() {
  return __shfl_sync(kAllLanes, int(threadIdx.x / kWarp), 0);
}

// The sum of x over a warp, in lane 0; in an order that never changes.
__device__ __forceinline__ double warp_sum(double x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x += __shfl_down_sync(kAllLanes, x, offset);
  return x;
}

// The largest x of a warp, in lane 0.
__device__ __forceinline__ double warp_max(double x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    x = fmax(x, __shfl_down_sync(kAllLanes, x, offset));
  return x;
}

// What lane `from` has, to the whole warp.
__device__ __forceinline__ double given_by(int from, double x) {
  return __shfl_sync(kAllLanes, x, from);
}

// What lane `from` knows, to the whole warp, with what that lane has seen of memory.
__device__ __forceinline__ bool told_by(int from, bool known) {
  const int told = __shfl_sync(kAllLanes, int(known), from);
  __syncwarp();
  return told != 0;
}

}  // namespace cuda
}  // namespace yfk
