#include "fibers.h"

#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

namespace cuda_on_cpu {
namespace {

constexpr unsigned kWarp = 32, kMaxThreads = 1024;
constexpr size_t kStack = 128 << 10;  // bytes; only the pages that a kernel touches cost memory

enum class State { kReady, kAtBarrier, kInShuffle, kDone };

struct Fiber {
  ucontext_t context;
  State state = State::kReady;
  uint64_t value = 0;  // what it gives to a shuffle, then what it gets
  unsigned delta = 0;
};

// Kept from block to block: making them is slow.
char* stack_of(unsigned thread) {
  static std::vector<std::unique_ptr<char[]>> stacks(kMaxThreads);
  if (!stacks[thread]) stacks[thread].reset(new char[kStack]);
  return stacks[thread].get();
}

// The numbers below n, as the schedule has them.
std::vector<unsigned> turns(unsigned n, unsigned salt) {
  std::vector<unsigned> order(n);
  std::iota(order.begin(), order.end(), 0u);
  if (schedule.order == Order::kReverse) std::reverse(order.begin(), order.end());
  if (schedule.order == Order::kRandom)
    std::shuffle(order.begin(), order.end(), std::minstd_rand(schedule.seed + salt));
  return order;
}

class Block {
 public:
  Block(unsigned index, unsigned blocks, unsigned threads, const std::function<void()>& kernel)
      : kernel_(kernel), fibers_(threads), place_{0, threads, index, blocks} {}

  void run();

  // For the running thread.
  const Place& place() const { return place_; }
  Fiber& self() { return fibers_[place_.thread]; }
  void leave(State state) {
    Fiber& fiber = self();
    fiber.state = state;
    swapcontext(&fiber.context, &scheduler_);
  }

 private:
  static void start();
  void prepare(unsigned thread);
  bool end_shuffles();
  bool end_barrier();

  const std::function<void()>& kernel_;
  std::vector<Fiber> fibers_;
  Place place_;
  ucontext_t scheduler_;
};

Block* running = nullptr;

void Block::start() {
  running->kernel_();
  running->leave(State::kDone);
}

void Block::prepare(unsigned thread) {
  ucontext_t& context = fibers_[thread].context;
  getcontext(&context);
  context.uc_stack.ss_sp = stack_of(thread);
  context.uc_stack.ss_size = kStack;
  context.uc_link = nullptr;
  makecontext(&context, &Block::start, 0);
}

void Block::run() {
  for (unsigned t = 0; t < place_.threads; ++t) prepare(t);
  const std::vector<unsigned> order = turns(place_.threads, 1 + place_.block);
  do {
    for (const unsigned t : order) {
      if (fibers_[t].state != State::kReady) continue;
      place_.thread = t;
      swapcontext(&scheduler_, &fibers_[t].context);
    }
  } while (end_shuffles() || end_barrier());
}

// Lets every warp go on whose lanes all wait for each other; tells whether there was one.
bool Block::end_shuffles() {
  bool any = false;
  for (auto warp = fibers_.begin(); warp != fibers_.end(); warp += kWarp) {
    const auto in_shuffle = [](const Fiber& f) { return f.state == State::kInShuffle; };
    if (!std::all_of(warp, warp + kWarp, in_shuffle)) continue;
    any = true;
    uint64_t given[kWarp];
    for (unsigned lane = 0; lane < kWarp; ++lane) given[lane] = warp[lane].value;
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      const unsigned from = lane + warp[lane].delta;
      warp[lane].value = given[from < kWarp ? from : lane];
      warp[lane].state = State::kReady;
    }
  }
  return any;
}

// The same for a barrier that all threads have reached which are not done.
bool Block::end_barrier() {
  bool any = false;
  for (Fiber& fiber : fibers_) {
    if (fiber.state == State::kInShuffle) trap("part of a warp waits in a shuffle for ever");
    if (fiber.state != State::kAtBarrier) continue;
    any = true;
    fiber.state = State::kReady;
  }
  return any;
}

}  // namespace

void launch(unsigned blocks, unsigned threads, const std::function<void()>& kernel) {
  if (blocks == 0) trap("a grid without blocks");
  if (threads == 0 || threads > kMaxThreads) trap("1 to 1024 threads make a block");
  if (threads % kWarp != 0) trap("blocks of broken warps are not modelled");
  for (const unsigned b : turns(blocks, 0)) {
    Block block(b, blocks, threads, kernel);
    running = &block;
    block.run();
  }
  running = nullptr;
}

const Place& here() { return running->place(); }

void barrier() { running->leave(State::kAtBarrier); }

uint64_t shuffle_down(uint64_t value, unsigned delta) {
  Fiber& fiber = running->self();
  fiber.value = value;
  fiber.delta = delta;
  running->leave(State::kInShuffle);
  return fiber.value;
}

void trap(const char* reason) {
  std::fprintf(stderr, "trap: %s", reason);
  if (running) std::fprintf(stderr, " (block %u, thread %u)", here().block, here().thread);
  std::fprintf(stderr, "\n");
  std::abort();
}

}  // namespace cuda_on_cpu
