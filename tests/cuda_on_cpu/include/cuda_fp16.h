// Stands in for CUDA's header of this name.
#pragma once

#include "cuda_runtime.h"
#include "small_float.h"

struct __half {
  uint16_t bits;
};
struct __half2 {
  __half x, y;
};

inline float __half2float(__half h) { return cuda_on_cpu::kHalf.widen(h.bits); }
inline __half __float2half_rn(float f) { return {cuda_on_cpu::kHalf.narrow(f)}; }
inline float2 __half22float2(__half2 h) { return {__half2float(h.x), __half2float(h.y)}; }
inline __half2 __float22half2_rn(float2 f) { return {__float2half_rn(f.x), __float2half_rn(f.y)}; }
inline unsigned short __half_as_ushort(__half h) { return h.bits; }
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
