// What the YellowFin tuner remembers from step to step.
#pragma once

#include "../host_device.h"
#include "../record.h"
#include "options.h"

namespace yfk {

// The head of the state, in this order, as float64; yfkernels/ops/constants.py names the same fields.
#define YFK_TUNER_STATE(field)                                                                    \
  field(format) /* layout version, checked when a state_dict is loaded */                         \
  field(words)  /* of this head; fewer in a state saved before the last ones were added */        \
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
  field(relative_sq_avg) /* EMA of ‖g‖² / (n t²): the mean of s over all elements */              \
  field(metric_scale)  /* its root, debiased: the root mean square of the metric q */             \
  field(walk)          /* of the growth, what random steps of this length make too much */        \
  field(unread_walk)   /* of what the last update has summed: that, for each <d, u> */            \
  /* what the last step measured and used */                                                      \
  field(h_min) field(h_max) field(variance) field(distance) field(lr) field(momentum)             \
  field(grad_norm) field(clip_coefficient)                                                       \
  field(unit) /* with a preconditioner: of a velocity in float8, in the last step */
struct TunerState {
  YFK_RECORD(YFK_TUNER_STATE)
};

constexpr double kStateFormat = 6.0;

// After the head: the last `window` values of h; then with a preconditioner those of ‖g‖², or with
// variance="sketch" the sketch of the gradients' average (kTile values).
YFK_FN double* window_of(TunerState* state) { return reinterpret_cast<double*>(state + 1); }
YFK_FN double* grad_window_of(const TunerOptions& options, TunerState* state) {
  return window_of(state) + options.window;
}
YFK_FN double* sketch_average_of(const TunerOptions& options, TunerState* state) {
  return window_of(state) + options.window;
}

}  // namespace yfk
