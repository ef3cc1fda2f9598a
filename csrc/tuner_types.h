// What the YellowFin tuner is given and what it remembers.
#pragma once

#include <cstdint>

namespace yfk {

// Everything the tuner remembers, in this order, as float64; the window (w values) follows it
// directly, then with a preconditioner a second one, or with variance="sketch" the sketch of the
// gradient average (kTile values). yfkernels/ops/tuner.py names the same fields.
struct TunerState {
  double format;                // layout version, checked when a state_dict is loaded
  // the options, 0 or 1, that say what the other numbers mean: written once, when a tuner is made
  double robust, preconditioned, polyak, log_smooth;
  double step;                  // steps taken
  double skipped;               // steps refused for a non-finite gradient
  double beta_power;            // beta^step; 1 - beta_power is the zero debias
  double grad_sq_avg;           // EMA of h = ‖g‖²; with a preconditioner h = t²<d, u>
  double h_min_avg, h_max_avg;  // EMA of the window's ends (their logarithms if log_smooth)
  double grad_norm_avg;         // EMA of sqrt(h)
  double distance_avg;
  double sparsity_avg;          // EMA of the share of non-zero gradient entries
  // what the last update summed; the next step that counts reads it
  double unread_growth;         // of ‖x‖²; with a preconditioner in its metric q
  double unread_metric_sq;      // with a preconditioner: Σ d²/q
  // the robust mode
  double growth;                // ‖x‖² - ‖x_0‖², up to the step before the last
  double radius;                // an estimate from below of how far x has come from x_0
  double grad_sq_sum;           // Σ h over all steps, of the gradients as they were used
  double recent_sq_avg;         // EMA of ‖g‖², of the last ten steps or so
  double recent_power;          // kRecent^step, for its zero debias
  // with a preconditioner
  double envelope_avg;          // EMA of the upper end of the window of ‖g‖² (its logarithm)
  double envelope;              // that end; the first window is of h
  double mean_sq_avg;           // EMA of ‖g‖² / n
  double scale;                 // t: the root mean square of the gradient
  // what the last step measured and used
  double h_min, h_max, variance, distance, lr, momentum, grad_norm, clip_coefficient;
};

constexpr double kStateFormat = 5.0;

struct TunerOptions {
  double beta;
  double max_norm;              // +inf: no manual clip
  double initial_lr, initial_momentum;
  int64_t window;
  bool adaptive_clip, polyak, log_smooth, sparsity_debias, sketch, trust_ratio, robust;
  bool preconditioned;
};

// One step's gradient, before any unscaling or clip, and where the parameters began.
struct GradientSums {
  double grad_sq;               // ‖g‖²
  double avg_dot_grad;          // <gbar, g>
  double avg_sq;                // ‖gbar‖²
  double nonzero, count;        // entries
  double avg_grad_sq;           // ‖g‖² as gbar's space sees it: the sketch's own, else grad_sq
  double start_sq;              // ‖x_0‖²
};

struct GroupHyper {
  double lr;                    // the user's multiplier
  double weight_decay;
  double decoupled;             // 0 or 1
  double sign;                  // -1 to maximize
};

}  // namespace yfk
