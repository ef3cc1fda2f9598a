// SingleStep: momentum and step size from four statistics of the gradient. Scalars only.
//
// The same code runs on the host and in a one-thread device kernel, of correctly rounded operations
// alone; both compilers are told not to contract them, so that host and device agree to the last bit.
// Source: Zhang, Mitliagkas, Ré, arXiv 1706.03471, equation 15.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../host_device.h"

namespace yfk {

constexpr double kEpsilon = 1e-6;  // e, everywhere in the reference
constexpr double kTiny = 1e-30;    // in its place in the robust mode, which has no scale
constexpr double kLargestCubic = 1e300;

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

// Minimizes mu D² + lr² C subject to mu >= ((sqrt(r)-1)/(sqrt(r)+1))² with r = h_max/h_min, and
// lr = (1-sqrt(mu))²/h_min.
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
  const double gap = y < y_robust ? y : y_robust;  // 1 - sqrt(mu)
  return {gap * gap / h, sqrt_mu * sqrt_mu};
}

}  // namespace yfk
