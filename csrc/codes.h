// State in eight bits: averages of squares in codes, velocities in float8.
//
// A code is six bits of exponent and two of mantissa, from 2^-37 (or less) to 1.75 * 2^26: squares
// relative to their mean, of which one in a model of n elements may be n. Codes are rounded
// stochastically: rounded to the nearest, an average over a thousand steps would never move.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace yfk {

constexpr uint32_t kCodeShift = 21;
constexpr uint32_t kCodeBase = 90u << 23;  // the bits of 2^-37
constexpr uint32_t kWeyl = 0x9e3779b1;

// Random bits of element e for rounding: code_weyl(e + seed), which costs no hash for each element.
// They are spread evenly over neighboring elements, which does no harm, and independent from step to
// step.
template <class T>
YFK_FN T code_weyl(T element) {
  return element * kWeyl;
}

// T: uint32_t, or a vector of them. float_bits: of a number that is not negative. random: 32 bits.
template <class T>
YFK_FN T code_of(T float_bits, T random) {
  const T bits = float_bits + (random >> (32 - kCodeShift));
  const T code = ((bits > kCodeBase ? bits : T{} + kCodeBase) - kCodeBase) >> kCodeShift;
  return code > 255u ? T{} + 255u : code;
}

// The bits of the number that a code stands for.
template <class T>
YFK_FN T float_bits_of(T code) {
  return (code << kCodeShift) + kCodeBase;
}

// Float8 is torch.float8_e5m2, the upper half of a float16: up to 57344, and to below 2^-16. Rounded
// stochastically as well: float32 to the nearest float16, whose lower half then decides.
constexpr float kLargestFloat8 = 57344.0f;

// T: uint16_t or more, or a vector of them. half: the bits of a float16 of at most kLargestFloat8.
// random: bits 8 to 15 of 32. Below them the same bits come back every 256 elements, in row after row
// of a matrix; a code goes by those above.
template <class T>
YFK_FN T float8_of(T half, T random) {
  return T(half + random) >> 8;  // a sum of magnitudes, whatever the sign: it has no carry
}
template <class T>
YFK_FN T float8_bits_of(T random) {
  return (random >> 8) & 0xffu;
}

}  // namespace yfk
