// What the user sets: the tuner's options, and what a parameter group asks for.
#pragma once

#include <cstdint>

#include "../record.h"

namespace yfk {

// Filled by name from yfkernels.ops.options.YellowFinOptions: an option is a line here, and its name
// in TUNER_OPTIONS there. max_norm: infinity for no clip.
#define YFK_TUNER_OPTIONS(field)                                           \
  field(double, beta) field(double, max_norm)                              \
  field(double, initial_lr) field(double, initial_momentum)                \
  field(int64_t, window)                                                   \
  field(bool, adaptive_clip) field(bool, polyak) field(bool, log_smooth)   \
  field(bool, sparsity_debias) field(bool, sketch) field(bool, trust_ratio) \
  field(bool, robust) field(bool, preconditioned)
struct TunerOptions {
#define YFK_OPTION(Type, name) Type name;
  YFK_TUNER_OPTIONS(YFK_OPTION)
#undef YFK_OPTION
};

#define YFK_GROUP(field)                          \
  field(lr)           /* the user's multiplier */ \
  field(weight_decay)                             \
  field(decoupled)    /* 0 or 1 */                \
  field(sign)         /* -1 to maximize */
struct GroupHyper {
  YFK_RECORD(YFK_GROUP)
};

}  // namespace yfk
