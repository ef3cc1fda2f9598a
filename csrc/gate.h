// The gate: whether a step counts, and how strongly its gradients do, for rules whose coefficients
// are the user's settings. (YellowFin's tuner does the same with the coefficients it works out.)
//
// Scalars in double precision; the same code on the host and in a one-block kernel, where the
// parameter groups are dealt to the lanes of a warp.
#pragma once

#include "rules.h"

namespace yfk {

#define YFK_GATE_STATE(field)                                                                \
  field(grad_norm) /* of the whole gradient, unscaled, before the clip; NaN if not measured */ \
  field(skipped)   /* steps refused */
struct GateState {
  YFK_RECORD(YFK_GATE_STATE)
};

// What is decided for all parameter groups.
struct Verdict {
  bool active, measured;
  double grad_norm;  // of a refused step: the one before
  double inv_scale;
};

// norm_sq: ‖g‖² as measured, still with the loss scale in it; ignored unless `measured`.
YFK_FN Verdict verdict_on(bool measured, double norm_sq, double inv_scale, bool found_inf,
                          const GateState& state) {
  norm_sq *= inv_scale * inv_scale;
  const bool finite = !measured || norm_sq <= 1.7976931348623157e308;  // NaN fails it too
  const bool active = finite && !found_inf;
  const double norm = measured ? sqrt(norm_sq) : NAN;
  return {active, measured, active ? norm : state.grad_norm, inv_scale};
}

YFK_FN void remember(const Verdict& verdict, GateState* state) {
  if (!verdict.active) state->skipped += 1.0;
  state->grad_norm = verdict.grad_norm;
}

// The head of a group's coefficients.
YFK_FN void apply(const Verdict& verdict, Settings* group) {
  const bool clips = verdict.measured && verdict.grad_norm > group->max_norm;
  const double clip = clips ? group->max_norm / verdict.grad_norm : 1.0;
  group->active = verdict.active ? 1.0 : 0.0;
  group->grad_scale = group->sign * verdict.inv_scale * clip;
}

// All of it, one group after the other.
YFK_FN void decide(bool measured, double norm_sq, double inv_scale, bool found_inf,
                   GateState* state, int64_t num_groups, int64_t words, double* coefficients) {
  const Verdict verdict = verdict_on(measured, norm_sq, inv_scale, found_inf, *state);
  remember(verdict, state);
  for (int64_t i = 0; i < num_groups; ++i)
    apply(verdict, reinterpret_cast<Settings*>(coefficients + i * words));
}

}  // namespace yfk
