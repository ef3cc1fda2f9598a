// The tuner with a preconditioner: the robust mode in Adam's metric. Scalars only.
//
// What hangs on the metric is summed by the update and read one step later, so that a step takes one
// pass over the gradients and one over everything. The clips hang on ‖g‖ alone and are not late.
// Numbers are those of docs/yellowfin.md, preconditioner="diagonal".
#pragma once

#include "statistics.h"

namespace yfk {

constexpr double kSquareDecay = 0.999;      // of the averages of squares, as in Adam
constexpr double kLeastMomentum = 0.5;
constexpr double kFirstTravel = 1e-2;       // of (1 + ‖x_0‖) / sqrt(n), the size of an element

// 4. h = t² <d, u> of the step before into the statistics; how far it has come, in the metric.
YFK_FN Curvature digest(const TunerOptions& options, int64_t k, double e, TunerState* state) {
  const double h = state->scale * state->scale * state->unread_metric_sq;
  if (k == 1) state->radius *= sqrt(h);
  travel(state->unread_growth, state);
  state->unread_metric_sq = state->unread_growth = 0.0;
  state->grad_sq_sum += h;
  Curvature c = learn(options, h, k - 1, 1.0 - state->beta_power, e,
                      reinterpret_cast<double*>(state + 1), state);
  c.variance = c.variance > e ? c.variance : e;
  c.h_min = in_range(c.h_min, c.h_max);
  return c;
}

YFK_FN Tuned tune_preconditioned(const TunerOptions& options, const GradientSums& sums,
                                 double inv_scale, bool found_inf, TunerState* state) {
  const double grad_sq = sums.grad_sq * inv_scale * inv_scale;
  Tuned tuned = {};
  if (!takes_step(options, grad_sq, found_inf, state)) return tuned;
  const double beta = options.beta, gain = 1.0 - options.beta;
  const double e = kTiny;
  const int64_t k = int64_t(state->step);

  // 1. the clips
  const double envelope_sq = state->envelope;
  const Clipped g = clipped(options, grad_sq, envelope_sq, k, e);
  const double update_clip = clip_of_update(options, g, envelope_sq, k, e, state);

  // 4. what the step before has left
  const double least =
      options.initial_momentum > kLeastMomentum ? options.initial_momentum : kLeastMomentum;
  double momentum = least;
  if (k >= 1) {
    const Curvature c = digest(options, k, e, state);
    if (k >= 2) {
      momentum = single_step(c.distance, c.variance, c.h_min, c.h_max, e).momentum;
      momentum = momentum > kLeastMomentum ? momentum : kLeastMomentum;
    }
    state->h_min = c.h_min;
    state->h_max = c.h_max;
    state->variance = c.variance;
    state->distance = c.distance;
  }

  // 1. the envelope of ‖g‖²
  state->beta_power *= beta;
  double* window = reinterpret_cast<double*>(state + 1) + options.window;
  const Range ends = ends_of_window(options, window, k, g.norm_sq, e);
  state->envelope_avg = beta * state->envelope_avg + gain * ends.high;
  state->envelope = end_of_range(options, state->envelope_avg, 1.0 - state->beta_power);

  // 2. the scale of the metric
  const double fresh = 1.0 - kSquareDecay;
  state->mean_sq_avg = kSquareDecay * state->mean_sq_avg + fresh * (g.norm_sq / sums.count);
  state->scale = sqrt(state->mean_sq_avg / (1.0 - power(kSquareDecay, double(k + 1))));

  // 5. the step along u. In the first one the sum of h cancels
  double lr = state->scale * distance_over_gradients(momentum, *state);
  if (k == 0) {
    const double start = kFirstTravel * (1.0 + sqrt(sums.start_sq)) / sqrt(sums.count);
    lr = (1.0 - momentum) * start;
    state->radius = start / state->scale;  // but for sqrt(h), which the update has yet to gauge
  }

  state->step += 1.0;
  state->momentum = momentum;
  state->grad_norm = g.norm;
  state->clip_coefficient = g.clip * update_clip;

  tuned.active = true;
  tuned.lr = lr;
  tuned.momentum = momentum;
  tuned.update_scale = g.clip * inv_scale;
  tuned.average_gain = fresh;
  tuned.scale = state->scale;
  tuned.update_clip = update_clip;
  return tuned;
}

YFK_FN void tune_group_preconditioned(const Tuned& tuned, const GroupHyper& group,
                                      YellowFinCoefficients* out) {
  const double decay = group.weight_decay, rest = 1.0 - tuned.momentum;
  const bool decoupled = group.decoupled != 0.0;
  double lr = tuned.lr * group.lr;
  if (decoupled && lr * decay > rest) lr = rest / decay;
  out->active = 1.0;
  out->grad_scale = group.sign * tuned.update_scale / tuned.scale;
  out->coupled_decay = decoupled ? 0.0 : decay / tuned.scale;
  out->momentum = group.lr == 0.0 ? 0.0 : tuned.momentum;  // stands still
  out->velocity_gain = -lr;
  out->velocity_keep = 1.0;
  // as AdamW: lr / (1 - mu) is the whole travel of one u
  out->param_keep = decoupled ? 1.0 - lr * decay / rest : 1.0;
  out->param_gain = 1.0;
  out->average_decay = kSquareDecay;
  out->average_gain = tuned.average_gain;
  out->update_clip = tuned.update_clip;
  out->lr = lr;
}

}  // namespace yfk
