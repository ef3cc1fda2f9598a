// The YellowFin tuner: sums of one step's gradient in, step size and momentum out. Scalars only.
//
// First what is worked out once (tune), then what each parameter group makes of it (tune_group):
// on a GPU by one thread, and by as many as there are groups. Host and device come to the same bits
// (statistics.h). Section numbers are those of docs/yellowfin.md.
// Source: Zhang, Mitliagkas, Ré, arXiv 1706.03471, and the authors' PyTorch release of 2019.
#pragma once

#include "preconditioned.h"
#include "statistics.h"

namespace yfk {

constexpr double kLargestMove = 100.0;      // lr * ‖g‖ of one step, adaptive clipping only

// 8. the user's multiplier, and a cap on the move of one step
YFK_FN void tune_group_plain(const TunerOptions& options, const Tuned& tuned,
                             const GroupHyper& group, YellowFinCoefficients* out) {
  const double momentum = tuned.momentum;
  double lr = tuned.lr * group.lr;
  if (options.adaptive_clip && lr * tuned.root >= kLargestMove)
    lr = kLargestMove / sqrt(tuned.norm_sq + kEpsilon);
  // the statistics do not see weight decay: of a small loss lr would be too much for it
  const double decay = group.weight_decay;
  if (options.robust && lr * decay > 1.0 - momentum) lr = (1.0 - momentum) / decay;
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
  out->lr = lr;
}

// One tuner step of the published and the robust mode.
YFK_FN Tuned tune_plain(const TunerOptions& options, const GradientSums& sums, double inv_scale,
                        bool found_inf, TunerState* state) {
  const double grad_sq = sums.grad_sq * inv_scale * inv_scale;
  Tuned tuned = {};
  if (!takes_step(options, grad_sq, found_inf, state)) return tuned;
  const double beta = options.beta, gain = 1.0 - options.beta;
  const double e = options.robust ? kTiny : kEpsilon;
  const int64_t k = int64_t(state->step);

  // 1-4, 6
  const double envelope_sq = state->h_max;
  const Clipped g = clipped(options, grad_sq, envelope_sq, k, e);
  const double h = g.norm_sq;
  state->beta_power *= beta;
  const double debias = 1.0 - state->beta_power;
  Curvature c = learn(options, h, k, debias, e, reinterpret_cast<double*>(state + 1), state);

  // 5. variance: ‖gbar‖² after this step's average, from the three sums of one reading pass. The
  // robust mode takes all of ‖g‖² for variance and keeps no average: no worse in any trial
  const double average_gain = gain * g.clip * inv_scale;
  const double avg_sq = beta * beta * sums.avg_sq + 2.0 * beta * average_gain * sums.avg_dot_grad +
                        average_gain * average_gain * sums.avg_grad_sq;
  if (!options.robust) c.variance -= avg_sq / (debias * debias);
  c.variance = c.variance > e ? c.variance : e;

  if (options.sparsity_debias) {
    const double nonzero_share = sums.count > 0.0 ? sums.nonzero / sums.count : 0.0;
    state->sparsity_avg = beta * state->sparsity_avg + gain * nonzero_share;
    const double share = state->sparsity_avg / debias;
    c.h_min *= share;
    c.h_max *= share;
    c.variance *= share;
    c.distance /= sqrt(share) + e;
  }
  if (options.robust) c.h_min = in_range(c.h_min, c.h_max);

  // 7. SingleStep, with a slow start over ten windows
  StepSize next = {options.initial_lr, options.initial_momentum};
  if (k >= 1) {
    next = single_step(c.distance, c.variance, c.h_min, c.h_max, e);
    const double warmup = double(k + 1) / double(10 * options.window);
    next.lr *= warmup < 1.0 ? warmup : 1.0;
  }

  // 9
  const double update_clip = clip_of_update(options, g, envelope_sq, k, e, state);
  if (options.robust) {
    if (k == 0) state->radius = kFirstRadius * (1.0 + sqrt(sums.start_sq));
    travel(state->unread_growth, state);
    state->unread_growth = 0.0;
    state->grad_sq_sum += update_clip * update_clip * h;
    next.lr = distance_over_gradients(next.momentum, *state);
  }
  const double total_clip = g.clip * update_clip;

  state->step += 1.0;
  state->h_min = c.h_min;
  state->h_max = c.h_max;
  state->variance = c.variance;
  state->distance = c.distance;
  state->momentum = next.momentum;
  state->grad_norm = g.norm;
  state->clip_coefficient = total_clip;

  tuned.active = true;
  tuned.lr = next.lr;
  tuned.momentum = next.momentum;
  tuned.update_scale = total_clip * inv_scale;
  tuned.average_gain = average_gain;
  tuned.norm_sq = h;
  tuned.root = g.root;
  return tuned;
}

// One tuner step, but for what belongs to the groups.
// inv_scale: 1 / AMP loss scale.
YFK_FN Tuned tune(const TunerOptions& options, const GradientSums& sums, double inv_scale,
                  bool found_inf, TunerState* state) {
  if (options.preconditioned)
    return tune_preconditioned(options, sums, inv_scale, found_inf, state);
  return tune_plain(options, sums, inv_scale, found_inf, state);
}

// The coefficients of group `i`, in any order of the groups. The first one's lr is what the tuner
// shows.
YFK_FN void tune_group(const TunerOptions& options, const Tuned& tuned, int64_t i,
                       const GroupHyper* groups, YellowFinCoefficients* coefficients,
                       TunerState* state) {
  YellowFinCoefficients* out = coefficients + i;
  if (!tuned.active) {
    out->active = 0.0;
    return;
  }
  if (options.preconditioned)
    tune_group_preconditioned(tuned, groups[i], out);
  else
    tune_group_plain(options, tuned, groups[i], out);
  if (i == 0) state->lr = out->lr;
}

}  // namespace yfk
