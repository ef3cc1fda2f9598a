// How the parameter of a chunk is read and written: one of three forms, by its type and columns.
#pragma once

#include <type_traits>

#include "../random.h"
#include "chunks.cuh"
#include "vec.cuh"

namespace yfk {
namespace cuda {

template <class T, bool kAllWide, Reuse kReuse, int N = kVec<std::remove_const_t<T>>>
__device__ __forceinline__ Column<T, N, kAllWide, kReuse> column_of(const Piece& piece, int index) {
  return {piece.column<T>(index), piece.wide<T>(index)};
}

// What all forms have in common. The forward pass reads the parameters next: they are to stay in
// the L2 cache, whatever becomes of a master. Reasoned, not measured.
template <class P, bool kWide>
struct AnyParameter {
  using Type = P;
  static constexpr bool kAllWide = kWide;
  static constexpr int N = kVec<P>;
  Column<P, N, kWide, Reuse::kKeep> low;

  __device__ __forceinline__ explicit AnyParameter(const Piece& piece)
      : low(column_of<P, kWide, Reuse::kKeep>(piece, kParam)) {}
};

template <bool kWide>
struct FloatParameter : AnyParameter<float, kWide> {
  using Base = AnyParameter<float, kWide>;
  using Value = Lanes<Base::N>;

  __device__ __forceinline__ FloatParameter(const Piece& piece, uint32_t) : Base(piece) {}

  template <class Which>
  __device__ __forceinline__ Value load(int i, Which lanes) const {
    return this->low.load(i, lanes);
  }
  static __device__ __forceinline__ Lanes<Base::N> newest(const Value& value) { return value; }
  template <class Which>
  __device__ __forceinline__ void store(int i, const Lanes<Base::N>& p, Which lanes) const {
    this->low.store(i, p, lanes);
  }
};

// A half-precision parameter and its float32 master. The master counts, unless somebody has written
// to the parameter since (a checkpoint loaded, weights averaged): then the parameter does.
template <class P, bool kWide, Reuse kReuse>
struct MasteredParameter : AnyParameter<P, kWide> {
  using Base = AnyParameter<P, kWide>;
  static constexpr int N = Base::N;
  struct Value {
    Lanes<N> low, master;
  };
  Column<float, N, kWide, kReuse> master;

  __device__ __forceinline__ MasteredParameter(const Piece& piece, uint32_t)
      : Base(piece), master(column_of<float, kWide, kReuse, N>(piece, kMaster)) {}

  template <class Which>
  __device__ __forceinline__ Value load(int i, Which lanes) const {
    return {this->low.load(i, lanes), master.load(i, lanes)};
  }
  static __device__ __forceinline__ Lanes<N> newest(const Value& value) {
    Lanes<N> r;
#pragma unroll
    for (int k = 0; k < N; k += 2) {
      const float2 rounded = PairOf<P>::widen(
          PairOf<P>::narrow(make_float2(value.master.at[k], value.master.at[k + 1])));
      r.at[k] = rounded.x == value.low.at[k] ? value.master.at[k] : value.low.at[k];
      r.at[k + 1] = rounded.y == value.low.at[k + 1] ? value.master.at[k + 1] : value.low.at[k + 1];
    }
    return r;
  }
  template <class Which>
  __device__ __forceinline__ void store(int i, const Lanes<N>& p, Which lanes) const {
    master.store(i, p, lanes);
    this->low.store(i, p, lanes);
  }
};

// Stochastic rounding: one of the two neighbors of x that the type has, with a probability that
// keeps the mean. The CPU's csrc/cpu/lanes.h makes the same of the same random bits.
__device__ __forceinline__ float rounded(float x, uint32_t random, __nv_bfloat16) {
  const float r = __uint_as_float((__float_as_uint(x) + (random & 0xffffu)) & 0xffff0000u);
  return x == x ? r : x;
}

__device__ __forceinline__ float rounded(float x, uint32_t random, __half) {
  const uint32_t tail = random & 0x1fffu;
  const float normal = __uint_as_float((__float_as_uint(x) + tail) & ~0x1fffu);
  // below 2^-14: multiples of 2^-24, counted
  const int count = __float2int_rz(fabsf(x) * 0x1p24f + float(tail) * 0x1p-13f);
  const float small = copysignf(float(count) * 0x1p-24f, x);
  const float r = fabsf(x) < 0x1p-14f ? small : normal;
  return x == x ? r : x;
}

// As the CPU's store_coded and store_float8.
template <class Code, std::enable_if_t<kIsByte<Code>, int> = 0>
__device__ __forceinline__ float rounded(float x, uint32_t random, Code) {
  return widen(Code(code_of<FormatOf<Code>>(__float_as_uint(x), random)));
}

__device__ __forceinline__ float rounded(float x, uint32_t random, Float8) {
  x = fminf(fmaxf(x, -kLargestFloat8), kLargestFloat8);
  const uint32_t half = __half_as_ushort(__float2half_rn(x));
  return widen(Float8(float8_of(half, float8_bits_of(random))));
}

// A half-precision parameter without a master.
template <class P, bool kWide>
struct RoundedParameter : AnyParameter<P, kWide> {
  using Base = AnyParameter<P, kWide>;
  static constexpr int N = Base::N;
  using Value = Lanes<N>;
  uint32_t element, seed;  // of the piece's first element

  __device__ __forceinline__ RoundedParameter(const Piece& piece, uint32_t seed)
      : Base(piece), element(uint32_t(piece.row.origin + piece.first)), seed(seed) {}

  template <class Which>
  __device__ __forceinline__ Value load(int i, Which lanes) const {
    return this->low.load(i, lanes);
  }
  static __device__ __forceinline__ Lanes<N> newest(const Value& value) { return value; }
  template <class Which>
  __device__ __forceinline__ void store(int i, const Lanes<N>& p, Which lanes) const {
    Lanes<N> r;
#pragma unroll
    for (int k = 0; k < N; ++k)
      r.at[k] = rounded(p.at[k], mixed((element + uint32_t(i + k)) ^ seed), P{});
    this->low.store(i, r, lanes);
  }
};

}  // namespace cuda
}  // namespace yfk
