// Binary floating point in 16 bits, by the definition of IEEE 754 and slowly: not the way the code
// under test does it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace cuda_on_cpu {

struct SmallFloat {
  int exponent_bits, mantissa_bits;

  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  int exponent_mask() const { return (1 << exponent_bits) - 1; }

  // Rounds to nearest, ties to even.
  uint16_t narrow(float x) const {
    if (std::isnan(x)) return 0x7fff;  // CUDA's choice among the NaNs
    const int infinity = exponent_mask() << mantissa_bits;
    const int sign = std::signbit(x) << 15;
    const double a = std::fabs(double(x));
    if (std::isinf(a)) return uint16_t(sign | infinity);
    if (a == 0.0) return uint16_t(sign);
    const int exponent = std::max(std::ilogb(a), 1 - bias());  // subnormals share the least one
    const int units = int(std::nearbyint(std::ldexp(a, mantissa_bits - exponent)));
    // the leading one of a normal number adds itself to the exponent, as does a carry
    const int bits = ((exponent + bias() - 1) << mantissa_bits) + units;
    return uint16_t(sign | std::min(bits, infinity));
  }

  float widen(uint16_t bits) const {
    const int exponent = (bits >> mantissa_bits) & exponent_mask();
    const int mantissa = bits & ((1 << mantissa_bits) - 1);
    double a;
    if (exponent == exponent_mask()) {
      a = mantissa ? NAN : INFINITY;
    } else if (exponent == 0) {
      a = std::ldexp(mantissa, 1 - bias() - mantissa_bits);
    } else {
      a = std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias() - mantissa_bits);
    }
    return float(bits >> 15 ? -a : a);
  }
};

constexpr SmallFloat kHalf = {5, 10};
constexpr SmallFloat kBFloat16 = {8, 7};

}  // namespace cuda_on_cpu
