#include "thread_pool.h"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace yfk {
namespace {

// Why not OpenMP: PyTorch brings its own copy of the runtime, and two of them in one process each
// keep a set of spinning threads.
class ThreadPool {
 public:
  void run(int64_t num_items, int helpers, const std::function<void(int64_t)>& body) {
    std::lock_guard<std::mutex> one_caller(caller_);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      for (; num_threads_ < helpers; ++num_threads_)
        std::thread(&ThreadPool::work, this, num_threads_, round_).detach();
      body_ = &body;
      num_items_ = num_items;
      next_.store(0);
      helpers_ = helpers;
      busy_ = helpers;
      ++round_;
    }
    wake_.notify_all();
    take_items();
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return busy_ == 0; });
  }

 private:
  void take_items() {
    for (int64_t i = next_++; i < num_items_; i = next_++) (*body_)(i);
  }

  // `seen` is the last round this thread has no part in; it is born before the next one begins.
  void work(int index, uint64_t seen) {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return round_ != seen; });
      seen = round_;
      if (index >= helpers_) continue;
      lock.unlock();
      take_items();
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  std::mutex caller_, mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(int64_t)>* body_ = nullptr;
  int64_t num_items_ = 0;
  std::atomic<int64_t> next_{0};
  int num_threads_ = 0, helpers_ = 0, busy_ = 0;
  uint64_t round_ = 0;
};

// Never destroyed: its threads may outlive main. A forked child has the object but none of its
// threads, so it starts a pool of its own.
ThreadPool& pool() {
  static std::mutex mutex;
  static ThreadPool* instance = nullptr;
  static pid_t owner = 0;
  std::lock_guard<std::mutex> lock(mutex);
  if (!instance || owner != getpid()) {
    instance = new ThreadPool;
    owner = getpid();
  }
  return *instance;
}

}  // namespace

void parallel_for(int64_t num_items, int threads, const std::function<void(int64_t)>& body) {
  const int64_t helpers = (threads < num_items ? threads : num_items) - 1;
  if (helpers < 1) {
    for (int64_t i = 0; i < num_items; ++i) body(i);
    return;
  }
  pool().run(num_items, int(helpers), body);
}

}  // namespace yfk
