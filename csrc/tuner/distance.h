// The robust step size: how far the parameters have come, over what the gradients have summed up to.
//
// That is the step of DoG (Ivgi, Hinder, Carmon 2023, arXiv 2302.12022), taken for lr / (1 - mu), the
// whole travel of one gradient.
#pragma once

#include <cmath>

#include "state.h"

namespace yfk {

// The radius, as far as the growth of the parameters' squares tells, without the walk's part of it.
// Random steps add up their squares. If all of that were distance, and the step in proportion to it,
// a step that is longer than the distance says would grow without end. Parameters that have become
// smaller did not get there by a walk. Without a preconditioner the walk is 0.
YFK_FN void advance_radius(TunerState* state) {
  state->growth += state->unread_growth;
  state->unread_growth = 0.0;
  const double most = state->growth > 0.0 ? state->growth : 0.0;
  if (state->walk > most) state->walk = most;
  const double traveled = sqrt(fabs(state->growth) - state->walk);
  if (traveled > state->radius) state->radius = traveled;
}

YFK_FN double distance_over_gradients(double momentum, const TunerState& state) {
  const double sum = state.grad_sq_sum;
  return sum > 0.0 ? (1.0 - momentum) * state.radius / sqrt(sum) : 0.0;
}

}  // namespace yfk
