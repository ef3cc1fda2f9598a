// A grid of CUDA threads on one thread of the host.
//
// The threads of a block are fibers: each runs until it meets a barrier or a shuffle, then the next
// one has its turn. Blocks run one after another, so a block that waits for another would wait
// forever. In which order all of them run is up to the test; no result may depend on it.
#pragma once

#include <cstdint>
#include <functional>

namespace cuda_on_cpu {

enum class Order { kForward, kReverse, kRandom };

// The order of the blocks, and of a block's threads between two places where they wait.
struct Schedule {
  Order order = Order::kForward;
  unsigned seed = 0;
};
inline Schedule schedule;

// Calls kernel() once in every thread of the grid. `threads` is a multiple of 32.
void launch(unsigned blocks, unsigned threads, const std::function<void()>& kernel);

// For the running thread -------------------------------------------------------------------------

struct Place {
  unsigned thread, threads, block, blocks;
};
const Place& here();

// Returns when every thread of the block that has not ended is here.
void barrier();

// The value that the lane `delta` further on gives; its own for lanes that have none there. All 32
// lanes of the warp take part.
uint64_t shuffle_down(uint64_t value, unsigned delta);

// Ends the program: what a GPU would not do, or would trap on.
[[noreturn]] void trap(const char* reason);

}  // namespace cuda_on_cpu
