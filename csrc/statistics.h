// What the tuners have in common: when a step counts, the clips, the running statistics.
//
// Everything but ln and exp is built from correctly rounded operations, and both compilers are told
// not to contract them into fused multiply-adds, so host and device agree to the last bit there.
// Numbers are those of the sections of docs/yellowfin.md.
#pragma once

#include "single_step.h"
#include "tuner_types.h"

namespace yfk {

constexpr double kEnvelopeGuard = 10.0;     // statistics may see at most 10 sqrt(h_max)
constexpr double kWidestRange = 30.0;       // h_max / h_min at most, in the robust mode
constexpr double kFirstRadius = 1e-3;       // of 1 + ‖x_0‖
constexpr double kRecent = 0.9;             // of the average that spikes are told from
constexpr double kSpike = 2.0;              // ‖g‖ over its recent size that counts as one
constexpr int64_t kSpikeSteps = 10;          // before any is told

// A non-finite ‖g‖² or found_inf skips the step: nothing changes but the counter.
YFK_FN bool takes_step(const TunerOptions& options, double grad_sq, bool found_inf,
                       TunerState* state) {
  const bool finite = !found_inf && grad_sq <= 1.7976931348623157e308;  // NaN is not, either
  const bool silent = options.robust && grad_sq == 0.0;                 // nothing to learn from
  if (finite && !silent) return true;
  if (!finite) state->skipped += 1.0;
  return false;
}

// What a step has worked out for all parameter groups.
struct Tuned {
  bool active;                  // false: the step is skipped, and nothing else here counts
  double lr, momentum;
  double update_scale;          // unscaling and clips, on the gradients of the update
  double average_gain;
  double norm_sq, root;         // ‖g‖² and ‖g‖ as the statistics saw them
  double scale;                 // with a preconditioner: of the metric
  double update_clip;            // with a preconditioner
};

// A step's gradient behind the clips.
struct Clipped {
  double norm;                  // before them
  double clip;
  double norm_sq, root;         // behind them: ‖g‖² and ‖g‖
  bool exploding;
};

// 1-3. The manual clip, then the guard that caps how fast the statistics can grow.
// envelope_sq: the upper end of the window of ‖g‖² in the step before.
YFK_FN Clipped clipped(const TunerOptions& options, double grad_sq, double envelope_sq, int64_t k,
                       double e) {
  const double norm = sqrt(grad_sq);
  double clip = clip_factor(options.max_norm, norm);
  if (options.adaptive_clip && k >= 2)
    clip *= clip_factor(kEnvelopeGuard * sqrt(envelope_sq) + e, clip * norm, e);
  const double norm_sq = clip * clip * grad_sq;
  return {norm, clip, norm_sq, sqrt(norm_sq), k >= 1 && norm_sq >= envelope_sq};
}

// 9. An exploding gradient is clipped in the update, after the statistics saw it; and in the robust
// mode one that is long beside those just before it.
YFK_FN double clip_of_update(const TunerOptions& options, const Clipped& g, double envelope_sq,
                             int64_t k, double e, TunerState* state) {
  double update_clip = options.adaptive_clip && g.exploding
                           ? clip_factor(sqrt(envelope_sq) + e, g.root, e)
                           : 1.0;
  if (!options.robust) return update_clip;
  if (options.adaptive_clip && k >= kSpikeSteps) {
    const double recent_sq = state->recent_sq_avg / (1.0 - state->recent_power);
    const double spike_clip = clip_factor(kSpike * sqrt(recent_sq), g.root, e);
    update_clip = spike_clip < update_clip ? spike_clip : update_clip;
  }
  state->recent_sq_avg = kRecent * state->recent_sq_avg + (1.0 - kRecent) * g.norm_sq;
  state->recent_power = k == 0 ? kRecent : kRecent * state->recent_power;
  return update_clip;
}

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

// What SingleStep wants to know; variance: before a signal is taken off.
struct Curvature {
  double h_min, h_max, variance, distance;
};

// 3-6. Takes in h, of which k have been before; debias: 1 - beta^(k + 1).
YFK_FN Curvature learn(const TunerOptions& options, double h, int64_t k, double debias, double e,
                       double* window, TunerState* state) {
  const double beta = options.beta, gain = 1.0 - options.beta;
  state->grad_sq_avg = beta * state->grad_sq_avg + gain * h;
  const Range ends = ends_of_window(options, window, k, h, e);
  state->h_min_avg = beta * state->h_min_avg + gain * ends.low;
  state->h_max_avg = beta * state->h_max_avg + gain * ends.high;
  state->grad_norm_avg = beta * state->grad_norm_avg + gain * sqrt(h);
  state->distance_avg = beta * state->distance_avg +
                        gain * (state->grad_norm_avg / (state->grad_sq_avg + e));
  return {end_of_range(options, state->h_min_avg, debias),
          end_of_range(options, state->h_max_avg, debias), state->grad_sq_avg / debias,
          state->distance_avg / debias};
}

YFK_FN double in_range(double h_min, double h_max) {
  return h_min < h_max / kWidestRange ? h_max / kWidestRange : h_min;
}

// How far the parameters have come, as far as `growth` of their squares tells.
YFK_FN void travel(double growth, TunerState* state) {
  state->growth += growth;
  const double travelled = sqrt(fabs(state->growth));
  if (travelled > state->radius) state->radius = travelled;
}

// The robust step size: how far the parameters have come, over what the gradients have summed up to.
// The step of DoG (Ivgi, Hinder, Carmon 2023) for lr / (1 - mu), the whole travel of one gradient.
YFK_FN double distance_over_gradients(double momentum, const TunerState& state) {
  const double sum = state.grad_sq_sum;
  return sum > 0.0 ? (1.0 - momentum) * state.radius / sqrt(sum) : 0.0;
}

}  // namespace yfk
