// How sixteen elements of a column are read and written, whatever their type.
#pragma once

#include "../codes.h"
#include "simd.h"

namespace yfk {
namespace YFK_ISA {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};
struct Code {  // of codes.h
  uint8_t bits;
};

YFK_FN UIntVec select(UIntVec mask, UIntVec yes, UIntVec no) { return (mask & yes) | (~mask & no); }

YFK_FN FloatVec widen(HalfVec h, BFloat16) {
  return (FloatVec)(__builtin_convertvector(h, UIntVec) << 16);
}

YFK_FN HalfVec narrow(FloatVec f, BFloat16) {
  const UIntVec u = (UIntVec)f;
  const UIntVec rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;  // to nearest even
  const UIntVec nan = (u >> 16) | 0x40u;
  const UIntVec is_nan = (UIntVec)((u & 0x7fffffffu) > 0x7f800000u);
  return __builtin_convertvector(select(is_nan, nan, rounded), HalfVec);
}

YFK_FN FloatVec widen(HalfVec h, Float16) {
  const UIntVec u = __builtin_convertvector(h, UIntVec);
  const UIntVec magnitude = u & 0x7fffu;
  // the exponent moves from bias 15 to bias 127 by a product, which is exact for subnormals too
  const FloatVec scaled = (FloatVec)(magnitude << 13) * 0x1p112f;
  const UIntVec special = (UIntVec)(magnitude >= 0x7c00u);
  const UIntVec bits = (UIntVec)scaled | (special & 0x7f800000u);
  return (FloatVec)(bits | ((u & 0x8000u) << 16));
}

YFK_FN HalfVec narrow(FloatVec f, Float16) {
  const UIntVec u = (UIntVec)f;
  const UIntVec sign = (u >> 16) & 0x8000u;
  const UIntVec a = u & 0x7fffffffu;
  const UIntVec normal = (a + 0xfffu + ((a >> 13) & 1u) - (112u << 23)) >> 13;  // to nearest even
  // below 2^-14: adding 0.5 lets the float unit round to multiples of 2^-24
  const UIntVec small = (UIntVec)((FloatVec)a + 0.5f) - 0x3f000000u;
  UIntVec r = select((UIntVec)(a < (113u << 23)), small, normal);
  r = select((UIntVec)(a >= 0x477ff000u), UIntVec{} + 0x7c00u, r);  // rounds to infinity
  r = select((UIntVec)(a > 0x7f800000u), UIntVec{} + 0x7e00u, r);   // NaN
  return __builtin_convertvector(r | sign, HalfVec);
}

// Stochastic rounding: up or down to a neighbor, with a probability that keeps the mean. `random`
// are 32 random bits a lane.
YFK_FN HalfVec narrow(FloatVec f, BFloat16, UIntVec random) {
  const UIntVec u = (UIntVec)f;
  const UIntVec rounded = (u + (random & 0xffffu)) >> 16;
  const UIntVec nan = (u >> 16) | 0x40u;
  const UIntVec is_nan = (UIntVec)((u & 0x7fffffffu) > 0x7f800000u);
  return __builtin_convertvector(select(is_nan, nan, rounded), HalfVec);
}

YFK_FN HalfVec narrow(FloatVec f, Float16, UIntVec random) {
  const UIntVec u = (UIntVec)f;
  const UIntVec sign = (u >> 16) & 0x8000u;
  const UIntVec a = u & 0x7fffffffu;
  const UIntVec tail = random & 0x1fffu;
  const UIntVec normal = (a + tail - (112u << 23)) >> 13;
  // below 2^-14: multiples of 2^-24, counted
  const UIntVec is_small = (UIntVec)(a < (113u << 23));
  const FloatVec share = __builtin_convertvector((IntVec)tail, FloatVec) * 0x1p-13f;
  const FloatVec count = (FloatVec)(a & is_small) * 0x1p24f + share;
  const UIntVec small = (UIntVec) __builtin_convertvector(count, IntVec);
  UIntVec r = select(is_small, small, normal);
  r = select((UIntVec)(r > 0x7c00u), UIntVec{} + 0x7c00u, r);      // beyond the largest
  r = select((UIntVec)(a > 0x7f800000u), UIntVec{} + 0x7e00u, r);  // NaN
  return __builtin_convertvector(r | sign, HalfVec);
}

YFK_FN FloatVec load_part(const float* p) {
  FloatVec r;
  memcpy(&r, p, sizeof r);
  return r;
}

YFK_FN void store_part(float* p, FloatVec a) { memcpy(p, &a, sizeof a); }

template <class Half>
YFK_FN FloatVec load_part(const Half* p) {
  HalfVec h;
  memcpy(&h, p, sizeof h);
  return widen(h, Half{});
}

template <class Half>
YFK_FN void store_part(Half* p, FloatVec a) {
  const HalfVec h = narrow(a, Half{});
  memcpy(p, &h, sizeof h);
}

// How many of the sixteen lanes are there: all of them, or the last few of a chunk, which travel
// through a padded block so that one body serves both.
struct AllLanes {};
struct SomeLanes {
  int64_t count;
};

template <class T>
YFK_FN Floats load(const T* p, AllLanes) {
  Floats r;
  for (int i = 0; i < kParts; ++i) r.part[i] = load_part(p + i * kWidth);
  return r;
}

template <class T>
YFK_FN void store(T* p, const Floats& a, AllLanes) {
  for (int i = 0; i < kParts; ++i) store_part(p + i * kWidth, a.part[i]);
}

// Sixteen codes at once, a code in each 32-bit lane or all of them side by side.
typedef uint8_t CodesVec __attribute__((vector_size(kLanes)));

#if defined(__AVX2__) && !defined(__AVX512F__) && defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define YFK_SHUFFLES_BYTES
#endif
#endif

#ifdef YFK_SHUFFLES_BYTES
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
typedef uint16_t WideCodesVec __attribute__((vector_size(2 * kLanes)));

YFK_FN void spread(CodesVec codes, UIntVec* part) {
  const WideCodesVec wide = __builtin_convertvector(codes, WideCodesVec);
  HalfVec half[kParts];
  memcpy(half, &wide, sizeof wide);
  for (int k = 0; k < kParts; ++k) part[k] = __builtin_convertvector(half[k], UIntVec);
}

YFK_FN CodesVec gathered(const UIntVec* part) {
  HalfVec half[kParts];
  for (int k = 0; k < kParts; ++k) half[k] = __builtin_convertvector(part[k], HalfVec);
  WideCodesVec wide;
  memcpy(&wide, half, sizeof wide);
  return __builtin_convertvector(wide, CodesVec);
}
#endif

YFK_FN Floats load(const Code* p, AllLanes) {
  CodesVec codes;
  memcpy(&codes, p, sizeof codes);
  UIntVec part[kParts];
  spread(codes, part);
  Floats r;
  for (int k = 0; k < kParts; ++k) r.part[k] = (FloatVec)float_bits_of(part[k]);
  return r;
}

// random: 32 bits a lane.
YFK_FN void store_coded(Code* p, const Floats& a, const UIntVec* random) {
  UIntVec part[kParts];
  for (int k = 0; k < kParts; ++k) part[k] = code_of((UIntVec)a.part[k], random[k]);
  const CodesVec codes = gathered(part);
  memcpy(p, &codes, sizeof codes);
}

template <class T>
YFK_FN Floats load(const T* p, SomeLanes some) {
  T block[kLanes] = {};
  memcpy(block, p, size_t(some.count) * sizeof(T));
  return load(block, AllLanes{});
}

template <class T>
YFK_FN void store(T* p, const Floats& a, SomeLanes some) {
  T block[kLanes];
  store(block, a, AllLanes{});
  memcpy(p, block, size_t(some.count) * sizeof(T));
}

// Those of `lanes` that are left from lane `first` on.
YFK_FN AllLanes lanes_from(AllLanes, int) { return {}; }
YFK_FN SomeLanes lanes_from(SomeLanes lanes, int first) {
  const int64_t rest = lanes.count - first;
  return {rest < 0 ? 0 : rest > kLanes ? kLanes : rest};
}

// run(i, count, places): the `count` elements from i + place * kStride on, for every place < places.
// The processor's prefetcher stops at the end of a page; with several pages under way the memory
// stays busy while it finds the next (bench/NOTES.md). Short runs, so that no float sum grows long.
constexpr int64_t kStride = kTile, kRun = 512;

template <int n>
struct Places {
  static constexpr int kCount = n;
};

template <int kPlaces, class Run>
YFK_FN void for_each_run(int64_t begin, int64_t end, Run run) {
  int64_t i = begin;
  for (; i + kPlaces * kStride <= end; i += kPlaces * kStride)
    for (int64_t j = i; j < i + kStride; j += kRun) run(j, kRun, Places<kPlaces>{});
  for (; i < end; i += kRun) run(i, end - i < kRun ? end - i : kRun, Places<1>{});
}

// body(i, lanes) for each block of kSize elements, the last of them with lanes missing.
template <int kSize, class Body>
YFK_FN void for_each_block(int64_t count, Body body) {
  int64_t i = 0;
  for (; i + kSize <= count; i += kSize) body(i, AllLanes{});
  if (i < count) body(i, SomeLanes{count - i});
}

}  // namespace YFK_ISA
}  // namespace yfk
