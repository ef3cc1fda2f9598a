// One block: its threads are fibers of the host thread that calls it.
#pragma once

#include <functional>
#include <random>
#include <vector>

#include "device/fiber.h"
#include "grid.h"

namespace cuda_on_cpu {

using Random = std::minstd_rand;

// The numbers below n in the order of the schedule.
std::vector<unsigned> in_order(unsigned n, Random& random);

class Block {
 public:
  Block(unsigned index, unsigned blocks, unsigned threads, const std::function<void()>& kernel);

  // Gives it stacks and fresh shared memory.
  void start(Stacks& stacks);
  // At most `limit` threads that can go on do, each until it has to wait. False when none could.
  bool turn(unsigned limit);
  // Turns until all threads are at their end.
  void finish();

  bool done() const { return ended_ == fibers_.size(); }

  // Lets only a few threads go beyond that many barriers: the first in order, in random order some.
  void stall(unsigned after);
  void end_stall() { stalling_ = false; }

  // For the running thread.
  const Place& place() const { return place_; }
  void wait_at(const char* file, int line);
  uint64_t shuffle(uint64_t value, unsigned from);
  void yield() { leave(State::kReady); }

 private:
  enum class State { kReady, kAtBarrier, kInShuffle, kDone };

  struct Fiber {
    Context context;
    State state = State::kReady;
    bool leads = false;          // goes on while the block stalls
    uint64_t value = 0;          // what it gives to a shuffle, then what it gets
    unsigned from = 0;           // the lane whose value that is
    const char* file = nullptr;  // the barrier where it waits
    int line = 0;
  };

  static void enter();
  void leave(State state);
  bool may_go(const Fiber& fiber) const;
  bool end_shuffles();
  bool end_barrier();

  const std::function<void()>& kernel_;
  std::vector<Fiber> fibers_;
  Place place_;
  Context host_;
  Random random_;
  unsigned ended_ = 0, barriers_ = 0, stall_after_ = 0;
  bool stalling_ = false;
};

// The block whose threads run.
inline Block* running = nullptr;

}  // namespace cuda_on_cpu
