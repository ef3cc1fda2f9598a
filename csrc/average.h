// The average of a parameter over its steps, one element at a time:
//
//   a <- a + c (x - a),   c = min(1, s (p + 1) / (t + p))
//
// where x is the parameter after its step t. It advances in the first s steps, where c is 1, and in
// every s-th after them. The weight of a step grows as t^p, whenever it is read.
//
// Source: Shamir & Zhang, "Stochastic gradient descent for non-smooth optimization", ICML 2013
// (polynomial-decay averaging, here every s-th step alone).
#pragma once

#include "host_device.h"
#include "random.h"

namespace yfk {

struct Averaging {
  double power;  // p, at least 0
  double every;  // s, a whole number from 1 on

  // t: the steps that the tensor has taken, from 1.
  YFK_FN bool is_due(double t) const { return t <= every || int64_t(t) % int64_t(every) == 0; }
  YFK_FN double weight(double t) const {
    const double c = every * (power + 1.0) / (t + power);
    return c < 1.0 ? c : 1.0;
  }
};

struct Average {
  using Coefficients = Averaging;
  bool begins;  // the average is the parameter, whatever it has been
  float weight;

  YFK_FN Average(const Averaging& averaging, double t)
      : begins(averaging.weight(t) == 1.0), weight(float(averaging.weight(t))) {}

  template <class T>
  YFK_FN T moved(const T& a, const T& x) const {
    const T from = begins ? x : a;
    return from + weight * (x - from);
  }
};

// An average in bfloat16 is rounded stochastically, as parameters are, with other bits than theirs.
YFK_FN uint32_t average_seed(int64_t element, double t) { return ~rounding_seed(element, t); }

}  // namespace yfk
