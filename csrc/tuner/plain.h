// The tuner with one step size for all parameters: the published algorithm, and the robust mode.
//
// The steps are those of docs/optimizers/yellowfin.md, under the names that the torch and Triton backends use.
// k counts steps from 0.
#pragma once

#include "../rules.h"
#include "clips.h"
#include "distance.h"
#include "statistics.h"

namespace yfk {

constexpr double kFirstRadius = 1e-3;   // of 1 + ‖x_0‖
constexpr double kLargestMove = 100.0;  // lr * ‖g‖ of one step, adaptive clipping only

// ‖ḡ‖² after this step, from the sums of one reading pass, which knows no clip yet:
// ‖b ḡ + a g‖² = b² ‖ḡ‖² + 2 b a <ḡ, g> + a² ‖g‖².
YFK_FN double next_average_sq(double beta, double average_gain, const GradientSums& sums) {
  return beta * beta * sums.avg_sq + 2.0 * beta * average_gain * sums.avg_dot_grad +
         average_gain * average_gain * sums.avg_grad_sq;
}

// Statistics of gradients that are mostly zero, by the average share of entries that are not.
YFK_FN void debias_sparsity(const TunerOptions& options, const GradientSums& sums, double debias,
                            double e, Curvature* c, TunerState* state) {
  const double nonzero_share = sums.count > 0.0 ? sums.nonzero / sums.count : 0.0;
  state->sparsity_avg = options.beta * state->sparsity_avg + (1.0 - options.beta) * nonzero_share;
  const double share = state->sparsity_avg / debias;
  c->h_min *= share;
  c->h_max *= share;
  c->variance *= share;
  c->distance /= sqrt(share) + e;
}

// SingleStep's choice, whose step size starts slowly, over ten windows.
YFK_FN StepSize choose_step(const TunerOptions& options, const Curvature& c, int64_t k, double e) {
  StepSize next = {options.initial_lr, options.initial_momentum};
  if (k >= 1) {
    next = single_step(c.distance, c.variance, c.h_min, c.h_max, e);
    const double slow_start = double(k + 1) / double(10 * options.window);
    next.lr *= slow_start < 1.0 ? slow_start : 1.0;
  }
  return next;
}

// What stands in for the step size in the robust mode. grad_sq: of the gradient as the update uses it.
YFK_FN double robust_lr(double momentum, double grad_sq, double start_sq, int64_t k,
                        TunerState* state) {
  if (k == 0) state->radius = kFirstRadius * (1.0 + sqrt(start_sq));
  advance_radius(state);
  state->grad_sq_sum += grad_sq;
  return distance_over_gradients(momentum, *state);
}

// One step, but for what belongs to the groups. inv_scale: 1 / AMP loss scale.
YFK_FN Tuned tune_plain(const TunerOptions& options, const GradientSums& sums, double inv_scale,
                        bool found_inf, TunerState* state) {
  const double grad_sq = sums.grad_sq * inv_scale * inv_scale;
  Tuned tuned = {};
  if (!takes_step(options, grad_sq, found_inf, state)) return tuned;
  const double beta = options.beta, gain = 1.0 - options.beta;
  const double e = options.robust ? kTiny : kEpsilon;
  const int64_t k = int64_t(state->step);
  const double envelope_sq = state->h_max;

  const Clipped g = clip_gradient(options, grad_sq, envelope_sq, k, e);
  const double h = g.norm_sq;
  state->beta_power *= beta;
  const double debias = 1.0 - state->beta_power;
  Curvature c = learn(options, h, k, debias, e, state);

  // the robust mode takes all of ‖g‖² for variance and keeps no average: no worse in any trial
  const double average_gain = gain * g.clip * inv_scale;
  const double avg_sq = next_average_sq(beta, average_gain, sums);
  if (!options.robust) c.variance -= avg_sq / (debias * debias);
  c.variance = c.variance > e ? c.variance : e;
  if (options.sparsity_debias) debias_sparsity(options, sums, debias, e, &c, state);
  if (options.robust) c.h_min = limited_h_min(c.h_min, c.h_max);

  StepSize next = choose_step(options, c, k, e);
  const double update_clip = clip_update(options, g, envelope_sq, k, e, state);
  if (options.robust)
    next.lr = robust_lr(next.momentum, update_clip * update_clip * h, sums.start_sq, k, state);
  const double total_clip = g.clip * update_clip;

  state->step += 1.0;
  show(c, state);
  show_step(g, update_clip, next.momentum, state);

  tuned.active = true;
  tuned.lr = next.lr;
  tuned.momentum = next.momentum;
  tuned.update_scale = total_clip * inv_scale;
  tuned.average_gain = average_gain;
  tuned.norm_sq = h;
  tuned.root = g.root;
  return tuned;
}

// A step may not move by more than a hundred.
YFK_FN double cap_move(double lr, const Tuned& tuned) {
  return lr * tuned.root >= kLargestMove ? kLargestMove / sqrt(tuned.norm_sq + kEpsilon) : lr;
}

YFK_FN void tune_group_plain(const TunerOptions& options, const Tuned& tuned,
                             const GroupHyper& group, YellowFinCoefficients* out) {
  const double momentum = tuned.momentum;
  double lr = tuned.lr * group.lr;
  if (options.adaptive_clip) lr = cap_move(lr, tuned);
  if (options.robust) lr = limit_by_decay(lr, group.weight_decay, momentum);
  out->active = 1.0;
  out->grad_scale = group.sign * tuned.update_scale;
  out->coupled_decay = group.decoupled != 0.0 ? 0.0 : group.weight_decay;
  // a group whose lr was set to 0 stands still; Polyak's velocity alone would carry it on
  out->momentum = options.polyak && group.lr == 0.0 ? 0.0 : momentum;
  out->velocity_gain = options.polyak ? -lr : 1.0;
  // torch.optim.SGD, and so the reference, has no buffer in a step without momentum; the second
  // pass of trust_ratio needs one
  const bool buffered = options.polyak || options.trust_ratio || momentum != 0.0;
  out->velocity_keep = buffered ? 1.0 : 0.0;
  out->param_keep = group.decoupled != 0.0 ? 1.0 - lr * group.weight_decay : 1.0;
  out->param_gain = options.polyak ? 1.0 : -lr;
  out->average_decay = options.beta;
  out->average_gain = tuned.average_gain;
  out->update_clip = 1.0;
  out->shortfall = out->unit = out->unit_change = 0.0;
  out->lr = lr;
}

}  // namespace yfk
