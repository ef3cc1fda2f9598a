// A thread of the host that works on demand.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace cuda_on_cpu {

class HostThread {
 public:
  HostThread() : thread_([this] { serve(); }) {}
  ~HostThread();
  HostThread(const HostThread&) = delete;
  HostThread& operator=(const HostThread&) = delete;

  // Runs `work` on the thread and returns when it is done: two of them never run at once.
  void run(const std::function<void()>& work);

 private:
  void serve();

  std::mutex mutex_;
  std::condition_variable changed_;
  const std::function<void()>* work_ = nullptr;
  bool ending_ = false;
  std::thread thread_;  // the last member: it uses the others
};

// Fills the calling thread's `__shared__` variables with kPoison. They are the program's only
// thread_local ones, and lie in one piece.
void poison_shared_memory();

}  // namespace cuda_on_cpu
