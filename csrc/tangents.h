// Tangents of optimizer steps, one element at a time: how d(w, slots)/d(lr) follows from one step
// to the next, for tuners that find lr by hypergradients (Donini et al., arXiv 1910.08525).
//
// As rules.h it is written for a value type T that is `float` on the GPU and a short SIMD vector of
// floats on the CPU. All numbers of a step come from the host, a record of doubles for each tensor.
//
// With g the gradient, w the parameter before the step, h = H z the Hessian-vector product with
// z = mu Zw, and Z damped first, Z <- mu Z:
//
//   g' = sign g + coupled_decay w,   dg = sign h + coupled_decay Zw
//   u: the direction of the step from g' and the slots,   du: its derivative along (dg, Z)
//   own = -u - decoupled_decay w                      (the step's own derivative of w to lr)
//   Zw <- (1 - lr decoupled_decay) Zw - lr du + own
//
// With mu = 0 nothing that Z or h hold counts, not even a NaN. The slots are read and left as they
// are: the step of the optimizer comes after.
#pragma once

#include <string.h>

#include "rules.h"
#include "table.h"

namespace yfk {

// Two functions that cpu/simd.h has for vectors. Neither branches, on the GPU either: the compiler
// would work out a step twice.

// x with those of its bits that the mask has: all of them, or none and so 0, whatever x is.
YFK_FN float masked(float x, uint32_t mask) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  bits &= mask;
  memcpy(&x, &bits, sizeof bits);
  return x;
}

// a / b, and 0 where b is 0.
YFK_FN float quotient(float a, float b) {
  const bool there = b != 0.0f;
  return (there ? a : 0.0f) / (there ? b : 1.0f);
}

// ---------------------------------------------------------------------------------------------
// Families of steps
//
// A family offers
//
//   Coefficients                 what it is given per tensor; begins as Tangents does
//   kSlots, kTangents            columns of the optimizer, and of Z: Zw, then one for each slot
//   T own(g, w, const T* slots)  the step's own derivative
//   T advance(g, w, h, const T* slots, T* z)    the same, with Z advanced

#define YFK_TANGENTS(field)                                              \
  field(damping)         /* mu */                                        \
  field(sign)            /* -1 to maximize */                            \
  field(coupled_decay)   /* weight decay added to the gradient */        \
  field(decoupled_decay) /* weight decay that shrinks the parameter */   \
  field(lr)                                                              \
  field(keeps_own)       /* 0 or 1: whether `own` goes where h was */
struct Tangents {
  YFK_RECORD(YFK_TANGENTS)
};

// What all families share.
struct TangentStep {
  bool keeps_own;
  uint32_t counted;  // a mask: whether Z and h count
  float damping, sign, decay, shrink, keep, lr;

  YFK_FN explicit TangentStep(const Tangents& c)
      : keeps_own(c.keeps_own != 0.0), counted(c.damping != 0.0 ? ~0u : 0u),
        damping(float(c.damping)), sign(float(c.sign)), decay(float(c.coupled_decay)),
        shrink(float(-c.decoupled_decay)), keep(float(1.0 - c.lr * c.decoupled_decay)),
        lr(float(c.lr)) {}

  template <class T>
  YFK_FN T uphill(const T& g, const T& w) const {
    return sign * g + decay * w;
  }
  template <class T>
  YFK_FN T damp(const T& z) const {
    return damping * masked(z, counted);
  }
  // Of the gradient; zw is damped.
  template <class T>
  YFK_FN T tilt(const T& h, const T& zw) const {
    return sign * masked(h, counted) + decay * zw;
  }
  template <class T>
  YFK_FN T own_of(const T& w, const T& u) const {
    return shrink * w - u;
  }
  template <class T>
  YFK_FN T moved(const T& zw, const T& du, const T& own) const {
    return keep * zw - lr * du + own;
  }
};

// Gradient descent: u = g'.
struct PlainTangents : TangentStep {
  using Coefficients = Tangents;
  static constexpr int kSlots = 0, kTangents = 1;

  YFK_FN explicit PlainTangents(const Coefficients& c) : TangentStep(c) {}

  template <class T>
  YFK_FN T own(const T& g, const T& w, const T*) const {
    return own_of(w, uphill(g, w));
  }
  template <class T>
  YFK_FN T advance(const T& g, const T& w, const T& h, const T* slots, T* z) const {
    const T zw = damp(z[0]), b = own(g, w, slots);
    z[0] = moved(zw, tilt(h, zw), b);
    return b;
  }
};

