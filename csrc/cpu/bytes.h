// How sixteen states of eight bits are read and written (../codes.h).
#pragma once

#include "../codes.h"
#include "lanes.h"

namespace yfk {
namespace YFK_ISA {

template <class Format>
struct Code {
  uint8_t bits;
};
struct Float8 {
  uint8_t bits;
};

// Sixteen bytes at once: side by side, or one in each lane of 16 or of 32 bits.
typedef uint8_t CodesVec __attribute__((vector_size(kLanes)));
typedef uint16_t WideVec __attribute__((vector_size(2 * kLanes)));

#ifdef __AVX512F__
YFK_FN WideVec widened(CodesVec codes) { return (WideVec)_mm256_cvtepu8_epi16((__m128i)codes); }
YFK_FN CodesVec narrowed(WideVec a) {
  return (CodesVec)_mm256_maskz_cvtepi16_epi8(kAll, (__m256i)a);
}
#else
YFK_FN WideVec widened(CodesVec codes) { return __builtin_convertvector(codes, WideVec); }
YFK_FN CodesVec narrowed(WideVec a) { return __builtin_convertvector(a, CodesVec); }
#endif

#if defined(__AVX2__) && !defined(__AVX512F__) && defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define YFK_SHUFFLES_BYTES
#endif
#endif

#ifdef __AVX512F__
YFK_FN void spread(CodesVec codes, UIntVec* part) {
  part[0] = (UIntVec)_mm512_maskz_cvtepu8_epi32(kAll, (__m128i)codes);
}
YFK_FN CodesVec gathered(const UIntVec* part) {
  return (CodesVec)_mm512_maskz_cvtepi32_epi8(kAll, (__m512i)part[0]);
}
#elif defined(YFK_SHUFFLES_BYTES)
// Compilers take the conversions below apart here, which doubles the instructions for a code.
typedef uint8_t BytesVec __attribute__((vector_size(4 * kWidth)));
#define YFK_FOUR(i) i, i, i, i

YFK_FN void spread(CodesVec codes, UIntVec* part) {
  const BytesVec twice =
      __builtin_shufflevector(codes, codes, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0,
                              1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  part[0] = (UIntVec)__builtin_shufflevector(twice, twice, YFK_FOUR(0), YFK_FOUR(1), YFK_FOUR(2),
                                             YFK_FOUR(3), YFK_FOUR(20), YFK_FOUR(21), YFK_FOUR(22),
                                             YFK_FOUR(23));
  part[1] = (UIntVec)__builtin_shufflevector(twice, twice, YFK_FOUR(8), YFK_FOUR(9), YFK_FOUR(10),
                                             YFK_FOUR(11), YFK_FOUR(28), YFK_FOUR(29), YFK_FOUR(30),
                                             YFK_FOUR(31));
  for (int k = 0; k < kParts; ++k) part[k] &= 255u;
}

YFK_FN CodesVec gathered(const UIntVec* part) {
  const BytesVec pairs = (BytesVec)(part[0] | part[1] << 8);
  const UIntVec halves = (UIntVec)__builtin_shufflevector(
      pairs, pairs, 0, 4, 8, 12, 1, 5, 9, 13, YFK_FOUR(0), YFK_FOUR(0), 16, 20, 24, 28, 17, 21, 25,
      29, YFK_FOUR(16), YFK_FOUR(16));
  const UIntVec codes = __builtin_shufflevector(halves, halves, 0, 4, 1, 5, 0, 4, 1, 5);
  CodesVec r;
  memcpy(&r, &codes, sizeof r);
  return r;
}
#undef YFK_FOUR
#else
// By way of sixteen bits each, because compilers take smaller vectors of bytes apart.
YFK_FN void spread(CodesVec codes, UIntVec* part) {
  const WideVec wide = widened(codes);
  HalfVec half[kParts];
  memcpy(half, &wide, sizeof wide);
  for (int k = 0; k < kParts; ++k) part[k] = __builtin_convertvector(half[k], UIntVec);
}

YFK_FN CodesVec gathered(const UIntVec* part) {
  HalfVec half[kParts];
  for (int k = 0; k < kParts; ++k) half[k] = __builtin_convertvector(part[k], HalfVec);
  WideVec wide;
  memcpy(&wide, half, sizeof wide);
  return narrowed(wide);
}
#endif

template <class Format>
YFK_FN Floats load_block(const Code<Format>* p) {
  CodesVec codes;
  memcpy(&codes, p, sizeof codes);
  UIntVec part[kParts];
  spread(codes, part);
  Floats r;
  for (int k = 0; k < kParts; ++k) r.part[k] = (FloatVec)float_bits_of<Format>(part[k]);
  return r;
}

// random: 32 bits a lane. Returns what the codes stand for.
template <class Format>
YFK_FN Floats store_coded(Code<Format>* p, const Floats& a, const UIntVec* random) {
  UIntVec part[kParts];
  Floats r;
  for (int k = 0; k < kParts; ++k) {
    part[k] = code_of<Format>((UIntVec)a.part[k], random[k]);
    r.part[k] = (FloatVec)float_bits_of<Format>(part[k]);
  }
  const CodesVec codes = gathered(part);
  memcpy(p, &codes, sizeof codes);
  return r;
}

YFK_FN FloatVec clamped(FloatVec a, float most) {
#ifdef __AVX512F__
  constexpr int kSmaller = 0b0010;  // of both magnitudes, with the first one's sign
  return (FloatVec)_mm512_range_ps((__m512)a, _mm512_set1_ps(most), kSmaller);
#else
  const FloatVec high = FloatVec{} + most;
  const FloatVec x = a < high ? a : high;
  return x > -high ? x : -high;
#endif
}

// Float8 by way of float16.
YFK_FN Floats numbers_of(CodesVec float8) {
  const WideVec wide = half_bits_of(widened(float8));
  HalfVec half[kParts];
  memcpy(half, &wide, sizeof wide);
  Floats r;
  for (int k = 0; k < kParts; ++k) r.part[k] = widen(half[k], Float16{});
  return r;
}

YFK_FN Floats load_block(const Float8* p) {
  CodesVec codes;
  memcpy(&codes, p, sizeof codes);
  return numbers_of(codes);
}

// random: 7 bits a lane. Returns what the bytes stand for.
YFK_FN Floats store_float8(Float8* p, const Floats& a, WideVec random) {
  HalfVec half[kParts];
  for (int k = 0; k < kParts; ++k) half[k] = narrow(clamped(a.part[k], kLargestFloat8), Float16{});
  WideVec wide;
  memcpy(&wide, half, sizeof wide);
  const CodesVec codes = narrowed(float8_of(wide, random));
  memcpy(p, &codes, sizeof codes);
  return numbers_of(codes);
}

// What first moments are counted in, and the inverse, from the second moments in codes.
YFK_FN Floats units_of(const Floats& squares) {
  Floats r;
  for (int k = 0; k < kParts; ++k) r.part[k] = (FloatVec)bits_of_unit((UIntVec)squares.part[k]);
  return r;
}
YFK_FN Floats inverse_units_of(const Floats& squares) {
  Floats r;
  for (int k = 0; k < kParts; ++k)
    r.part[k] = (FloatVec)bits_of_inverse_unit((UIntVec)squares.part[k]);
  return r;
}

}  // namespace YFK_ISA
}  // namespace yfk
