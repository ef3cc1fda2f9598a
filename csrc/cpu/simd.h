// Sixteen floats at a time, on whatever vector registers this translation unit is compiled for.
//
// Sixteen lanes on every processor, as one, two or four registers: sums therefore come out the same
// bit for bit whichever instruction set runs them. For the files that are compiled once per
// instruction set, which YFK_ISA names.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../host_device.h"
#include "../random.h"
#include "../table.h"

namespace yfk {
namespace YFK_ISA {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
constexpr int kLanes = 16;
constexpr int kParts = kLanes / kWidth;

typedef float FloatVec __attribute__((vector_size(4 * kWidth)));
typedef uint32_t UIntVec __attribute__((vector_size(4 * kWidth)));
typedef int32_t IntVec __attribute__((vector_size(4 * kWidth)));
typedef uint16_t HalfVec __attribute__((vector_size(2 * kWidth)));
typedef double DoubleVec __attribute__((vector_size(8 * kWidth)));

struct Floats {
  FloatVec part[kParts];
};

#define YFK_LANEWISE(op)                                                            \
  YFK_FN Floats operator op(const Floats& a, const Floats& b) {                     \
    Floats r;                                                                       \
    for (int i = 0; i < kParts; ++i) r.part[i] = a.part[i] op b.part[i];            \
    return r;                                                                       \
  }                                                                                 \
  YFK_FN Floats operator op(float a, const Floats& b) {                             \
    Floats r;                                                                       \
    for (int i = 0; i < kParts; ++i) r.part[i] = a op b.part[i];                    \
    return r;                                                                       \
  }
YFK_LANEWISE(+)
YFK_LANEWISE(-)
YFK_LANEWISE(*)
YFK_LANEWISE(/)
#undef YFK_LANEWISE

YFK_FN FloatVec root(FloatVec a) {
  for (int i = 0; i < kWidth; ++i) a[i] = sqrtf(a[i]);
  return a;
}

YFK_FN Floats root(const Floats& a) {
  Floats r;
  for (int i = 0; i < kParts; ++i) r.part[i] = root(a.part[i]);
  return r;
}

// All bits of the lanes, or none.
YFK_FN Floats masked(const Floats& a, uint32_t mask) {
  Floats r;
  for (int i = 0; i < kParts; ++i) r.part[i] = (FloatVec)((UIntVec)a.part[i] & mask);
  return r;
}

// a / b, and 0 where b is 0.
YFK_FN Floats quotient(const Floats& a, const Floats& b) {
  Floats r;
  for (int i = 0; i < kParts; ++i)
    r.part[i] = (FloatVec)((UIntVec)(a.part[i] / b.part[i]) & (UIntVec)(b.part[i] != 0.0f));
  return r;
}

YFK_FN Floats zeros() {
  Floats r;
  for (int i = 0; i < kParts; ++i) r.part[i] = FloatVec{};
  return r;
}

// 0, 1, ... of one part.
YFK_FN UIntVec lane_numbers() {
  UIntVec r;
  for (int i = 0; i < kWidth; ++i) r[i] = uint32_t(i);
  return r;
}

// Sixteen sums in double precision, one a lane.
struct Sums {
  DoubleVec part[kParts];
};

YFK_FN Sums no_sums() {
  Sums r;
  for (int i = 0; i < kParts; ++i) r.part[i] = DoubleVec{};
  return r;
}

// Lanes: Floats or Counts.
template <class Lanes>
YFK_FN void add(Sums* sums, const Lanes& a) {
  for (int i = 0; i < kParts; ++i) sums->part[i] += __builtin_convertvector(a.part[i], DoubleVec);
}

YFK_FN double total(const Sums& sums) {
  double lane[kLanes];
  memcpy(lane, &sums, sizeof lane);
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  return lane[0];
}

// A count in every lane of how often it was not zero (NaN is not zero).
struct Counts {
  UIntVec part[kParts];
};

YFK_FN Counts no_counts() {
  Counts r;
  for (int i = 0; i < kParts; ++i) r.part[i] = UIntVec{};
  return r;
}

YFK_FN void count_nonzero(Counts* counts, const Floats& a) {
  for (int i = 0; i < kParts; ++i) counts->part[i] -= (UIntVec)(a.part[i] != 0.0f);  // a mask is -1
}

// The signs of sixteen blocks from `block` on.
YFK_FN void sign_words(int64_t block, uint32_t* signs) {
  const uint32_t low = uint32_t(block), high = uint32_t(uint64_t(block) >> 32);
  for (int i = 0; i < kParts; ++i) {
    UIntVec at;
    for (int j = 0; j < kWidth; ++j) at[j] = low + uint32_t(i * kWidth + j);
    const UIntVec carry = (UIntVec)(at < low);  // a mask is -1
    const UIntVec bits = mixed(at ^ (high - carry));
    memcpy(signs + i * kWidth, &bits, sizeof bits);
  }
}

// The lanes of `a`, negated where the bit of `signs` from `first_bit` on is set.
YFK_FN Floats flip_signs(const Floats& a, uint32_t signs, int first_bit) {
  Floats r;
  for (int i = 0; i < kParts; ++i) {
    UIntVec lane;
    for (int j = 0; j < kWidth; ++j) lane[j] = uint32_t(first_bit + i * kWidth + j);
    const UIntVec bit = ((UIntVec{} + signs) >> lane) << 31;
    r.part[i] = (FloatVec)((UIntVec)a.part[i] ^ bit);
  }
  return r;
}

}  // namespace YFK_ISA
}  // namespace yfk
