#include "pages.h"

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace yfk {
namespace cpu {

void prefer_huge_pages(void* address, int64_t bytes) {
#if defined(__linux__)
  const uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE));
  const uintptr_t first = (reinterpret_cast<uintptr_t>(address) + page - 1) / page * page;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(address) + uintptr_t(bytes)) / page * page;
  // a refusal costs speed and nothing else
  if (first < last) (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)address;
  (void)bytes;
#endif
}

}  // namespace cpu
}  // namespace yfk
