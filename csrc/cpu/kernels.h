// What one instruction-set build of kernels.cpp offers to the driver.
#pragma once

#include "../rules.h"
#include "../table.h"

namespace yfk {

struct KernelSet {
  const char* name;

  // One chunk, elements [first, first + n) of a tensor. Adds to
  // sums[kSums] = {Σg², Σ gbar g, Σ gbar², non-zero entries, entries}. With `sketch` (kTile floats)
  // there is no gbar: the second and third stay as they are and signed bucket sums are added there.
  // The fourth is counted if `nonzero` asks for it.
  void (*yellowfin_measure)(DType dtype, const TensorRow& row, int64_t first, int64_t n,
                            bool nonzero, double* sums, float* sketch);

  void (*yellowfin_apply)(DType dtype, const TensorRow& row, int64_t first, int64_t n,
                          const YellowFinCoefficients& coefficients);
};

// The best set this processor can run.
const KernelSet& kernels();

}  // namespace yfk
