// A grid of CUDA threads on the processor.
//
// The threads of a block are fibers of one host thread: each runs until it has to wait, or meets an
// atomic, then another has its turn. Every block has a host thread of its own, so that `__shared__`
// can be thread_local, but only one host thread runs at a time: a run depends on nothing but the
// schedule, and no result may depend on that.
#pragma once

#include <cstdint>
#include <functional>

namespace cuda_on_cpu {

// How the blocks of a grid share the time.
enum class Blocks {
  kAlone,    // one after another
  kTurns,    // all are under way, and have their turns
  kStalled,  // all but one stand still in the middle while that one runs from its start to its end
};

// Of the blocks, and of a block's threads between two places where they wait.
enum class Order { kForward, kReverse, kRandom };

struct Schedule {
  Blocks blocks = Blocks::kAlone;
  Order order = Order::kForward;
  unsigned stall_after = 0;  // kStalled: the barriers that a block passes before it stalls
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

// Returns when every thread of the block that has not ended is here: at this very line.
void barrier(const char* file, int line);

// The value that lane `from` of the warp gives. All 32 lanes take part.
uint64_t shuffle(uint64_t value, unsigned from);

// Lets others go first.
void yield();

// Ends the program: what a GPU would not do, or would trap on.
[[noreturn]] void trap(const char* reason);

}  // namespace cuda_on_cpu
