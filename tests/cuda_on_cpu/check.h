// What the checks of all subjects share.
#pragma once

#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "grid.h"

namespace yfk {

using Random = std::mt19937_64;

// One a file of that name; robust is in yellowfin.cpp.
void check_average(Random& random);
void check_gate(Random& random);
void check_lamb(Random& random);
void check_measure(Random& random);
void check_preconditioned(Random& random);
void check_qhadam(Random& random);
void check_qhm(Random& random);
void check_robust(Random& random);
void check_rounding(Random& random);
void check_runtime(Random& random);
void check_step(Random& random);
void check_tangents(Random& random);
void check_tune(Random& random);
void check_write_words(Random& random);
void check_yellowfin(Random& random);

// Prints a failure and has the program end with one.
void report(const char* file, int line, const std::string& what);

// Every way to run a grid, with fresh seeds.
std::vector<cuda_on_cpu::Schedule> schedules(Random& random);

// Of those, one for each way in which blocks share the time.
std::vector<cuda_on_cpu::Schedule> one_of_each(Random& random);

std::string name_of(const cuda_on_cpu::Schedule& schedule);

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
