// Sixteen floats at a time, on whatever vector registers this translation unit is compiled for.
//
// Sixteen lanes on every processor, as one, two or four registers: sums therefore come out the same
// bit for bit whichever instruction set runs them. Included by kernels.cpp only, inside its
// per-instruction-set namespace.
#pragma once

#include <cstdint>
#include <cstring>

#include "../rules.h"
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
YFK_LANEWISE(*)
#undef YFK_LANEWISE

YFK_FN Floats zeros() {
  Floats r;
  for (int i = 0; i < kParts; ++i) r.part[i] = FloatVec{};
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
    const UIntVec bits = yfk::sign_bits<UIntVec>(at, high - carry);
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

// Loads and stores by element type ---------------------------------------------------------------

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
  const UIntVec rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;   // to nearest even
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
  r = select((UIntVec)(a >= 0x477ff000u), UIntVec{} + 0x7c00u, r);   // rounds to infinity
  r = select((UIntVec)(a > 0x7f800000u), UIntVec{} + 0x7e00u, r);    // NaN
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

// A half-precision parameter and its float32 master. The master counts, unless somebody has
// written to the parameter since (a checkpoint loaded, weights averaged): then the parameter does.
template <class Lanes>
YFK_FN Floats load_param(const float* p, const float*, int64_t i, Lanes lanes) {
  return load(p + i, lanes);
}

template <class Half, class Lanes>
YFK_FN Floats load_param(const Half* p, const float* master, int64_t i, Lanes lanes) {
  const Floats low = load(p + i, lanes), high = load(master + i, lanes);
  Floats r;
  for (int k = 0; k < kParts; ++k) {
    const FloatVec rounded = widen(narrow(high.part[k], Half{}), Half{});
    const UIntVec same = (UIntVec)(rounded == low.part[k]);
    r.part[k] = (FloatVec)select(same, (UIntVec)high.part[k], (UIntVec)low.part[k]);
  }
  return r;
}

template <class Lanes>
YFK_FN void store_param(float* p, float*, int64_t i, const Floats& a, Lanes lanes) {
  store(p + i, a, lanes);
}

template <class Half, class Lanes>
YFK_FN void store_param(Half* p, float* master, int64_t i, const Floats& a, Lanes lanes) {
  store(master + i, a, lanes);
  store(p + i, a, lanes);
}

}  // namespace YFK_ISA
}  // namespace yfk
