#include "device/block.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "device/host_thread.h"
#include "device/limits.h"

namespace cuda_on_cpu {

std::vector<unsigned> in_order(unsigned n, Random& random) {
  std::vector<unsigned> numbers(n);
  std::iota(numbers.begin(), numbers.end(), 0u);
  if (schedule.order == Order::kReverse) std::reverse(numbers.begin(), numbers.end());
  if (schedule.order == Order::kRandom) std::shuffle(numbers.begin(), numbers.end(), random);
  return numbers;
}

Block::Block(unsigned index, unsigned blocks, unsigned threads, const std::function<void()>& kernel)
    : kernel_(kernel), fibers_(threads), place_{0, threads, index, blocks},
      random_(schedule.seed + 1 + index) {}

void Block::start(Stacks& stacks) {
  poison_shared_memory();
  for (unsigned t = 0; t < place_.threads; ++t)
    stacks.prepare(&fibers_[t].context, t, &Block::enter);
}

void Block::enter() {
  enter_fiber(&running->host_);
  running->kernel_();
  ++running->ended_;
  running->leave(State::kDone);
}

void Block::leave(State state) {
  Fiber& fiber = fibers_[place_.thread];
  fiber.state = state;
  switch_context(&fiber.context, &host_, state == State::kDone);
}

void Block::stall(unsigned after) {
  stalling_ = true;
  stall_after_ = after;
  const std::vector<unsigned> order = in_order(place_.threads, random_);
  const unsigned leaders =
      schedule.order == Order::kRandom ? 1 + random_() % (place_.threads - 1) : 1;
  for (unsigned i = 0; i < leaders; ++i) fibers_[order[i]].leads = true;
}

bool Block::may_go(const Fiber& fiber) const {
  return fiber.state == State::kReady && (!stalling_ || barriers_ < stall_after_ || fiber.leads);
}

bool Block::turn(unsigned limit) {
  running = this;
  unsigned gone = 0;
  for (const unsigned t : in_order(place_.threads, random_)) {
    if (!may_go(fibers_[t])) continue;
    place_.thread = t;
    switch_context(&host_, &fibers_[t].context);
    if (++gone == limit) break;
  }
  return end_shuffles() || end_barrier() || gone > 0;
}

void Block::finish() {
  while (!done())
    if (!turn(place_.threads)) trap(kDeadlock);
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
      warp[lane].value = given[warp[lane].from];
      warp[lane].state = State::kReady;
    }
  }
  return any;
}

// The same for a barrier that all threads have reached which are not done.
bool Block::end_barrier() {
  const Fiber* first = nullptr;
  for (const Fiber& fiber : fibers_) {
    if (fiber.state == State::kDone) continue;
    if (fiber.state != State::kAtBarrier) return false;
    if (!first) first = &fiber;
    if (fiber.line != first->line || std::strcmp(fiber.file, first->file) != 0)
      trap("the threads of a block wait at different barriers");
  }
  if (!first) return false;
  ++barriers_;
  for (Fiber& fiber : fibers_)
    if (fiber.state == State::kAtBarrier) fiber.state = State::kReady;
  return true;
}

void Block::wait_at(const char* file, int line) {
  Fiber& fiber = fibers_[place_.thread];
  fiber.file = file;
  fiber.line = line;
  leave(State::kAtBarrier);
}

uint64_t Block::shuffle(uint64_t value, unsigned from) {
  Fiber& fiber = fibers_[place_.thread];
  fiber.value = value;
  fiber.from = from;
  leave(State::kInShuffle);
  return fiber.value;
}

}  // namespace cuda_on_cpu
