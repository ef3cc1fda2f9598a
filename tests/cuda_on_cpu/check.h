// What the checks of all subjects share.
#pragma once

#include <random>
#include <sstream>
#include <string>

#include "fibers.h"

namespace yfk {

using Random = std::mt19937_64;

// One a file of that name.
void check_measure(Random& random);
void check_apply(Random& random);
void check_tune(Random& random);
void check_write_words(Random& random);

// Prints a failure and has the program end with one.
void report(const char* file, int line, const std::string& what);

constexpr cuda_on_cpu::Order kOrders[] = {
    cuda_on_cpu::Order::kForward, cuda_on_cpu::Order::kReverse, cuda_on_cpu::Order::kRandom};

inline const char* name_of(cuda_on_cpu::Order order) {
  const char* names[] = {"forward", "reverse", "random"};
  return names[int(order)];
}

}  // namespace yfk

// `message` is what would stand between two << of a stream.
#define EXPECT(condition, message)                           \
  do {                                                       \
    if (!(condition)) {                                      \
      std::ostringstream text;                               \
      text.precision(17);                                    \
      text << #condition << ": " << message;                 \
      ::yfk::report(__FILE__, __LINE__, text.str());         \
    }                                                        \
  } while (0)
