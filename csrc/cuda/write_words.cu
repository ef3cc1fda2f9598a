// Words from the host into a strided place on the device, carried by kernel arguments.
#include "launch.h"

namespace yfk {
namespace cuda {
namespace {

constexpr int kWords = 480;  // of the 4 KB that the arguments of a launch may fill

struct Words {
  int64_t at[kWords];
};

__global__ void __launch_bounds__(kWords)
    write_words_kernel(int64_t* destination, int64_t stride, int count,
                       const __grid_constant__ Words words) {
  const int i = threadIdx.x;
  if (i < count) destination[i * stride] = words.at[i];
}

}  // namespace

void write_words(int64_t* destination, int64_t stride, const int64_t* words, int64_t count,
                 Queue queue) {
  const DeviceGuard guard(queue.device);
  for (int64_t done = 0; done < count; done += kWords) {
    Words some = {};
    const int n = int(count - done < kWords ? count - done : kWords);
    for (int i = 0; i < n; ++i) some.at[i] = words[done + i];
    YFK_LAUNCH(write_words_kernel, 1, kWords, 0, stream_of(queue), destination + done * stride,
               stride, n, some);
  }
}

}  // namespace cuda
}  // namespace yfk
