// Sixteen bytes at a time: how a thread reads and writes its share of a column.
//
// A thread always handles kVec consecutive elements, as floats: the number of gradient elements in
// 16 bytes. Columns of another type follow with as many 16-byte accesses as that takes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../codes.h"

namespace yfk {
namespace cuda {

template <class T>
constexpr int kVec = 16 / int(sizeof(T));

template <int N>
struct Lanes {
  float at[N];
};

// How long memory is wanted: kStream marks it as the first to leave the L2 cache.
enum class Reuse { kKeep, kStream };

// Conversion of single elements and, for the halves, of pairs -------------------------------------

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T>
__device__ __forceinline__ T narrow(float x);
template <>
__device__ __forceinline__ float narrow<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __half narrow<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

template <class T>
struct PairOf;
template <>
struct PairOf<__half> {
  using Type = __half2;
  static __device__ __forceinline__ float2 widen(Type x) { return __half22float2(x); }
  static __device__ __forceinline__ Type narrow(float2 x) { return __float22half2_rn(x); }
};
template <>
struct PairOf<__nv_bfloat16> {
  using Type = __nv_bfloat162;
  static __device__ __forceinline__ float2 widen(Type x) { return __bfloat1622float2(x); }
  static __device__ __forceinline__ Type narrow(float2 x) { return __float22bfloat162_rn(x); }
};

// Codes and float8 (../codes.h) are read as what they stand for, and written of numbers that are
// rounded to one. No structs: of pointers to those nvcc 13.0 makes broken code (__isGlobal).
enum class RelativeCode : uint8_t {};
enum class AbsoluteCode : uint8_t {};
enum class Float8 : uint8_t {};
template <class T>
constexpr bool kIsByte = std::is_enum_v<T>;
template <class Code>
using FormatOf =
    std::conditional_t<std::is_same_v<Code, AbsoluteCode>, AbsoluteCodes, RelativeCodes>;

template <class Code>
__device__ __forceinline__ float value_of(Code x) {
  return __uint_as_float(float_bits_of<FormatOf<Code>>(uint32_t(x)));
}
__device__ __forceinline__ float widen(RelativeCode x) { return value_of(x); }
__device__ __forceinline__ float widen(AbsoluteCode x) { return value_of(x); }
template <>
__device__ __forceinline__ RelativeCode narrow<RelativeCode>(float x) {
  return RelativeCode(code_of<RelativeCodes>(__float_as_uint(x), 0u));
}
template <>
__device__ __forceinline__ AbsoluteCode narrow<AbsoluteCode>(float x) {
  return AbsoluteCode(code_of<AbsoluteCodes>(__float_as_uint(x), 0u));
}
__device__ __forceinline__ float widen(Float8 x) {
  return __half2float(__ushort_as_half((unsigned short)half_bits_of(uint32_t(x))));
}
template <>
__device__ __forceinline__ Float8 narrow<Float8>(float x) {
  return Float8(float8_of(uint32_t(__half_as_ushort(__float2half_rn(x))), 0u));
}

// Accesses ---------------------------------------------------------------------------------------

// Addresses come out of the table, so the compiler has to be told that they are global memory: it
// would take generic accesses otherwise. The streaming intrinsics say it by themselves.
template <Reuse kReuse, class Word>
__device__ __forceinline__ Word load_word(const Word* p) {
  if constexpr (kIsByte<Word>) {
    return Word(load_word<kReuse>(reinterpret_cast<const uint8_t*>(p)));
  } else if constexpr (kReuse == Reuse::kStream) {
    return __ldcs(p);
  } else {
    __builtin_assume(__isGlobal(p));
    return *p;
  }
}

template <Reuse kReuse, class Word>
__device__ __forceinline__ void store_word(Word* p, Word x) {
  if constexpr (kIsByte<Word>) {
    store_word<kReuse>(reinterpret_cast<uint8_t*>(p), uint8_t(x));
  } else if constexpr (kReuse == Reuse::kStream) {
    __stcs(p, x);
  } else {
    __builtin_assume(__isGlobal(p));
    *p = x;
  }
}

template <int N, Reuse kReuse>
__device__ __forceinline__ Lanes<N> load_wide(const float* p) {
  Lanes<N> r;
#pragma unroll
  for (int k = 0; k < N; k += 4) {
    const float4 x = load_word<kReuse>(reinterpret_cast<const float4*>(p + k));
    r.at[k] = x.x, r.at[k + 1] = x.y, r.at[k + 2] = x.z, r.at[k + 3] = x.w;
  }
  return r;
}

template <int N, Reuse kReuse>
__device__ __forceinline__ void store_wide(float* p, const Lanes<N>& a) {
#pragma unroll
  for (int k = 0; k < N; k += 4)
    store_word<kReuse>(reinterpret_cast<float4*>(p + k),
                       make_float4(a.at[k], a.at[k + 1], a.at[k + 2], a.at[k + 3]));
}

template <int N>
struct WordOf;  // of N bytes
template <>
struct WordOf<4> {
  using Type = unsigned;
};
template <>
struct WordOf<8> {
  using Type = uint2;
};
template <>
struct WordOf<16> {
  using Type = uint4;
};

template <int N, Reuse kReuse, class T>
__device__ __forceinline__ Lanes<N> load_wide(const T* p) {
  using Words = typename WordOf<N * sizeof(T)>::Type;
  const Words words = load_word<kReuse>(reinterpret_cast<const Words*>(p));
  Lanes<N> r;
  if constexpr (kIsByte<T>) {
    T bytes[N];
    memcpy(bytes, &words, N);
#pragma unroll
    for (int k = 0; k < N; ++k) r.at[k] = widen(bytes[k]);
  } else {
    typename PairOf<T>::Type pairs[N / 2];
    memcpy(pairs, &words, sizeof words);
#pragma unroll
    for (int k = 0; k < N / 2; ++k) {
      const float2 x = PairOf<T>::widen(pairs[k]);
      r.at[2 * k] = x.x, r.at[2 * k + 1] = x.y;
    }
  }
  return r;
}

template <int N, Reuse kReuse, class T>
__device__ __forceinline__ void store_wide(T* p, const Lanes<N>& a) {
  using Words = typename WordOf<N * sizeof(T)>::Type;
  Words words;
  if constexpr (kIsByte<T>) {
    T bytes[N];
#pragma unroll
    for (int k = 0; k < N; ++k) bytes[k] = narrow<T>(a.at[k]);
    memcpy(&words, bytes, N);
  } else {
    typename PairOf<T>::Type pairs[N / 2];
#pragma unroll
    for (int k = 0; k < N / 2; ++k)
      pairs[k] = PairOf<T>::narrow(make_float2(a.at[2 * k], a.at[2 * k + 1]));
    memcpy(&words, pairs, sizeof words);
  }
  store_word<kReuse>(reinterpret_cast<Words*>(p), words);
}

// A column of one chunk ---------------------------------------------------------------------------

// Which lanes of an access from element i on are there: all, or those before element n (and from
// element 0 on).
struct Whole {};
struct Inside {
  int n;
};

// kAllWide: every column of the chunk lies on 16 bytes, which is the usual case and costs no
// branch. Otherwise each column tells for itself, and only the one that does not (a gradient inside
// a DDP bucket, say) is read element by element.
template <class T, int N, bool kAllWide, Reuse kReuse>
class Column {
 public:
  __device__ __forceinline__ Column(T* first, bool wide) : first_(first), wide_(wide) {}

