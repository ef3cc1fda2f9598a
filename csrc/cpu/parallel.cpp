#include "parallel.h"

#include <dlfcn.h>
#include <unistd.h>

#include <atomic>

#include "thread_pool.h"

namespace yfk {
namespace {

// PyTorch runs its CPU operators on a team of OpenMP threads, which go on spinning for milliseconds
// after each of them. Threads of our own would share the cores with those for most of a step
// (bench/NOTES.md). So we call the runtime that is already in the process and are given the same
// threads. Linking with OpenMP would not do: wheels of PyTorch may carry a copy of the runtime under
// a name of their own, and ours would be a second one. GOMP_parallel, which runs `body` on every
// thread of a team, is the entry point of GCC's runtime; LLVM's and Intel's have it too.
using OpenMPParallel = void (*)(void (*body)(void*), void* data, unsigned threads, unsigned flags);

// A forked child inherits the runtime but none of its threads, and would wait for them forever.
const pid_t loaded_in = getpid();

OpenMPParallel openmp_parallel() {
  static const auto found = reinterpret_cast<OpenMPParallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  return getpid() == loaded_in ? found : nullptr;
}

struct Items {
  int64_t count;
  const std::function<void(int64_t)>& body;
  std::atomic<int64_t> next{0};

  void take() {
    for (int64_t i = next++; i < count; i = next++) body(i);
  }
};

}  // namespace

void parallel_for(int64_t num_items, int threads, const std::function<void(int64_t)>& body) {
  if (num_items < threads) threads = int(num_items);
  Items items{num_items, body};
  if (threads <= 1) {
    items.take();
  } else if (const OpenMPParallel parallel = openmp_parallel()) {
    parallel([](void* data) { static_cast<Items*>(data)->take(); }, &items, unsigned(threads), 0);
  } else {
    thread_pool().run(threads, [&items] { items.take(); });
  }
}

std::string thread_source() {
  Dl_info library;
  const OpenMPParallel parallel = openmp_parallel();
  if (!parallel || !dladdr(reinterpret_cast<void*>(parallel), &library)) return "own threads";
  const std::string path = library.dli_fname;
  return path.substr(path.rfind('/') + 1);
}

}  // namespace yfk
