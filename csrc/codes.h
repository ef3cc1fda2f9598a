// State in eight bits: averages of squares in codes, first moments and velocities in float8.
//
// Both are rounded stochastically: rounded to the nearest, an average over a thousand steps would
// never move.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace yfk {

// A code is the upper end of a float's bits, from a smallest number on.
template <int kMantissa, uint32_t kLeast>
struct CodeFormat {
  static constexpr uint32_t kShift = 23 - kMantissa, kBase = (127 - kLeast) << 23;
};

// From 2^-37 (or less) to 1.75 * 2^26: squares relative to their mean, of which one in a model of n
// elements may be n.
using RelativeCodes = CodeFormat<2, 37>;
// From 2^-80 (or less) to 1.5 * 2^47: squares as they are.
using AbsoluteCodes = CodeFormat<1, 80>;

constexpr uint32_t kWeyl = 0x9e3779b1;

// Random bits of element e for rounding: code_weyl(e + seed), which costs no hash for each element.
// They are spread evenly over neighboring elements, which does no harm, and independent from step to
// step.
template <class T>
YFK_FN T code_weyl(T element) {
  return element * kWeyl;
}

// T: uint32_t, or a vector of them. float_bits: of a number that is not negative. random: 32 bits.
template <class Format, class T>
YFK_FN T code_of(T float_bits, T random) {
  const T bits = float_bits + (random >> (32 - Format::kShift));
  const T code =
      ((bits > Format::kBase ? bits : T{} + Format::kBase) - Format::kBase) >> Format::kShift;
  return code > 255u ? T{} + 255u : code;
}

// The bits of the number that a code stands for.
template <class Format, class T>
YFK_FN T float_bits_of(T code) {
  return (code << Format::kShift) + Format::kBase;
}

// Float8 is torch.float8_e4m3fn, 256 times smaller: a float16 below 2, without the highest bit of its
// exponent. It goes up to 1.75, and down to 2^-17. float32 is rounded to the nearest float16, whose
// lowest seven bits then decide.
constexpr float kLargestFloat8 = 1.75f;

// T: uint16_t or more, or a vector of them. half: the bits of a float16 of at most kLargestFloat8.
// random: bits 8 to 14 of 32. Below them the same bits come back every 256 elements, in row after row
// of a matrix; a code goes by those above. Returns the bits in the lower eight of its own.
template <class T>
YFK_FN T float8_of(T half, T random) {
  const T sum = half + random;  // of magnitudes, whatever the sign: it has no carry
  const T rounded = sum >> 7;
  return rounded | ((rounded >> 1) & 0x80u);
}
template <class T>
YFK_FN T float8_bits_of(T random) {
  return (random >> 8) & 0x7fu;
}

// The bits of the float16 that a float8 stands for.
template <class T>
YFK_FN T half_bits_of(T float8) {
  return T(float8 + (float8 & 0x80u)) << 7;  // the sign moves one place more than the rest
}

// What a first moment is counted in: 64 times the power of two next to the root of the second one.
// float_bits: of the second moment, as its code has it. By Cauchy and Schwarz m² is at most
// v (1-b1)² / (1-b2) / (1 - b1²/b2), with betas of .9 and .999 that is 54 v.
constexpr uint32_t kMomentUnit = 6 + 127 - 63;  // of 64, and what half of a biased exponent lacks
template <class T>
YFK_FN T bits_of_unit(T float_bits) {
  return ((float_bits >> 24) + kMomentUnit) << 23;
}
template <class T>
YFK_FN T bits_of_inverse_unit(T float_bits) {
  return (2 * 127 - kMomentUnit - (float_bits >> 24)) << 23;
}

}  // namespace yfk
