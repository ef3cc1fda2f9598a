// Update rules, one element at a time: the only place where the arithmetic of an optimizer is
// written. The CPU and the CUDA driver run them; the list at the end is what all else follows from.
//
// A rule is written for a value type T that is `float` on the GPU (and in tails) and a short SIMD
// vector of floats on the CPU: plain arithmetic only, no branches on data. It offers
//
//   Coefficients                      what it is given per parameter group: doubles that begin as
//                                     Gate does. float64 parameters are served from the same buffer
//   kStates                           how many state columns it keeps, from kState on
//   kStored                           in what form they are kept
//   Rule(coefficients, step, ratio)   rounds to float, once per chunk. step: of this tensor, from 1;
//                                     ratio: a factor on its move, 1 unless the rule adapts to norms
//   T direction(g, p, T* state)       advances the state; returns u, the direction of the move
//   T moved(p, u)                     the parameter after the move
//   kMoveSums                         how many sums over all elements of the move the tuner wants
//   void move_sums(g, before, after, const T* state, T* sums)
//                                     adds an element's share to them; the state has advanced
//
// and, if the length of the move depends on the norms of the whole tensor (two passes: the first for
// state and norms, the second for the move),
//
//   T recalled(p, const T* state)     u once more, from the advanced state
//   trust_ratio(coefficients, p_sq, u_sq)    the ratio, from ‖p‖² and ‖u‖²
#pragma once

#include <math.h>

#include <cstdint>

#include "host_device.h"
#include "record.h"

namespace yfk {

// The head of every rule's coefficients.
#define YFK_GATE(field)                                                           \
  field(active)     /* 0 when the step is skipped: then nothing may be written */ \
  field(grad_scale) /* unscaling, clips and the sign of `maximize` in one factor */
struct Gate {
  YFK_RECORD(YFK_GATE)
};

// How the coefficients go on that are the user's settings; the gate (gate.h) fills in their head.
#define YFK_SETTINGS(field)                                             \
  field(sign)         /* -1 to maximize */                              \
  field(max_norm)     /* of the whole gradient; infinity for no clip */ \
  field(lr)                                                             \
  field(weight_decay)                                                   \
  field(decoupled)    /* 0 or 1 */
struct Settings : Gate {
  using Base = Gate;
  YFK_RECORD(YFK_SETTINGS)
};

// Weight decay either added to the gradient (or the direction) or shrinking the parameter.
YFK_FN double coupled_decay(const Settings& s) { return s.decoupled != 0.0 ? 0.0 : s.weight_decay; }
YFK_FN double decay_kept(const Settings& s) {
  return s.decoupled != 0.0 ? 1.0 - s.lr * s.weight_decay : 1.0;
}

// How a rule's states are kept (codes.h).
enum class Stored : int {
  kFloats = 0,   // in float32
  kCodes = 1,    // but the last in relative codes
  kFloat8 = 2,   // and the first in float8
  kMoments = 3,  // the last in absolute codes, and the first in float8, in units of its root
};
constexpr bool is_coded(Stored s) { return s != Stored::kFloats; }
constexpr bool is_in_float8(Stored s) { return s == Stored::kFloat8 || s == Stored::kMoments; }

// The square root; cpu/simd.h has it for vectors. Sources in cuda/ that say so are compiled with the
// GPU's fast division and root, good to a few units in the last place.
YFK_FN float root(float a) { return sqrtf(a); }

// base^n for a whole n >= 0, in products alone, so that host and device agree to the last bit.
YFK_FN double power(double base, double n) {
  double result = 1.0;
  for (uint64_t left = uint64_t(n); left; left >>= 1) {
    if (left & 1) result *= base;
    base *= base;
  }
  return result;
}

// What ends every rule: p <- keep p + gain u.
struct Move {
  static constexpr int kMoveSums = 0;
  static constexpr Stored kStored = Stored::kFloats;
  float keep, gain;