#define YFK_MOMENTUM_TANGENTS(field)                  \
  field(momentum) field(fresh) /* m, c */             \
  field(plain) field(averaged) /* a, b: of g' and v in u */
struct MomentumTangentsCoefficients : Tangents {
  using Base = Tangents;
  YFK_RECORD(YFK_MOMENTUM_TANGENTS)
};

// Momentum, Nesterov's and quasi-hyperbolic:  v <- m v + c g',   u = a g' + b v
struct MomentumTangents : TangentStep {
  using Coefficients = MomentumTangentsCoefficients;
  static constexpr int kSlots = 1, kTangents = 2;
  float momentum, fresh, plain, averaged;

  YFK_FN explicit MomentumTangents(const Coefficients& c)
      : TangentStep(c), momentum(float(c.momentum)), fresh(float(c.fresh)), plain(float(c.plain)),
        averaged(float(c.averaged)) {}

  template <class T>
  YFK_FN T own(const T& g, const T& w, const T* slots) const {
    const T d = uphill(g, w);
    return own_of(w, plain * d + averaged * (momentum * slots[0] + fresh * d));
  }
  template <class T>
  YFK_FN T advance(const T& g, const T& w, const T& h, const T* slots, T* z) const {
    const T zw = damp(z[0]), tilted = tilt(h, zw), b = own(g, w, slots);
    z[1] = momentum * damp(z[1]) + fresh * tilted;
    z[0] = moved(zw, plain * tilted + averaged * z[1], b);
    return b;
  }
};

#define YFK_ADAM_TANGENTS(field)                                             \
  field(beta1) field(fresh1) /* of the first moment: b, 1 - b */             \
  field(beta2) field(fresh2) /* of the second */                             \
  field(plain1) field(averaged1) /* 1 - nu, and nu over the bias 1 - b^t */  \
  field(plain2) field(averaged2)                                             \
  field(eps)
struct AdamTangentsCoefficients : Tangents {
  using Base = Tangents;
  YFK_RECORD(YFK_ADAM_TANGENTS)
};

// Adam and QHAdam:  M <- b1 M + f1 g',   V <- b2 V + f2 g'²,   u = N / (s + eps)
//   with N = p1 g' + a1 M,   s² = p2 g'² + a2 V
struct AdamTangents : TangentStep {
  using Coefficients = AdamTangentsCoefficients;
  static constexpr int kSlots = 2, kTangents = 3;
  float beta1, fresh1, beta2, fresh2, plain1, averaged1, plain2, averaged2, eps;

  YFK_FN explicit AdamTangents(const Coefficients& c)
      : TangentStep(c), beta1(float(c.beta1)), fresh1(float(c.fresh1)), beta2(float(c.beta2)),
        fresh2(float(c.fresh2)), plain1(float(c.plain1)), averaged1(float(c.averaged1)),
        plain2(float(c.plain2)), averaged2(float(c.averaged2)), eps(float(c.eps)) {}

  template <class T>
  YFK_FN T own(const T& g, const T& w, const T* slots) const {
    return step(g, w, slots).own;
  }
  template <class T>
  YFK_FN T advance(const T& g, const T& w, const T& h, const T* slots, T* z) const {
    const Step<T> at = step(g, w, slots);
    const T zw = damp(z[0]), tilted = tilt(h, zw);
    const T squared = (2.0f * at.d) * tilted;  // the derivative of g'²
    z[1] = beta1 * damp(z[1]) + fresh1 * tilted;
    z[2] = beta2 * damp(z[2]) + fresh2 * squared;
    const T numerator = plain1 * tilted + averaged1 * z[1];
    const T size = quotient(plain2 * squared + averaged2 * z[2], 2.0f * at.root_mean_square);
    z[0] = moved(zw, (numerator - at.u * size) * at.over, at.own);
    return at.own;
  }

 private:
  template <class T>
  struct Step {
    T d, root_mean_square, over, u, own;  // over: 1 / (s + eps)
  };
  template <class T>
  YFK_FN Step<T> step(const T& g, const T& w, const T* slots) const {
    const T d = uphill(g, w), d_sq = d * d;
    const T s = root(plain2 * d_sq + averaged2 * (beta2 * slots[1] + fresh2 * d_sq));
    const T over = 1.0f / (eps + s);
    const T u = (plain1 * d + averaged1 * (beta1 * slots[0] + fresh1 * d)) * over;
    return {d, s, over, u, own_of(w, u)};
  }
};

