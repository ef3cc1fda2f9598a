// What can be asked about devices without launching anything.
#include <map>
#include <mutex>
#include <utility>

#include "launch.h"

namespace yfk {
namespace cuda {

int device_count(const char** reason) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) {
    *reason = "";
    return count;
  }
  cudaGetLastError();  // no driver, no device: an answer here, not an error for the next launch
  *reason = cudaGetErrorString(status == cudaSuccess ? cudaErrorNoDevice : status);
  return 0;
}

int resident_blocks(const void* kernel, int block, int device) {
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, int> known;  // asked once: the answer is slow to get
  const std::lock_guard<std::mutex> lock(mutex);
  int& blocks = known[{kernel, device}];
  if (blocks == 0) {
    int per_multiprocessor = 0, multiprocessors = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, kernel, block, 0),
          "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
    check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
          "cudaDeviceGetAttribute");
    blocks = per_multiprocessor * multiprocessors;
  }
  return blocks;
}

}  // namespace cuda
}  // namespace yfk
