// What every launch on the host side shares: the device it is meant for, and errors that say which
// kernel failed.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "driver.h"

namespace yfk {
namespace cuda {

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // it is told here: the next launch must not find it again
  throw std::runtime_error(std::string("yfkernels: ") + what + ": " + cudaGetErrorName(status) +
                           " (" + cudaGetErrorString(status) + ")");
}

// Makes a device the current one while it lives.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&previous_), "cudaGetDevice");
    changed_ = device != previous_;
    if (changed_) check(cudaSetDevice(device), "cudaSetDevice");
  }
  ~DeviceGuard() {
    if (changed_ && cudaSetDevice(previous_) != cudaSuccess) cudaGetLastError();
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

inline cudaStream_t stream_of(const Queue& queue) {
  return static_cast<cudaStream_t>(queue.stream);
}

// Blocks that fill a device: multiprocessors times the blocks of `kernel` that fit on each.
int resident_blocks(const void* kernel, int block, int device);

}  // namespace cuda
}  // namespace yfk

// Every launch goes through this macro, so that a test can run the kernels where there is no GPU.
// A kernel whose name holds a comma goes in parentheses.
#ifndef YFK_LAUNCH
#define YFK_LAUNCH(kernel, grid, block, shared, stream, ...)    \
  do {                                                          \
    kernel<<<(grid), (block), (shared), (stream)>>>(__VA_ARGS__); \
    ::yfk::cuda::check(cudaGetLastError(), #kernel);            \
  } while (0)
#endif
