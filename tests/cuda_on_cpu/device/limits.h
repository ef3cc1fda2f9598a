// What the modelled device has in common everywhere.
#pragma once

namespace cuda_on_cpu {

constexpr unsigned kWarp = 32, kMaxThreads = 1024;

// What fills memory that nobody has written to: NaN in every floating type, true as a bool, and an
// address that traps.
constexpr int kPoison = 0xff;

constexpr const char* kDeadlock = "part of a warp, or of a block, waits for ever";

}  // namespace cuda_on_cpu