  template <class T>
  YFK_FN T moved(const T& p, const T& u) const {
    return keep * p + gain * u;
  }
};

// ---------------------------------------------------------------------------------------------
// YellowFin (arXiv 1706.03471)

// What the tuner hands to the update.
#define YFK_YELLOWFIN(field)                                                               \
  field(coupled_decay) /* weight decay added to the gradient */                            \
  field(momentum)                                                                          \
  field(velocity_gain) /* 1, or -lr in the Polyak form */                                  \
  field(velocity_keep) /* 0 while the reference has no momentum buffer yet */              \
  field(param_keep)    /* 1 - lr * weight_decay when the decay is decoupled */             \
  field(param_gain)    /* -lr, or 1 in the Polyak form */                                  \
  field(average_decay) /* beta; with a preconditioner that of the squares */               \
  field(average_gain)  /* (1 - beta) * unscaling * clips of the statistics; 1 - average_decay */ \
  field(update_clip)   /* with a preconditioner: the clips that the statistics do not see */ \
  field(shortfall)     /* with a preconditioner: growth for each <d, u>, to that of the longest steps */ \
  field(unit)          /* of a velocity in float8 */                                        \
  field(unit_change)   /* that of the step before, in units of this one */                  \
  field(lr)            /* the step size of this step; for those who ask, no update reads it */
struct YellowFinCoefficients : Gate {
  using Base = Gate;
  YFK_RECORD(YFK_YELLOWFIN)
};

// Both momentum forms in one expression:
//   buffer:  v <- mu v + d,       p <- p - lr v      (torch.optim.SGD)
//   polyak:  v <- mu v - lr d,    p <- p + v         (the paper)
// with d = c g + wd p, and  ḡ <- b ḡ + (1-b) c' g  for variance="exact".
//
// The robust mode wants to know how ‖p‖² has grown. Term by term, because the difference of two
// norms would drown early growth in rounding.
template <bool kAverages, bool kRobust = false>
struct YellowFin : Move {
  using Coefficients = YellowFinCoefficients;
  static constexpr int kStates = kAverages ? 2 : 1;
  static constexpr int kMoveSums = kRobust ? 1 : 0;
  float grad_scale, coupled_decay, momentum, velocity_gain, velocity_keep;
  float average_decay, average_gain;

  YFK_FN YellowFin(const Coefficients& c, double, double ratio)
      : Move{float(c.param_keep), float(ratio * c.param_gain)}, grad_scale(float(c.grad_scale)),
        coupled_decay(float(c.coupled_decay)), momentum(float(c.momentum)),
        velocity_gain(float(c.velocity_gain)), velocity_keep(float(c.velocity_keep)),
        average_decay(float(c.average_decay)), average_gain(float(c.average_gain)) {}

  template <class T>
  YFK_FN T direction(const T& g, const T& p, T* state) const {
    const T d = grad_scale * g + coupled_decay * p;
    const T velocity = momentum * state[0] + velocity_gain * d;
    state[0] = velocity_keep * velocity;
    if (kAverages) state[kStates - 1] = average_decay * state[kStates - 1] + average_gain * g;
    return velocity;
  }

  template <class T>
  YFK_FN void move_sums(const T&, const T& before, const T& after, const T*, T* sums) const {
    sums[0] = sums[0] + (after - before) * (after + before);
  }

  template <class T>
  YFK_FN T recalled(const T&, const T* state) const {
    return state[0];
  }

  // The step is lr ‖p‖ long. Polyak's velocity has lr inside: |velocity_gain| is lr there, else 1.
  static YFK_FN double trust_ratio(const Coefficients& c, double p_sq, double u_sq) {
    return p_sq > 0.0 && u_sq > 0.0 ? fabs(c.velocity_gain) * sqrt(p_sq) / sqrt(u_sq) : 1.0;
  }
};

constexpr float kMetricFloor = 0x1p-16f;

// In the shape of Adam's metric, with Polyak's momentum. d is the gradient over its root mean square,
// which is in grad_scale:
//   s <- b2 s + (1-b2) d²,   q = sqrt(s / bias) + floor,   v <- mu v - lr update_clip d / q,   p <- p + v
// Codes have no room for a weight decay in d: theirs is decoupled. In float8, v is in units that follow
// the length of the steps, so that it stays in range; a tensor that sits out keeps its v in units.
// Summed: the growth of ‖p‖² in the metric, as if each group took the longest steps, and <d, d / q>.
template <Stored kForm>
struct PreconditionedYellowFin : Move {
  using Coefficients = YellowFinCoefficients;
  static constexpr int kStates = 2;
  static constexpr int kMoveSums = 2;
  static constexpr Stored kStored = kForm;
  static constexpr bool kInFloat8 = is_in_float8(kForm);
  float grad_scale, coupled_decay, momentum, velocity_gain, square_decay, square_gain, debias,
      shortfall;

  YFK_FN PreconditionedYellowFin(const Coefficients& c, double step, double)
      : Move{float(c.param_keep), kInFloat8 ? float(c.unit) : 1.0f},
        grad_scale(float(c.grad_scale)), coupled_decay(float(c.coupled_decay)),
        momentum(float(kInFloat8 ? c.momentum * c.unit_change : c.momentum)),
        velocity_gain(float(c.velocity_gain * c.update_clip / (kInFloat8 ? c.unit : 1.0))),
        square_decay(float(c.average_decay)), square_gain(float(c.average_gain)),
        debias(float(1.0 / (1.0 - power(c.average_decay, step)))), shortfall(float(c.shortfall)) {}

