// The tuner with a preconditioner: the robust mode in Adam's metric.
//
// What depends on the metric is summed by the update and read one step later, so that a step takes
// one pass over the gradients and one over everything. The clips depend on ‖g‖ alone and are not
// late. The steps are those of docs/optimizers/yellowfin.md, preconditioner="diagonal", under the names that the
// torch and Triton backends use. k counts steps from 0.
#pragma once

#include "../rules.h"
#include "clips.h"
#include "distance.h"
#include "statistics.h"

namespace yfk {

constexpr double kSquareDecay = 0.999;  // of the averages of squares, as in Adam
constexpr double kLeastMomentum = 0.5;
constexpr double kFirstTravel = 1e-2;  // of (1 + ‖x_0‖) / sqrt(n), the size of an element
constexpr double kStretch = 2.0;       // how many times as long as the distance says a step is
constexpr double kUnit = 16.0;         // of a velocity in float8, in the longest travel

// Takes the sums of the last update in, from k = 1 on: h = t² <d, u> into the statistics, and how far
// the parameters have come. Both in the metric over its root mean square: what the metric forgets of
// the first gradients must not lengthen the step.
YFK_FN Curvature learn_from_update(const TunerOptions& options, int64_t k, double e,
                                   TunerState* state) {
  const double size = state->metric_scale;
  const double h = size * (state->scale * state->scale * state->unread_metric_sq);
  state->walk += state->unread_walk * state->unread_metric_sq / size;
  state->unread_growth /= size;
  state->unread_metric_sq = 0.0;
  if (k == 1) state->radius *= sqrt(h);  // the part of the first one that was not known before
  advance_radius(state);
  state->grad_sq_sum += h;
  Curvature c = learn(options, h, k - 1, 1.0 - state->beta_power, e, state);
  c.variance = c.variance > e ? c.variance : e;
  c.h_min = limited_h_min(c.h_min, c.h_max);
  return c;
}

// SingleStep's momentum, at least a half. There is no curvature to go by before k = 2.
YFK_FN double choose_momentum(const TunerOptions& options, int64_t k, double e, TunerState* state) {
  const double least =
      options.initial_momentum > kLeastMomentum ? options.initial_momentum : kLeastMomentum;
  double momentum = least;
  if (k >= 1) {
    const Curvature c = learn_from_update(options, k, e, state);
    if (k >= 2) {
      momentum = single_step(c.distance, c.variance, c.h_min, c.h_max, e).momentum;
      momentum = momentum > kLeastMomentum ? momentum : kLeastMomentum;
    }
    show(c, state);
  }
  return momentum;
}

// The upper end of the window of ‖g‖², which the clips of the next step are told from.
YFK_FN void advance_envelope(const TunerOptions& options, double norm_sq, int64_t k, double e,
                             TunerState* state) {
  const double beta = options.beta, gain = 1.0 - options.beta;
  state->beta_power *= beta;
  const Range ends = ends_of_window(options, grad_window_of(options, state), k, norm_sq, e);
  state->envelope_avg = beta * state->envelope_avg + gain * ends.high;
  state->envelope = end_of_range(options, state->envelope_avg, 1.0 - state->beta_power);
}

// t, the root mean square of the gradient, and that of the metric that the update is going to have.
YFK_FN void advance_scales(double norm_sq, double count, int64_t k, TunerState* state) {
  const double fresh = 1.0 - kSquareDecay;
  const double debias = 1.0 - power(kSquareDecay, double(k + 1));
  const double mean_sq = norm_sq / count;
  state->mean_sq_avg = kSquareDecay * state->mean_sq_avg + fresh * mean_sq;
  state->scale = sqrt(state->mean_sq_avg / debias);
  const double relative_sq = mean_sq / (state->scale * state->scale);
  state->relative_sq_avg = kSquareDecay * state->relative_sq_avg + fresh * relative_sq;
  state->metric_scale = sqrt(state->relative_sq_avg / debias);
}

// lr along u, but for what makes it longer. In the first step the sum of h would cancel.
YFK_FN double step_along_u(double momentum, const GradientSums& sums, int64_t k,
                           TunerState* state) {
  double lr = state->metric_scale * state->scale * distance_over_gradients(momentum, *state);
  if (k == 0) {
    const double start = kFirstTravel * (1.0 + sqrt(sums.start_sq)) / sqrt(sums.count);
    lr = (1.0 - momentum) * start;
    state->radius = start / state->scale;  // but for sqrt(h), which the update has yet to sum
  }
  return lr;
}

// What a velocity in float8 is counted in: lr / (1 - mu), which it would come to if u stayed at 1, so
// many times. Squares have a memory of a thousand steps, so no u is above 32. A step that is clipped takes
// the unit up no further than it needs, and not down: the velocity of the steps before is still there.
YFK_FN double unit_of(double lr, double momentum, double update_clip, double last) {
  const double whole = lr / (1.0 - momentum) * kUnit, clipped = whole * update_clip;
  const double kept = whole < last ? whole : last;
  const double unit = clipped > kept ? clipped : kept;
  return unit > kTiny ? unit : kTiny;
}

// One step, but for what belongs to the groups. inv_scale: 1 / AMP loss scale.
YFK_FN Tuned tune_preconditioned(const TunerOptions& options, const GradientSums& sums,
                                 double inv_scale, bool found_inf, double longest,
                                 TunerState* state) {
  const double grad_sq = sums.grad_sq * inv_scale * inv_scale;
  Tuned tuned = {};
  if (!takes_step(options, grad_sq, found_inf, state)) return tuned;
  const double e = kTiny;
  const int64_t k = int64_t(state->step);
  const double envelope_sq = state->envelope;

  const Clipped g = clip_gradient(options, grad_sq, envelope_sq, k, e);
  const double update_clip = clip_update(options, g, envelope_sq, k, e, state);
  const double momentum = choose_momentum(options, k, e, state);
  advance_envelope(options, g.norm_sq, k, e, state);
  advance_scales(g.norm_sq, sums.count, k, state);
  const double lr = step_along_u(momentum, sums, k, state);
  const double travel = update_clip * lr / (1.0 - momentum), stretch = kStretch * longest;
  state->unread_walk = (stretch * stretch - 1.0) * (travel * travel);

  state->step += 1.0;
  show_step(g, update_clip, momentum, state);

  tuned.active = true;
  tuned.lr = kStretch * lr;
  tuned.longest_lr = tuned.lr * longest;
  tuned.longest_sq = stretch * stretch * (travel * travel);
  tuned.momentum = momentum;
  tuned.update_scale = g.clip * inv_scale;
  tuned.average_gain = 1.0 - kSquareDecay;
  tuned.scale = state->scale;
  tuned.update_clip = update_clip;
  tuned.unit = unit_of(tuned.longest_lr, momentum, update_clip, state->unit);
  tuned.unit_change = state->unit / tuned.unit;
  state->unit = tuned.unit;
  return tuned;
}

YFK_FN void tune_group_preconditioned(const Tuned& tuned, const GroupHyper& group,
                                      YellowFinCoefficients* out) {
  const double decay = group.weight_decay, rest = 1.0 - tuned.momentum;
  const bool decoupled = group.decoupled != 0.0;
  double lr = tuned.lr * group.lr;
  if (decoupled) lr = limit_by_decay(lr, decay, tuned.momentum);
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
  // the growth is to be that of groups which all take the longest steps
  const double share = tuned.longest_lr > 0.0 ? lr / tuned.longest_lr : 1.0;
  out->shortfall = tuned.longest_sq * (1.0 - share * share);
  out->unit = tuned.unit;
  out->unit_change = tuned.unit_change;
  out->lr = lr;
}

}  // namespace yfk
