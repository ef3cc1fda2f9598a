// What the YellowFin tuner is given and what it remembers.
#pragma once

#include <cstdint>

#include "record.h"

namespace yfk {

// Everything the tuner remembers, in this order, as float64; the window (w values) follows it
// directly, then with a preconditioner a second one, or with variance="sketch" the sketch of the
// gradient average (kTile values). yfkernels/ops/constants.py names the same fields.
#define YFK_TUNER_STATE(field)                                                                     \
  field(format) /* layout version, checked when a state_dict is loaded */                         \
  /* the options, 0 or 1, that say what the other numbers mean: written once, at the start */     \
  field(robust) field(preconditioned) field(polyak) field(log_smooth)                             \
  field(step)          /* steps taken */                                                          \
  field(skipped)       /* steps refused for a non-finite gradient */                              \
  field(beta_power)    /* beta^step; 1 - beta_power is the zero debias */                         \
  field(grad_sq_avg)   /* EMA of h = ‖g‖²; with a preconditioner h = t²<d, u> */                  \
  field(h_min_avg) field(h_max_avg) /* EMA of the window's ends (of logarithms if log_smooth) */  \
  field(grad_norm_avg) /* EMA of sqrt(h) */                                                       \
  field(distance_avg)                                                                             \
  field(sparsity_avg)  /* EMA of the share of non-zero gradient entries */                        \
  /* what the last update summed; the next step that counts reads it */                           \
  field(unread_growth)    /* of ‖x‖²; with a preconditioner in its metric q */                    \
  field(unread_metric_sq) /* with a preconditioner: Σ d²/q */                                     \
  /* the robust mode */                                                                           \
  field(growth)        /* ‖x‖² - ‖x_0‖², up to the step before the last */                        \
  field(radius)        /* a lower estimate of how far x has come from x_0 */                      \
  field(grad_sq_sum)   /* Σ h over all steps, of the gradients as they were used */               \
  field(recent_sq_avg) /* EMA of ‖g‖², of the last ten steps or so */                             \
  field(recent_power)  /* kRecent^step, for its zero debias */                                    \
  /* with a preconditioner */                                                                     \
  field(envelope_avg)  /* EMA of the upper end of the window of ‖g‖² (its logarithm) */           \
  field(envelope)      /* that end; the first window is of h */                                   \
  field(mean_sq_avg)   /* EMA of ‖g‖² / n */                                                      \
  field(scale)         /* t: the root mean square of the gradient */                              \
  /* what the last step measured and used */                                                      \
  field(h_min) field(h_max) field(variance) field(distance) field(lr) field(momentum)             \
  field(grad_norm) field(clip_coefficient)
struct TunerState {
  YFK_RECORD(YFK_TUNER_STATE)
};

constexpr double kStateFormat = 5.0;

// Filled by name from yfkernels.ops.options.YellowFinOptions. max_norm: +inf for no manual clip.
#define YFK_TUNER_OPTIONS(field)                                                       \
  field(double, beta) field(double, max_norm)                                          \
  field(double, initial_lr) field(double, initial_momentum)                            \
  field(int64_t, window)                                                               \
  field(bool, adaptive_clip) field(bool, polyak) field(bool, log_smooth)               \
  field(bool, sparsity_debias) field(bool, sketch) field(bool, trust_ratio)            \
  field(bool, robust) field(bool, preconditioned)
struct TunerOptions {
#define YFK_OPTION(Type, name) Type name;
  YFK_TUNER_OPTIONS(YFK_OPTION)
#undef YFK_OPTION
};

// One step's gradient, before any unscaling or clip, and where the parameters began.
struct GradientSums {
  double grad_sq;               // ‖g‖²
  double avg_dot_grad;          // <gbar, g>
  double avg_sq;                // ‖gbar‖²
  double nonzero, count;        // entries
  double avg_grad_sq;           // ‖g‖² as gbar's space sees it: the sketch's own, else grad_sq
  double start_sq;              // ‖x_0‖²
};

#define YFK_GROUP(field)                      \
  field(lr)           /* the user's multiplier */ \
  field(weight_decay)                         \
  field(decoupled)    /* 0 or 1 */            \
  field(sign)         /* -1 to maximize */
struct GroupHyper {
  YFK_RECORD(YFK_GROUP)
};

}  // namespace yfk
