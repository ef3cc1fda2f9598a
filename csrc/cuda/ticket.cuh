// Who comes last: the one who may work with what all others have left.
#pragma once

#include <cuda_runtime.h>

namespace yfk {
namespace cuda {

// True for the thread that arrives last of `count` at a ticket, once it can see what the others
// wrote before they came. The ticket goes back to zero by itself.
__device__ __forceinline__ bool thread_arrives_last(unsigned* ticket, unsigned count) {
  __threadfence();
  const bool last = atomicInc(ticket, count - 1) == count - 1;
  __threadfence();
  return last;
}

// True in every thread of the block of a grid that arrives last, once it can see what the others
// wrote.
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
