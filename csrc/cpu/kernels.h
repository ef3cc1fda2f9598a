// What one instruction-set build of kernels.cpp offers to the driver.
#pragma once

#include "../rules.h"
#include "../table.h"

namespace yfk {

struct KernelSet {
  const char* name;

  // Chunks [begin, end) of the table. Adds to
  // sums[kSums] = {Σg², Σ gbar g, Σ gbar², non-zero entries, entries}. With `sketch` (kTile floats)
  // there is no gbar: the second and third stay as they are and signed bucket sums are added there.
  // The fourth is counted if `nonzero` asks for it.
  void (*yellowfin_measure)(const Table& table, int64_t begin, int64_t end, DType dtype,
                            bool nonzero, double* sums, float* sketch);

  // The same chunks, the last first. `groups`: coefficients of each parameter group.
  void (*yellowfin_apply)(const Table& table, int64_t begin, int64_t end, DType dtype,
                          const YellowFinCoefficients* groups);
};

// The best set this processor can run.
const KernelSet& kernels();

}  // namespace yfk
