// One step of the tuner from the outside: the sums that go in, and what comes out for all groups.
#pragma once

#include "state.h"

namespace yfk {

// One step's gradient, before any unscaling or clip, and where the parameters began.
struct GradientSums {
  double grad_sq;         // ‖g‖²
  double avg_dot_grad;    // <ḡ, g>
  double avg_sq;          // ‖ḡ‖²
  double nonzero, count;  // entries
  double avg_grad_sq;     // ‖g‖² as ḡ's space sees it: the sketch's own, else grad_sq
  double start_sq;        // ‖x_0‖²
};

// What a step has worked out for all parameter groups.
struct Tuned {
  bool active;  // false: the step is skipped, and nothing else here counts
  double lr, momentum;
  double update_scale;  // unscaling and clips, on the gradients of the update
  double average_gain;
  double norm_sq, root;      // ‖g‖² and ‖g‖ as the statistics saw them
  double scale;              // with a preconditioner: of the metric
  double update_clip;        // with a preconditioner
  double longest_lr;         // with a preconditioner: the lr of the longest step of any group
  double longest_sq;         // with a preconditioner: the whole travel of one u there, squared
  double unit, unit_change;  // with a preconditioner: of a velocity in float8
};

// A non-finite ‖g‖² or found_inf skips the step: nothing changes but the counter.
YFK_FN bool takes_step(const TunerOptions& options, double grad_sq, bool found_inf,
                       TunerState* state) {
  const bool finite = !found_inf && grad_sq <= 1.7976931348623157e308;  // NaN is not, either
  const bool silent = options.robust && grad_sq == 0.0;                 // nothing to learn from
  if (finite && !silent) return true;
  if (!finite) state->skipped += 1.0;
  return false;
}

// The statistics do not see weight decay: the lr of a very small loss would be too large for it.
YFK_FN double limit_by_decay(double lr, double decay, double momentum) {
  const double rest = 1.0 - momentum;
  return lr * decay > rest ? rest / decay : lr;
}

}  // namespace yfk
