// The robust step size: how far the parameters have come, over what the gradients have summed up to.
//
// That is the step of DoG (Ivgi, Hinder, Carmon 2023, arXiv 2302.12022), taken for lr / (1 - mu), the
// whole travel of one gradient.
#pragma once

#include <cmath>

#include "state.h"

namespace yfk {

// The radius, as far as the growth of the parameters' squares in the last update tells.
YFK_FN void advance_radius(TunerState* state) {
  state->growth += state->unread_growth;
  state->unread_growth = 0.0;
  const double traveled = sqrt(fabs(state->growth));
  if (traveled > state->radius) state->radius = traveled;
}

YFK_FN double distance_over_gradients(double momentum, const TunerState& state) {
  const double sum = state.grad_sq_sum;
  return sum > 0.0 ? (1.0 - momentum) * state.radius / sqrt(sum) : 0.0;
}

}  // namespace yfk
