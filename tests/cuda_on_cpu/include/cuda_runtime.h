// Stands in for CUDA's header of this name: as much of the language and the runtime as csrc/cuda
// uses, with kernels run by grid.h. Whatever is missing here fails to compile, which is the sign
// to add it.
#pragma once

#include <math.h>
#include <string.h>

#include <cstddef>
#include <cstdint>

#include "grid.h"

// The language -----------------------------------------------------------------------------------

#define __host__
#define __device__
#define __global__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __builtin_assume(condition) ((void)(condition))
#define __shared__ static thread_local

struct float2 {
  float x, y;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace cuda_on_cpu {
struct Index {
  unsigned x;
};
}  // namespace cuda_on_cpu
#define threadIdx (::cuda_on_cpu::Index{::cuda_on_cpu::here().thread})
#define blockDim (::cuda_on_cpu::Index{::cuda_on_cpu::here().threads})
#define blockIdx (::cuda_on_cpu::Index{::cuda_on_cpu::here().block})
#define gridDim (::cuda_on_cpu::Index{::cuda_on_cpu::here().blocks})

#define YFK_LAUNCH(kernel, grid, block, shared, stream, ...)                \
  do {                                                                      \
    ::cuda_on_cpu::require_current(stream);                                 \
    ::cuda_on_cpu::launch((grid), (block), [&] { (kernel)(__VA_ARGS__); }); \
  } while (0)

// Intrinsics -------------------------------------------------------------------------------------

#define __syncthreads() ::cuda_on_cpu::barrier(__FILE__, __LINE__)

// One host thread at a time: everybody sees every write at once.
inline void __threadfence() {}

namespace cuda_on_cpu {
template <class T>
T shuffled(unsigned mask, T x, unsigned from) {
  if (mask != 0xffffffffu) trap("a shuffle among part of a warp is not modelled");
  uint64_t bits = 0;
  memcpy(&bits, &x, sizeof x);
  bits = shuffle(bits, from);
  memcpy(&x, &bits, sizeof x);
  return x;
}
}  // namespace cuda_on_cpu

template <class T>
T __shfl_sync(unsigned mask, T x, unsigned lane) {
  return cuda_on_cpu::shuffled(mask, x, lane);
}
inline void __syncwarp() { cuda_on_cpu::shuffle(0, threadIdx.x % 32); }
// A lane that has none there keeps its own.
template <class T>
T __shfl_down_sync(unsigned mask, T x, unsigned delta) {
  const unsigned lane = threadIdx.x % 32, from = lane + delta;
  return cuda_on_cpu::shuffled(mask, x, from < 32 ? from : lane);
}

inline unsigned atomicInc(unsigned* address, unsigned last) {
  cuda_on_cpu::yield();
  const unsigned old = *address;
  *address = old >= last ? 0 : old + 1;
  cuda_on_cpu::yield();
  return old;
}

// Kernels ask this of every address they load from or store to, which makes it the place to see
// what a processor may let pass and a GPU does not.
template <class T>
bool __isGlobal(const T* p) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(T) != 0) cuda_on_cpu::trap("misaligned address");
  return true;
}

template <class T>
T __ldcs(const T* p) {
  __isGlobal(p);
  return *p;
}
template <class T>
T __ldcg(const T* p) {
  __isGlobal(p);
  return *p;
}
template <class T>
void __stcs(T* p, T x) {
  __isGlobal(p);
  *p = x;
}

inline int __float2int_rz(float x) { return int(x); }
inline float __uint_as_float(unsigned bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
inline unsigned __float_as_uint(float x) {
  unsigned bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

// The host's side --------------------------------------------------------------------------------

#define CUDART_VERSION 13000  // launches with arguments of up to 32,764 bytes

enum cudaError_t { cudaSuccess = 0, cudaErrorInsufficientDriver = 35, cudaErrorNoDevice = 100 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };
using cudaStream_t = struct CUstream_st*;

namespace cuda_on_cpu {
// The runtime of a machine with some devices. A check may have every call fail.
struct Runtime {
  int devices = 2, current = 0;
  cudaError_t answer = cudaSuccess;
  cudaError_t untold = cudaSuccess;  // what cudaGetLastError will say

  cudaError_t answered() {
    if (answer != cudaSuccess) untold = answer;
    return answer;
  }
};
inline Runtime runtime;

// A stream of a device: its handle is the ordinal, and null a stream of the device that is current.
inline cudaStream_t stream_on(int device) {
  return reinterpret_cast<cudaStream_t>(uintptr_t(device));
}
inline void require_current(cudaStream_t stream) {
  if (stream != nullptr && stream != stream_on(runtime.current))
    trap("a launch on a stream of another device than the current one");
}
}  // namespace cuda_on_cpu

inline const char* cudaGetErrorName(cudaError_t status) {
  return status == cudaErrorNoDevice ? "cudaErrorNoDevice" : "cudaErrorInsufficientDriver";
}
inline const char* cudaGetErrorString(cudaError_t status) {
  return status == cudaErrorNoDevice ? "no device" : "the driver is too old";
}
inline cudaError_t cudaGetLastError() {
  const cudaError_t last = cuda_on_cpu::runtime.untold;
  cuda_on_cpu::runtime.untold = cudaSuccess;
  return last;
}

inline cudaError_t cudaSetDevice(int device) {
  const cudaError_t status = cuda_on_cpu::runtime.answered();
  if (status == cudaSuccess) cuda_on_cpu::runtime.current = device;
  return status;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = cuda_on_cpu::runtime.current;
  return cuda_on_cpu::runtime.answered();
}
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = cuda_on_cpu::runtime.devices;
  return cuda_on_cpu::runtime.answered();
}

// Devices of six blocks: few enough that each of them has to stride over the chunks.
inline cudaError_t cudaDeviceGetAttribute(int* multiprocessors, cudaDeviceAttr, int) {
  *multiprocessors = 3;
  return cudaSuccess;
}
inline cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int,
                                                                 size_t) {
  *blocks = 2;
  return cudaSuccess;
}
