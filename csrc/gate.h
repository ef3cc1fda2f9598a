// The gate: whether a step counts, and how strongly its gradients do, for rules whose coefficients
// are the user's settings. (YellowFin's tuner does the same with the coefficients it works out.)
//
// Scalars in double precision; the same code on the host and in a one-block kernel.
#pragma once

#include "rules.h"

namespace yfk {

struct GateState {
  double grad_norm;  // of the whole gradient, unscaled, before the clip; NaN if not measured
  double skipped;    // steps refused
};

// norm_sq: ‖g‖² as measured, still with the loss scale in it; ignored unless `measured`.
YFK_FN void judge(bool measured, double norm_sq, double inv_scale, bool found_inf,
                  GateState* state, int64_t num_groups, int64_t words, double* coefficients) {
  norm_sq *= inv_scale * inv_scale;
  const bool finite = !measured || norm_sq <= 1.7976931348623157e308;  // NaN fails it too
  const bool active = finite && !found_inf;
  if (!active) state->skipped += 1.0;
  if (active) state->grad_norm = measured ? sqrt(norm_sq) : NAN;
  for (int64_t i = 0; i < num_groups; ++i) {
    auto* group = reinterpret_cast<Settings*>(coefficients + i * words);
    const bool clips = measured && state->grad_norm > group->max_norm;
    const double clip = clips ? group->max_norm / state->grad_norm : 1.0;
    group->active = active ? 1.0 : 0.0;
    group->grad_scale = group->sign * inv_scale * clip;
  }
}

}  // namespace yfk
