// The tuner's memory before the first step, as yfkernels/tuners/yellowfin.py makes it.
#pragma once

#include <cstring>
#include <vector>

#include "table.h"
#include "tuner/tuner.h"

namespace yfk {

constexpr size_t kScalars = sizeof(TunerState) / sizeof(double);

inline std::vector<double> fresh_state(const TunerOptions& options) {
  TunerState first = {};
  first.format = kStateFormat;
  first.robust = options.robust;
  first.preconditioned = options.preconditioned;
  first.polyak = options.polyak;
  first.log_smooth = options.log_smooth;
  first.beta_power = 1.0;
  const size_t windows = options.preconditioned ? 2 : 1;
  std::vector<double> state(kScalars + windows * options.window + (options.sketch ? kTile : 0));
  std::memcpy(state.data(), &first, sizeof first);
  return state;
}

inline TunerState scalars_of(const std::vector<double>& state) {
  TunerState scalars;
  std::memcpy(&scalars, state.data(), sizeof scalars);
  return scalars;
}

}  // namespace yfk
