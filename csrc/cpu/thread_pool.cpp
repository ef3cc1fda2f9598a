#include "thread_pool.h"

#include <unistd.h>

#include <thread>

namespace yfk {

void ThreadPool::run(int threads, const std::function<void()>& body) {
  std::lock_guard<std::mutex> one_caller(caller_);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    for (; num_threads_ < threads - 1; ++num_threads_)
      std::thread(&ThreadPool::work, this, num_threads_, round_).detach();
    body_ = &body;
    busy_ = helpers_ = threads - 1;
    ++round_;
  }
  wake_.notify_all();
  body();
  std::unique_lock<std::mutex> lock(mutex_);
  done_.wait(lock, [this] { return busy_ == 0; });
}

// `seen` is the last round this thread has no part in; it is born before the next one begins.
void ThreadPool::work(int index, uint64_t seen) {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    wake_.wait(lock, [&] { return round_ != seen; });
    seen = round_;
    if (index >= helpers_) continue;
    lock.unlock();
    (*body_)();
    lock.lock();
    if (--busy_ == 0) done_.notify_one();
  }
}

// Never destroyed: its threads may outlive main.
ThreadPool& thread_pool() {
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

}  // namespace yfk
