#include "device/host_thread.h"

#include <link.h>

#include <cstring>

#include "device/limits.h"

namespace cuda_on_cpu {

HostThread::~HostThread() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void HostThread::run(const std::function<void()>& work) {
  std::unique_lock<std::mutex> lock(mutex_);
  work_ = &work;
  changed_.notify_all();
  changed_.wait(lock, [this] { return !work_; });
}

void HostThread::serve() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return work_ || ending_; });
    if (!work_) return;
    (*work_)();
    work_ = nullptr;
    changed_.notify_all();
  }
}

void poison_shared_memory() {
  const auto poison = [](dl_phdr_info* program, size_t, void*) {
    for (int i = 0; i < program->dlpi_phnum; ++i) {
      const auto& segment = program->dlpi_phdr[i];
      if (segment.p_type == PT_TLS && program->dlpi_tls_data)
        std::memset(program->dlpi_tls_data, kPoison, segment.p_memsz);
    }
    return 1;  // the program itself comes first; leave the libraries alone
  };
  dl_iterate_phdr(poison, nullptr);
}

}  // namespace cuda_on_cpu
