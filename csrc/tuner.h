// The YellowFin tuner: sums of one step's gradient in, step size and momentum out. Scalars only.
//
// The same code runs on the host and in a one-thread device kernel. Everything but ln and exp is
// built from correctly rounded operations, and both compilers are told not to contract them into
// fused multiply-adds, so host and device agree to the last bit there.
// Source: Zhang, Mitliagkas, Ré, arXiv 1706.03471, and the authors' PyTorch release of 2019.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "rules.h"

namespace yfk {

constexpr double kEpsilon = 1e-6;           // e, everywhere in the reference
constexpr double kTiny = 1e-30;             // in its place in the robust mode, which has no scale
constexpr double kEnvelopeGuard = 10.0;     // statistics may see at most 10 sqrt(h_max)
constexpr double kLargestMove = 100.0;      // lr * ‖g‖ of one step, adaptive clipping only
constexpr double kLargestCubic = 1e300;

// The robust mode (docs/yellowfin.md)
constexpr double kWidestRange = 30.0;       // h_max / h_min at most
constexpr double kFirstRadius = 1e-3;       // of 1 + ‖x_0‖
constexpr double kRecent = 0.9;             // of the average that spikes are told from
constexpr double kSpike = 2.0;              // ‖g‖ over its recent size that counts as one
constexpr int64_t kCalmSteps = 10;          // before any is told

// Everything the tuner remembers, in this order, as float64; the window (w values) and, with
// variance="sketch", the sketch of the gradient average (kTile values) follow it directly.
// yfkernels/ops/tuner.py names the same fields.
struct TunerState {
  double format;                // layout version, checked when a state_dict is loaded
  double step;                  // steps taken
  double skipped;               // steps refused for a non-finite gradient
  double beta_power;            // beta^step; 1 - beta_power is the zero debias
  double grad_sq_avg;           // EMA of h = ‖g‖²
  double h_min_avg, h_max_avg;  // EMA of the window's ends (their logarithms if log_smooth)
  double grad_norm_avg;         // EMA of sqrt(h)
  double distance_avg;
  double sparsity_avg;          // EMA of the share of non-zero gradient entries
  // the robust mode
  double unread_growth;         // of a saved state: of ‖x‖² in its last step
  double growth;                // ‖x‖² - ‖x_0‖², up to the step before the last
  double radius;                // an estimate from below of how far x has come from x_0
  double grad_sq_sum;           // Σ ‖g‖² over all steps, of the gradients as they were used
  double recent_sq_avg;         // EMA of h, of the last ten steps or so
  double recent_power;          // kRecent^step, for its zero debias
  // what the last step measured and used
  double h_min, h_max, variance, distance, lr, momentum, grad_norm, clip_coefficient;
};

constexpr double kStateFormat = 2.0;

struct TunerOptions {
  double beta;
  double max_norm;              // +inf: no manual clip
  double initial_lr, initial_momentum;
  int64_t window;
  bool adaptive_clip, polyak, log_smooth, sparsity_debias, sketch, trust_ratio, robust;
};

// One step's gradient, before any unscaling or clip.
struct GradientSums {
  double grad_sq;               // ‖g‖²
  double avg_dot_grad;          // <gbar, g>
  double avg_sq;                // ‖gbar‖²
  double nonzero, count;        // entries
  double avg_grad_sq;           // ‖g‖² as gbar's space sees it: the sketch's own, else grad_sq
  double growth;                // of ‖x‖² in the step before
  double start_sq;              // ‖x_0‖²
};

struct GroupHyper {
  double lr;                    // the user's multiplier
  double weight_decay;
  double decoupled;             // 0 or 1
  double sign;                  // -1 to maximize
};

// y = 1 - x for the root x in (0, 1) of (1-x)³ = p x, that is of y³ + p y - p = 0.
// Newton in y keeps the relative precision of 1 - sqrt(mu), which is what lr needs; started above
// the root the iteration only falls, and the form below has no subtraction to cancel in.
YFK_FN double cubic_complement(double p) {
  // an upper bound of the cube root of p, at most 2.6 times too large: a power of two
  int64_t bits;
  memcpy(&bits, &p, sizeof bits);
  const int64_t exponent = (bits >> 52) - 1023;
  const int64_t third = (exponent + 3 * 1024 + 3) / 3 - 1024;
  const int64_t start = (third + 1023) << 52;
  double y;
  memcpy(&y, &start, sizeof y);
  y = p < 1.0 ? y : 1.0;
  for (int i = 0; i < 12; ++i) {
    const double y2 = y * y;
    y = (2.0 * y2 * y + p) / (3.0 * y2 + p);
  }
  return y;
}

struct StepSize {
  double lr, momentum;
};

// SingleStep (paper, equation 15): minimise mu D² + lr² C subject to
// mu >= ((sqrt(r)-1)/(sqrt(r)+1))² with r = h_max/h_min, and lr = (1-sqrt(mu))²/h_min.
YFK_FN StepSize single_step(double distance, double variance, double h_min, double h_max,
                            double e = kEpsilon) {
  const double h = h_min + e;
  const double dh = (distance + e) * h;
  double p = dh * dh / (2.0 * (variance + e));
  p = p < kLargestCubic ? p : kLargestCubic;
  const double y = cubic_complement(p);
  const double x = p > 1.0 ? y * y * y / p : 1.0 - y;

  double ratio = (h_max + e) / h;
  ratio = ratio > 1.0 + kEpsilon ? ratio : 1.0 + kEpsilon;
  const double root = sqrt(ratio);
  const double x_robust = (root - 1.0) / (root + 1.0);
  const double y_robust = 2.0 / (root + 1.0);

  const double sqrt_mu = x > x_robust ? x : x_robust;
  const double gap = y < y_robust ? y : y_robust;   // 1 - sqrt(mu)
  return {gap * gap / h, sqrt_mu * sqrt_mu};
}

// e: torch.nn.utils.clip_grad_norm_ has kEpsilon.
YFK_FN double clip_factor(double target, double norm, double e = kEpsilon) {
  const double factor = target / (norm + e);
  return factor < 1.0 ? factor : 1.0;
}

// The robust step size: how far the parameters have come, over what the gradients have summed up to.
// The step of DoG (Ivgi, Hinder, Carmon 2023) for lr / (1 - mu), the whole travel of one gradient.
YFK_FN double distance_over_gradients(double momentum, const TunerState& state) {
  const double sum = state.grad_sq_sum;
  return sum > 0.0 ? (1.0 - momentum) * state.radius / sqrt(sum) : 0.0;
}

YFK_FN void coefficients_of_group(const TunerOptions& options, const GroupHyper& group, double lr,
                                  double momentum, double update_scale, double average_gain,
                                  YellowFinCoefficients* out) {
  out->active = 1.0;
  out->grad_scale = group.sign * update_scale;
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
  out->average_gain = average_gain;
}

// One tuner step. Writes `coefficients` for every group and returns them for group 0.
// inv_scale: 1 / AMP loss scale. A non-finite ‖g‖² or found_inf skips the step: nothing changes
// but the counter. Section numbers are those of docs/yellowfin.md.
YFK_FN void tune(const TunerOptions& options, const GradientSums& sums, double inv_scale,
                 bool found_inf, TunerState* state, const GroupHyper* groups, int64_t num_groups,
                 YellowFinCoefficients* coefficients) {
  double* window = reinterpret_cast<double*>(state + 1);
  const double grad_sq = sums.grad_sq * inv_scale * inv_scale;
  const bool finite = !found_inf && grad_sq <= 1.7976931348623157e308;  // NaN is not, either
  const bool silent = options.robust && grad_sq == 0.0;                 // nothing to learn from
  if (!finite || silent) {
    if (!finite) state->skipped += 1.0;
    for (int64_t i = 0; i < num_groups; ++i) coefficients[i].active = 0.0;
    return;
  }
  const double beta = options.beta;
  const double gain = 1.0 - beta;
  const double e = options.robust ? kTiny : kEpsilon;
  const int64_t k = int64_t(state->step);
  const double envelope = sqrt(state->h_max);  // of the step before

  // 1-2. the manual clip, then the guard that caps how fast the statistics can grow
  const double norm = sqrt(grad_sq);
  double clip = clip_factor(options.max_norm, norm);
  if (options.adaptive_clip && k >= 2)
    clip *= clip_factor(kEnvelopeGuard * envelope + e, clip * norm, e);

  // 3. h and its average
  const double h = clip * clip * grad_sq;
  const double h_root = sqrt(h);
  const bool exploding = k >= 1 && h >= state->h_max;
  state->grad_sq_avg = beta * state->grad_sq_avg + gain * h;
  state->beta_power *= beta;
  const double debias = 1.0 - state->beta_power;

  // 4. curvature range over the window
  window[k % options.window] = h;
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
  state->h_min_avg = beta * state->h_min_avg + gain * low;
  state->h_max_avg = beta * state->h_max_avg + gain * high;
  double h_min = state->h_min_avg / debias, h_max = state->h_max_avg / debias;
  if (options.log_smooth) {
    h_min = exp(h_min);
    h_max = exp(h_max);
  }

  // 5. variance: ‖gbar‖² after this step's average, from the three sums of one reading pass. The
  // robust mode takes all of ‖g‖² for variance and keeps no average: no worse in any trial
  const double average_gain = gain * clip * inv_scale;
  const double avg_sq = beta * beta * sums.avg_sq + 2.0 * beta * average_gain * sums.avg_dot_grad +
                        average_gain * average_gain * sums.avg_grad_sq;
  double variance = state->grad_sq_avg / debias;
  if (!options.robust) variance -= avg_sq / (debias * debias);
  variance = variance > e ? variance : e;

  // 6. distance to the optimum
  state->grad_norm_avg = beta * state->grad_norm_avg + gain * h_root;
  state->distance_avg = beta * state->distance_avg +
                        gain * (state->grad_norm_avg / (state->grad_sq_avg + e));
  double distance = state->distance_avg / debias;

  if (options.sparsity_debias) {
    const double nonzero_share = sums.count > 0.0 ? sums.nonzero / sums.count : 0.0;
    state->sparsity_avg = beta * state->sparsity_avg + gain * nonzero_share;
    const double share = state->sparsity_avg / debias;
    h_min *= share;
    h_max *= share;
    variance *= share;
    distance /= sqrt(share) + e;
  }

  if (options.robust && h_min < h_max / kWidestRange) h_min = h_max / kWidestRange;

  // 7. SingleStep, with a slow start over ten windows
  StepSize next = {options.initial_lr, options.initial_momentum};
  if (k >= 1) {
    next = single_step(distance, variance, h_min, h_max, e);
    const double warmup = double(k + 1) / double(10 * options.window);
    next.lr *= warmup < 1.0 ? warmup : 1.0;
  }

  // 9. an exploding gradient is clipped in the update, after the statistics saw it; and in the
  // robust mode one that is long beside those just before it
  double calm = options.adaptive_clip && exploding ? clip_factor(envelope + e, h_root, e) : 1.0;
  if (options.robust) {
    if (options.adaptive_clip && k >= kCalmSteps) {
      const double recent_sq = state->recent_sq_avg / (1.0 - state->recent_power);
      const double spike_clip = clip_factor(kSpike * sqrt(recent_sq), h_root, e);
      calm = spike_clip < calm ? spike_clip : calm;
    }
    state->recent_sq_avg = kRecent * state->recent_sq_avg + (1.0 - kRecent) * h;
    state->recent_power = k == 0 ? kRecent : kRecent * state->recent_power;

    state->growth += state->unread_growth + sums.growth;
    state->unread_growth = 0.0;
    const double travelled = sqrt(fabs(state->growth));
    if (k == 0) state->radius = kFirstRadius * (1.0 + sqrt(sums.start_sq));
    if (travelled > state->radius) state->radius = travelled;
    state->grad_sq_sum += calm * calm * h;
    next.lr = distance_over_gradients(next.momentum, *state);
  }
  const double update_clip = clip * calm;

  state->step += 1.0;
  state->h_min = h_min;
  state->h_max = h_max;
  state->variance = variance;
  state->distance = distance;
  state->momentum = next.momentum;
  state->grad_norm = norm;
  state->clip_coefficient = update_clip;

  // 8. the user's multiplier, and a cap on the move of one step
  for (int64_t i = 0; i < num_groups; ++i) {
    double lr = next.lr * groups[i].lr;
    if (options.adaptive_clip && lr * h_root >= kLargestMove) lr = kLargestMove / sqrt(h + kEpsilon);
    // the statistics do not see weight decay: of a small loss lr would be too much for it
    const double decay = groups[i].weight_decay;
    if (options.robust && lr * decay > 1.0 - next.momentum) lr = (1.0 - next.momentum) / decay;
    if (i == 0) state->lr = lr;
    coefficients_of_group(options, groups[i], lr, next.momentum, update_clip * inv_scale,
                          average_gain, coefficients + i);
  }
}

}  // namespace yfk
