// Stands in for CUDA's header of this name.
#pragma once

#include "cuda_runtime.h"
#include "small_float.h"

struct __nv_bfloat16 {
  uint16_t bits;
};
struct __nv_bfloat162 {
  __nv_bfloat16 x, y;
};

inline float __bfloat162float(__nv_bfloat16 h) { return cuda_on_cpu::kBFloat16.widen(h.bits); }
inline __nv_bfloat16 __float2bfloat16_rn(float f) { return {cuda_on_cpu::kBFloat16.narrow(f)}; }
inline float2 __bfloat1622float2(__nv_bfloat162 h) {
  return {__bfloat162float(h.x), __bfloat162float(h.y)};
}
inline __nv_bfloat162 __float22bfloat162_rn(float2 f) {
  return {__float2bfloat16_rn(f.x), __float2bfloat16_rn(f.y)};
}
