// Words from the host into a strided place on the device, carried by kernel arguments.
#include "launch.h"

namespace yfk {
namespace cuda {
namespace {

// The arguments of a launch may fill 32,764 bytes if toolkit (12.1) and driver (530) are at least
// that new, and 4 KB otherwise. The driver is not asked: what a toolkit of 12.1 or newer has built
// needs one of 530 or newer.
constexpr int kRoom = CUDART_VERSION >= 12010 ? 32764 : 4096;

// A few words, and the most that one launch takes. A launch copies all of its arguments, used or
// not: most models have fewer tensors than the small one carries.
constexpr int kFew = 480, kMany = kRoom > 4096 ? 4000 : kFew;

// The words sit in constant memory, which serves the threads of a warp one after the other where
// they want different ones: a block takes few, so that several multiprocessors share the reading.
constexpr int kBlock = 128;

template <int kWords>
struct Words {
  int64_t at[kWords];
};

template <int kWords>
__global__ void __launch_bounds__(kBlock)
    write_words_kernel(int64_t* destination, int64_t stride, int count,
                       const __grid_constant__ Words<kWords> words) {
  const int i = int(blockIdx.x) * kBlock + int(threadIdx.x);
  if (i < count) destination[i * stride] = words.at[i];
}

template <int kWords>
void launch(int64_t* destination, int64_t stride, const int64_t* words, int count,
            const Queue& queue) {
  // all arguments, with the padding after count
  static_assert(sizeof(destination) + sizeof(stride) + sizeof(int64_t) + sizeof(Words<kWords>) <=
                kRoom);
  Words<kWords> some = {};
  for (int i = 0; i < count; ++i) some.at[i] = words[i];
  YFK_LAUNCH((write_words_kernel<kWords>), (count + kBlock - 1) / kBlock, kBlock, 0,
             stream_of(queue), destination, stride, count, some);
}

}  // namespace

void write_words(int64_t* destination, int64_t stride, const int64_t* words, int64_t count,
                 Queue queue) {
  const DeviceGuard guard(queue.device);
  for (int64_t done = 0; done < count; done += kMany) {
    const int n = int(count - done < kMany ? count - done : kMany);
    const auto write = n <= kFew ? launch<kFew> : launch<kMany>;
    write(destination + done * stride, stride, words + done, n, queue);
  }
}

}  // namespace cuda
}  // namespace yfk