// In the order of yfkernels/ops/tangents.py: constant, name, struct.
#define YFK_FAMILIES(family)                      \
  family(kPlain, plain, PlainTangents)            \
  family(kMomentum, momentum, MomentumTangents)   \
  family(kAdam, adam, AdamTangents)

enum class FamilyId : int {
#define YFK_FAMILY_ID(constant, name, ...) constant,
  YFK_FAMILIES(YFK_FAMILY_ID)
#undef YFK_FAMILY_ID
};

// What the columns of a family hold from kState on: h, or `own` after it; the slots; Z.
constexpr int kProbe = kState, kSlot = kState + 1;
template <class Family>
constexpr int kTangent = kSlot + Family::kSlots;
static_assert(kTangent<AdamTangents> + AdamTangents::kTangents <= kColumns, "room for all");

// ---------------------------------------------------------------------------------------------
// Projections on a gradient e
//
// B is what `own` would be, from what the last step has left:  B = scale x + decay w,  w as it is
// now. A form of it offers
//
//   kColumns          columns that x is made of
//   T x(const T*)     x, from them

// What a projection sums over a tensor.
#define YFK_PROJECTED(field) \
  field(e_dot_own) field(e_dot_tangent) field(e_sq) field(own_sq) field(tangent_sq)
struct Projected {
  YFK_RECORD(YFK_PROJECTED)
};
constexpr int kProjected = sizeof(Projected) / sizeof(double);

#define YFK_PROJECTION(field)                                                  \
  field(scale)                                                                 \
  field(decay)                     /* 0 if it need not be read */              \
  field(averaged1) field(averaged2) field(eps) /* of Adam, after its step */
struct ProjectionCoefficients {
  YFK_RECORD(YFK_PROJECTION)
};

struct AnyProjection {
  using Coefficients = ProjectionCoefficients;
  float scale, decay;

  YFK_FN explicit AnyProjection(const Coefficients& c)
      : scale(float(c.scale)), decay(float(c.decay)) {}

  // Adds an element's shares; e is 0 in lanes that are not there, and so is all else.
  template <class T>
  YFK_FN void add(const T& e, const T& w, const T& x, const T& zw, T* sums) const {
    const T own = scale * x + decay * w;
    sums[0] = sums[0] + e * own;
    sums[1] = sums[1] + e * zw;
    sums[2] = sums[2] + e * e;
    sums[3] = sums[3] + own * own;
    sums[4] = sums[4] + zw * zw;
  }
};

// A column: `own` itself, or a momentum buffer.
struct StoredProjection : AnyProjection {
  static constexpr int kColumns = 1;

  YFK_FN explicit StoredProjection(const Coefficients& c) : AnyProjection(c) {}

  template <class T>
  YFK_FN T x(const T* columns) const {
    return columns[0];
  }
};

// The direction of Adam, from its moments.
struct AdamProjection : AnyProjection {
  static constexpr int kColumns = 2;
  float averaged1, averaged2, eps;

  YFK_FN explicit AdamProjection(const Coefficients& c)
      : AnyProjection(c), averaged1(float(c.averaged1)), averaged2(float(c.averaged2)),
        eps(float(c.eps)) {}

  template <class T>
  YFK_FN T x(const T* columns) const {
    return quotient(averaged1 * columns[0], eps + root(averaged2 * columns[1]));
  }
};

// In the order of yfkernels/ops/tangents.py: constant, name, struct.
#define YFK_PROJECTIONS(projection)               \
  projection(kStored, stored, StoredProjection)   \
  projection(kPreconditioned, preconditioned, AdamProjection)

enum class ProjectionId : int {
#define YFK_PROJECTION_ID(constant, name, ...) constant,
  YFK_PROJECTIONS(YFK_PROJECTION_ID)
#undef YFK_PROJECTION_ID
};

// Where a projection finds the first column of x, and Zw: columns; kNowhere reads as 0.
constexpr int kNowhere = -1;
struct Projection {
  ProjectionId id;
  int own, tangent;
};

}  // namespace yfk
