// A few parked threads, for a process without OpenMP.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>

namespace yfk {

class ThreadPool {
 public:
  // Runs `body` once on the caller's thread and once on each of `threads` - 1 parked ones; returns
  // when all have returned. One caller at a time, the others wait.
  void run(int threads, const std::function<void()>& body);

 private:
  void work(int index, uint64_t seen);

  std::mutex caller_, mutex_;
  std::condition_variable wake_, done_;
  const std::function<void()>* body_ = nullptr;
  int num_threads_ = 0, helpers_ = 0, busy_ = 0;
  uint64_t round_ = 0;
};

// The process's pool. A forked child has none of its parent's threads and gets a pool of its own.
ThreadPool& thread_pool();

}  // namespace yfk
