// How sixteen elements of a column are read and written, whatever their type.
#pragma once

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "simd.h"

namespace yfk {
namespace YFK_ISA {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
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

#if defined(__AVX512F__)
constexpr __mmask16 kAll = 0xffff;  // without a mask gcc 12 warns of what it begins with
YFK_FN FloatVec widen(HalfVec h, Float16) {
  return (FloatVec)_mm512_maskz_cvtph_ps(kAll, (__m256i)h);
}
YFK_FN HalfVec narrow(FloatVec f, Float16) {
  return (HalfVec)_mm512_maskz_cvtps_ph(kAll, (__m512)f,
                                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#elif defined(__F16C__)
YFK_FN FloatVec widen(HalfVec h, Float16) { return (FloatVec)_mm256_cvtph_ps((__m128i)h); }
YFK_FN HalfVec narrow(FloatVec f, Float16) {
  return (HalfVec)_mm256_cvtps_ph((__m256)f, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#else
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
#endif

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

// The processor's own prefetcher stops at the end of a page, and with several columns under way it is
// late in the next one: so each load asks for what lies a page further on (bench/NOTES.md).
constexpr int kPage = 4096;

template <class T>
YFK_FN void fetch_ahead(const T* p) {
  __builtin_prefetch(reinterpret_cast<const void*>(uintptr_t(p) + kPage));
}

template <class T>
YFK_FN Floats load_block(const T* p) {
  Floats r;
  for (int i = 0; i < kParts; ++i) r.part[i] = load_part(p + i * kWidth);
  return r;
}

template <class T>
YFK_FN Floats load(const T* p, AllLanes) {
  fetch_ahead(p);
  return load_block(p);
}

template <class T>
YFK_FN void store(T* p, const Floats& a, AllLanes) {
  for (int i = 0; i < kParts; ++i) store_part(p + i * kWidth, a.part[i]);
}

template <class T>
YFK_FN Floats load(const T* p, SomeLanes some) {
  T block[kLanes] = {};
  memcpy(block, p, size_t(some.count) * sizeof(T));
  return load_block(block);
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
