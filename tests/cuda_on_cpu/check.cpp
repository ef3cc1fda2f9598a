// check SUBJECT SEED: runs the CUDA kernels of one subject on the processor, and compares what they
// leave with what the CPU driver leaves.
#include "check.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>

namespace yfk {
namespace {

int failures = 0;

}  // namespace

void report(const char* file, int line, const std::string& what) {
  constexpr int kEnough = 20;
  std::printf("%s:%d: %s\n", file, line, what.c_str());
  if (++failures < kEnough) return;
  std::fflush(stdout);
  std::_Exit(1);
}

std::vector<cuda_on_cpu::Schedule> schedules(Random& random) {
  using cuda_on_cpu::Blocks;
  using cuda_on_cpu::Order;
  constexpr unsigned kBarriers = 4;  // beyond these a kernel only has the last block's work left
  std::vector<cuda_on_cpu::Schedule> all;
  for (const Order order : {Order::kForward, Order::kReverse, Order::kRandom}) {
    all.push_back({Blocks::kAlone, order, 0, unsigned(random())});
    all.push_back({Blocks::kTurns, order, 0, unsigned(random())});
    for (unsigned after = 0; after < kBarriers; ++after)
      all.push_back({Blocks::kStalled, order, after, unsigned(random())});
  }
  return all;
}

std::vector<cuda_on_cpu::Schedule> one_of_each(Random& random) {
  std::vector<cuda_on_cpu::Schedule> all = schedules(random), some;
  std::shuffle(all.begin(), all.end(), random);
  for (const auto& schedule : all)
    if (std::none_of(some.begin(), some.end(),
                     [&](const auto& other) { return other.blocks == schedule.blocks; }))
      some.push_back(schedule);
  return some;
}

std::string name_of(const cuda_on_cpu::Schedule& schedule) {
  const char* blocks[] = {"alone", "in turns", "stalled"};
  const char* orders[] = {"forward", "reversed", "random"};
  std::ostringstream name;
  name << "blocks " << blocks[int(schedule.blocks)] << ", " << orders[int(schedule.order)]
       << ", after " << schedule.stall_after << " barriers, seed " << schedule.seed;
  return name.str();
}

int run(const std::string& subject, unsigned long long seed) {
  const std::map<std::string, void (*)(Random&)> checks = {
      {"average", check_average},
      {"gate", check_gate},
      {"lamb", check_lamb},
      {"measure", check_measure},
      {"preconditioned", check_preconditioned},
      {"qhadam", check_qhadam},
      {"qhm", check_qhm},
      {"robust", check_robust},
      {"rounding", check_rounding},
      {"runtime", check_runtime},
      {"step", check_step},
      {"tangents", check_tangents},
      {"tune", check_tune},
      {"write_words", check_write_words},
      {"yellowfin", check_yellowfin},
  };
  const auto check = checks.find(subject);
  if (check == checks.end()) {
    std::fprintf(stderr, "SUBJECT=%s is unknown\n", subject.c_str());
    return 2;
  }
  Random random(seed);
  check->second(random);
  std::printf("%s: %d failures\n", subject.c_str(), failures);
  return failures != 0;
}

}  // namespace yfk

int main(int argc, char** argv) {
  if (argc == 3) return yfk::run(argv[1], std::strtoull(argv[2], nullptr, 10));
  std::fprintf(stderr, "usage: %s SUBJECT SEED\n", argv[0]);
  return 2;
}