  template <class T>
  YFK_FN T uphill(const T& g, const T& p) const {
    if constexpr (is_coded(kForm)) return grad_scale * g;
    return grad_scale * g + coupled_decay * p;
  }

  template <class T>
  YFK_FN T metric(const T& square_avg) const {
    return kMetricFloor + root(debias * square_avg);
  }

  template <class T>
  YFK_FN T direction(const T& g, const T& p, T* state) const {
    const T d = uphill(g, p);
    state[1] = square_decay * state[1] + square_gain * (d * d);
    state[0] = momentum * state[0] + velocity_gain * (d / metric(state[1]));
    return state[0];
  }

  template <class T>
  YFK_FN T moved(const T& p, const T& u) const {
    return kInFloat8 ? keep * p + gain * u : keep * p + u;
  }

  // What is worked out here a second time the compiler takes from above.
  template <class T>
  YFK_FN void move_sums(const T& g, const T& before, const T& after, const T* state,
                        T* sums) const {
    const T d = uphill(g, before);
    const T q = metric(state[1]);
    const T du = d * (d / q);
    sums[0] = sums[0] + (after - before) * (after + before) * q + shortfall * du;
    sums[1] = sums[1] + du;
  }
};

// ---------------------------------------------------------------------------------------------
// Rules whose coefficients are the user's settings

#define YFK_QHM(field) field(beta) field(nu)
struct QHMCoefficients : Settings {
  using Base = Settings;
  YFK_RECORD(YFK_QHM)
};

// Quasi-hyperbolic momentum (Ma & Yarats 2019):
//   d <- beta d + (1-beta) g,    p <- p - lr [(1-nu) g + nu d]
struct QHM : Move {
  using Coefficients = QHMCoefficients;
  static constexpr int kStates = 1;
  float grad_scale, decay, beta, fresh, plain, averaged;

  YFK_FN QHM(const Coefficients& c, double, double)
      : Move{float(decay_kept(c)), float(-c.lr)}, grad_scale(float(c.grad_scale)),
        decay(float(coupled_decay(c))), beta(float(c.beta)), fresh(float(1.0 - c.beta)),
        plain(float(1.0 - c.nu)), averaged(float(c.nu)) {}

  template <class T>
  YFK_FN T direction(const T& g, const T& p, T* state) const {
    const T d = grad_scale * g + decay * p;
    state[0] = beta * state[0] + fresh * d;
    return plain * d + averaged * state[0];
  }
};

#define YFK_QHADAM(field) field(beta1) field(beta2) field(nu1) field(nu2) field(eps)
struct QHAdamCoefficients : Settings {
  using Base = Settings;
  YFK_RECORD(YFK_QHADAM)
};

// Quasi-hyperbolic Adam (Ma & Yarats 2019), with m^ and v^ the debiased averages:
//   p <- p - lr [(1-nu1) g + nu1 m^] / (sqrt((1-nu2) g² + nu2 v^) + eps)
struct QHAdam : Move {
  using Coefficients = QHAdamCoefficients;
  static constexpr int kStates = 2;
  float grad_scale, decay, beta1, fresh1, beta2, fresh2, plain1, averaged1, plain2, averaged2, eps;

  YFK_FN QHAdam(const Coefficients& c, double step, double)
      : Move{float(decay_kept(c)), float(-c.lr)}, grad_scale(float(c.grad_scale)),
        decay(float(coupled_decay(c))), beta1(float(c.beta1)), fresh1(float(1.0 - c.beta1)),
        beta2(float(c.beta2)), fresh2(float(1.0 - c.beta2)), plain1(float(1.0 - c.nu1)),
        averaged1(float(c.nu1 / (1.0 - power(c.beta1, step)))), plain2(float(1.0 - c.nu2)),
        averaged2(float(c.nu2 / (1.0 - power(c.beta2, step)))), eps(float(c.eps)) {}

