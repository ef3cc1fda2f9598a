#include "grid.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "device/block.h"
#include "device/host_thread.h"
#include "device/limits.h"

namespace cuda_on_cpu {
namespace {

// Where a block runs. Kept from launch to launch: making them is slow.
struct Seat {
  HostThread host;
  Stacks stacks;
};

Seat& seat_of(unsigned block) {
  static std::vector<std::unique_ptr<Seat>> seats;
  while (seats.size() <= block) seats.push_back(std::make_unique<Seat>());
  return *seats[block];
}

// The barrier that a test has taken away, "chunks.cuh:87"; nothing for none.
bool is_missing(const char* file, int line) {
  static const char* const variable = std::getenv("YFK_MISSING_BARRIER");
  static const std::string missing = variable ? variable : "";
  if (missing.empty()) return false;
  const std::string path = file;
  return path.substr(path.rfind('/') + 1) + ":" + std::to_string(line) == missing;
}

class Grid {
 public:
  Grid(unsigned blocks, unsigned threads, const std::function<void()>& kernel)
      : threads_(threads), random_(schedule.seed), order_(in_order(blocks, random_)) {
    for (unsigned b = 0; b < blocks; ++b)
      blocks_.push_back(std::make_unique<Block>(b, blocks, threads, kernel));
  }

  void run_alone() {
    for (const unsigned b : order_)
      seat_of(b).host.run([&] {
        blocks_[b]->start(seat_of(b).stacks);
        blocks_[b]->finish();
      });
  }

  void run_in_turns() {
    for (const unsigned b : order_)
      seat_of(b).host.run([&] { blocks_[b]->start(seat_of(b).stacks); });
    for (bool any = true; any;) {
      any = false;
      for (const unsigned b : in_order(unsigned(blocks_.size()), random_)) {
        Block& block = *blocks_[b];
        if (block.done()) continue;
        any = true;
        const bool part = schedule.order == Order::kRandom;
        const unsigned limit = part ? 1 + random_() % threads_ : threads_;
        seat_of(b).host.run([&] {
          if (!block.turn(limit)) trap(kDeadlock);
        });
      }
    }
  }

  void run_stalled() {
    const unsigned free = order_.back();
    order_.pop_back();
    for (const unsigned b : order_)
      seat_of(b).host.run([&] {
        blocks_[b]->start(seat_of(b).stacks);
        blocks_[b]->stall(schedule.stall_after);
        while (blocks_[b]->turn(threads_)) {
        }
      });
    seat_of(free).host.run([&] {
      blocks_[free]->start(seat_of(free).stacks);
      blocks_[free]->finish();
    });
    for (const unsigned b : order_)
      seat_of(b).host.run([&] {
        blocks_[b]->end_stall();
        blocks_[b]->finish();
      });
  }

 private:
  unsigned threads_;
  Random random_;
  std::vector<unsigned> order_;
  std::vector<std::unique_ptr<Block>> blocks_;
};

}  // namespace

void launch(unsigned blocks, unsigned threads, const std::function<void()>& kernel) {
  if (blocks == 0) trap("a grid without blocks");
  if (threads == 0 || threads > kMaxThreads) trap("1 to 1024 threads make a block");
  if (threads % kWarp != 0) trap("blocks of broken warps are not modelled");
  Grid grid(blocks, threads, kernel);
  switch (schedule.blocks) {
    case Blocks::kAlone: grid.run_alone(); break;
    case Blocks::kTurns: grid.run_in_turns(); break;
    case Blocks::kStalled: grid.run_stalled(); break;
  }
  running = nullptr;
}

const Place& here() { return running->place(); }

void barrier(const char* file, int line) {
  if (!is_missing(file, line)) running->wait_at(file, line);
}

uint64_t shuffle(uint64_t value, unsigned from) { return running->shuffle(value, from); }

void yield() { running->yield(); }

void trap(const char* reason) {
  std::fprintf(stderr, "trap: %s", reason);
  if (running) std::fprintf(stderr, " (block %u, thread %u)", here().block, here().thread);
  std::fprintf(stderr, "\n");
  std::abort();
}

}  // namespace cuda_on_cpu
