// How gradients are clipped: for the statistics and the update alike, then for the update alone.
#pragma once

#include "single_step.h"
#include "step.h"

namespace yfk {

constexpr double kEnvelopeGuard = 10.0;  // statistics may see at most 10 sqrt(h_max)
constexpr double kRecent = 0.9;          // of the average that spikes are told from
constexpr double kSpike = 2.0;           // ‖g‖ over its recent size that counts as one
constexpr int64_t kSpikeSteps = 10;      // before any is told

// min(1, target / norm). e: torch.nn.utils.clip_grad_norm_ has kEpsilon.
YFK_FN double clip_factor(double target, double norm, double e = kEpsilon) {
  const double factor = target / (norm + e);
  return factor < 1.0 ? factor : 1.0;
}

// A step's gradient after the clips.
struct Clipped {
  double norm;  // before them
  double clip;
  double norm_sq, root;  // after them: ‖g‖² and ‖g‖
  bool exploding;
};

// The user's clip, then the guard that caps how fast the statistics can grow.
// envelope_sq: the upper end of the window of ‖g‖² in the step before.
YFK_FN Clipped clip_gradient(const TunerOptions& options, double grad_sq, double envelope_sq,
                             int64_t k, double e) {
  const double norm = sqrt(grad_sq);
  double clip = clip_factor(options.max_norm, norm);
  if (options.adaptive_clip && k >= 2)
    clip *= clip_factor(kEnvelopeGuard * sqrt(envelope_sq) + e, clip * norm, e);
  const double norm_sq = clip * clip * grad_sq;
  return {norm, clip, norm_sq, sqrt(norm_sq), k >= 1 && norm_sq >= envelope_sq};
}

// For those who ask what the last step was given, and what it used.
YFK_FN void show_step(const Clipped& g, double update_clip, double momentum, TunerState* state) {
  state->momentum = momentum;
  state->grad_norm = g.norm;
  state->clip_coefficient = g.clip * update_clip;
}

// An exploding gradient is clipped in the update, after the statistics have seen it; and in the
// robust mode one that is long beside those just before it.
YFK_FN double clip_update(const TunerOptions& options, const Clipped& g, double envelope_sq,
                          int64_t k, double e, TunerState* state) {
  double update_clip =
      options.adaptive_clip && g.exploding ? clip_factor(sqrt(envelope_sq) + e, g.root, e) : 1.0;
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

}  // namespace yfk
