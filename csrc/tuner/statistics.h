// The running statistics that SingleStep works with: curvature range, variance, distance.
//
// Everything but ln and exp is built from correctly rounded operations, and both compilers are told
// not to contract them into fused multiply-adds, so host and device agree to the last bit there.
#pragma once

#include <cmath>

#include "state.h"

namespace yfk {

constexpr double kWidestRange = 30.0;  // h_max / h_min at most, in the robust mode

struct Range {
  double low, high;
};

// The ends of a window that has seen k values before this one, or their logarithms.
YFK_FN Range ends_of_window(const TunerOptions& options, double* window, int64_t k, double value,
                            double e) {
  window[k % options.window] = value;
  const int64_t filled = k + 1 < options.window ? k + 1 : options.window;
  double low = window[0], high = window[0];
  for (int64_t i = 1; i < filled; ++i) {
    low = window[i] < low ? window[i] : low;
    high = window[i] > high ? window[i] : high;
  }
  if (options.log_smooth) {
    low = log(low + e);
    high = log(high + e);
  }
  return {low, high};
}

// What an average of such ends says.
YFK_FN double end_of_range(const TunerOptions& options, double average, double debias) {
  const double end = average / debias;
  return options.log_smooth ? exp(end) : end;
}

// What SingleStep wants to know; variance: before a signal is subtracted.
struct Curvature {
  double h_min, h_max, variance, distance;
};

// Takes in h, which k others have preceded. debias: 1 - beta^(k + 1).
YFK_FN Curvature learn(const TunerOptions& options, double h, int64_t k, double debias, double e,
                       TunerState* state) {
  const double beta = options.beta, gain = 1.0 - options.beta;
  state->grad_sq_avg = beta * state->grad_sq_avg + gain * h;
  const Range ends = ends_of_window(options, window_of(state), k, h, e);
  state->h_min_avg = beta * state->h_min_avg + gain * ends.low;
  state->h_max_avg = beta * state->h_max_avg + gain * ends.high;
  state->grad_norm_avg = beta * state->grad_norm_avg + gain * sqrt(h);
  state->distance_avg =
      beta * state->distance_avg + gain * (state->grad_norm_avg / (state->grad_sq_avg + e));
  return {end_of_range(options, state->h_min_avg, debias),
          end_of_range(options, state->h_max_avg, debias), state->grad_sq_avg / debias,
          state->distance_avg / debias};
}

// h_min of a curvature range, and of the momentum that follows from it, which cannot run away.
YFK_FN double limited_h_min(double h_min, double h_max) {
  return h_min < h_max / kWidestRange ? h_max / kWidestRange : h_min;
}

// For those who ask what SingleStep was given.
YFK_FN void show(const Curvature& c, TunerState* state) {
  state->h_min = c.h_min;
  state->h_max = c.h_max;
  state->variance = c.variance;
  state->distance = c.distance;
}

}  // namespace yfk