  __device__ __forceinline__ Lanes<N> load(int i, Whole) const {
    if constexpr (!kAllWide)
      if (!wide_) return load_some(i, 0, N);
    return load_wide<N, kReuse>(first_ + i);
  }
  __device__ __forceinline__ void store(int i, const Lanes<N>& a, Whole) const {
    if constexpr (!kAllWide)
      if (!wide_) return store_some(i, 0, N, a);
    store_wide<N, kReuse>(first_ + i, a);
  }

  // Lanes that are not there read as 0 and are not written.
  __device__ __forceinline__ Lanes<N> load(int i, Inside chunk) const {
    return i >= 0 && i + N <= chunk.n ? load(i, Whole{}) : load_some(i, -i, chunk.n - i);
  }
  __device__ __forceinline__ void store(int i, const Lanes<N>& a, Inside chunk) const {
    if (i >= 0 && i + N <= chunk.n) return store(i, a, Whole{});
    store_some(i, -i, chunk.n - i, a);
  }

 private:
  // Lanes begin <= k < end, element by element.
  __device__ __forceinline__ Lanes<N> load_some(int i, int begin, int end) const {
    Lanes<N> r;
#pragma unroll
    for (int k = 0; k < N; ++k)
      r.at[k] = begin <= k && k < end ? widen(load_word<kReuse>(first_ + i + k)) : 0.0f;
    return r;
  }

  __device__ __forceinline__ void store_some(int i, int begin, int end, const Lanes<N>& a) const {
#pragma unroll
    for (int k = 0; k < N; ++k)
      if (begin <= k && k < end) store_word<kReuse>(first_ + i + k, narrow<T>(a.at[k]));
  }

  T* first_;
  bool wide_;
};

}  // namespace cuda
}  // namespace yfk
