// Asks the operating system for large pages.
#pragma once

#include <cstdint>

namespace yfk {
namespace cpu {

// A hint for memory that will be streamed through in every step, given before it is first touched:
// a pass over 4 KiB pages is held up by address translation as much as by the memory itself.
void prefer_huge_pages(void* address, int64_t bytes);

}  // namespace cpu
}  // namespace yfk
