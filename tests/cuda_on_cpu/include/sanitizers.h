// AddressSanitizer's interface, or as much of nothing where the program is built without it.
#pragma once

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
constexpr bool kAddressSanitizer = true;
#else
constexpr bool kAddressSanitizer = false;
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)0)
#define __sanitizer_start_switch_fiber(...) ((void)0)
#define __sanitizer_finish_switch_fiber(...) ((void)0)
#endif