  template <class T>
  YFK_FN T direction(const T& g, const T& p, T* state) const {
    const T d = grad_scale * g + decay * p;
    state[0] = beta1 * state[0] + fresh1 * d;
    state[1] = beta2 * state[1] + fresh2 * (d * d);
    const T size = eps + root(plain2 * (d * d) + averaged2 * state[1]);
    return (plain1 * d + averaged1 * state[0]) / size;
  }
};

// Where Adam's correction of the moments' bias goes.
enum class BiasCorrection : int { kNone = 0, kMoments = 1, kLr = 2 };

#define YFK_LAMB(field)                                     \
  field(beta1) field(beta2)                                 \
  field(beta3)      /* 1 - beta1, or 1 without grad_averaging */ \
  field(eps)                                                \
  field(correction) /* a BiasCorrection */                  \
  field(adapts)     /* 0: ratio 1, plain Adam */            \
  field(norm_min) field(norm_max) /* phi clamps ‖p‖ to these */ \
  field(ratio_min) field(ratio_max)
struct LAMBCoefficients : Settings {
  using Base = Settings;
  YFK_RECORD(YFK_LAMB)
};

// LAMB (arXiv 1904.00962 v5, algorithm 2; docs/optimizers/lamb.md for its presets):
//   m <- b1 m + b3 g,   v <- b2 v + (1-b2) g²,   u = (m/bc1) / (sqrt(v/bc2) + eps) + wd p
//   p <- p - lr * ratio * u,   ratio = phi(‖p‖) / ‖u‖
struct LAMB : Move {
  using Coefficients = LAMBCoefficients;
  static constexpr int kStates = 2;
  float grad_scale, decay, beta1, fresh1, beta2, fresh2, debias1, debias2, eps;

  YFK_FN LAMB(const Coefficients& c, double step, double ratio)
      : Move{float(decay_kept(c)), 0.0f}, grad_scale(float(c.grad_scale)),
        decay(float(coupled_decay(c))), beta1(float(c.beta1)), fresh1(float(c.beta3)),
        beta2(float(c.beta2)), fresh2(float(1.0 - c.beta2)), debias1(1.0f), debias2(1.0f),
        eps(float(c.eps)) {
    const auto correction = BiasCorrection(int(c.correction));
    double lr = c.lr;
    if (correction != BiasCorrection::kNone) {
      const double bias1 = 1.0 - power(c.beta1, step), bias2 = 1.0 - power(c.beta2, step);
      if (correction == BiasCorrection::kLr) {
        lr *= sqrt(bias2) / bias1;
      } else {
        debias1 = float(1.0 / bias1);
        debias2 = float(1.0 / bias2);
      }
    }
    gain = float(-lr * ratio);
  }

  template <class T>
  YFK_FN T direction(const T& g, const T& p, T* state) const {
    const T d = grad_scale * g;
    state[0] = beta1 * state[0] + fresh1 * d;
    state[1] = beta2 * state[1] + fresh2 * (d * d);
    return recalled(p, state);
  }

  template <class T>
  YFK_FN T recalled(const T& p, const T* state) const {
    return debias1 * state[0] / (eps + root(debias2 * state[1])) + decay * p;
  }

  static YFK_FN double trust_ratio(const Coefficients& c, double p_sq, double u_sq) {
    if (c.adapts == 0.0 || !(p_sq > 0.0 && u_sq > 0.0)) return 1.0;
    const double norm = fmin(fmax(sqrt(p_sq), c.norm_min), c.norm_max);
    return fmin(fmax(norm / sqrt(u_sq), c.ratio_min), c.ratio_max);
  }
};

// A rule with two moments of the gradient, in a byte each.
template <class Rule>
struct InBytes : Rule {
  using Rule::Rule;
  static constexpr Stored kStored = Stored::kMoments;
};

// ---------------------------------------------------------------------------------------------
// The list

// In the order of yfkernels/ops/rules.py: constant, name, the passes that the rule can be run in
// (OnePass, TwoPasses or Either), struct.
#define YFK_RULES(rule)                                                                           \
  rule(kYellowFin, yellowfin, Either, YellowFin<true>)                                            \
  rule(kYellowFinSketch, yellowfin_sketch, Either, YellowFin<false>)                              \
  rule(kQHM, qhm, OnePass, QHM)                                                                   \
  rule(kQHAdam, qhadam, OnePass, QHAdam)                                                          \
  rule(kLAMB, lamb, TwoPasses, LAMB)                                                              \
  rule(kYellowFinRobust, yellowfin_robust, OnePass, YellowFin<false, true>)                       \
  rule(kYellowFinDiagonal, yellowfin_diagonal, OnePass, PreconditionedYellowFin<Stored::kFloats>) \
  rule(kYellowFinCompact, yellowfin_compact, OnePass, PreconditionedYellowFin<Stored::kCodes>)    \
  rule(kYellowFinFloat8, yellowfin_float8, OnePass, PreconditionedYellowFin<Stored::kFloat8>)     \
  rule(kQHAdamBytes, qhadam_bytes, OnePass, InBytes<QHAdam>)                                      \
  rule(kLAMBBytes, lamb_bytes, TwoPasses, InBytes<LAMB>)

enum class RuleId : int {
#define YFK_RULE_ID(constant, name, passes, ...) constant,
  YFK_RULES(YFK_RULE_ID)
#undef YFK_RULE_ID
};

}  // namespace yfk
