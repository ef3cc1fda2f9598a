// The gate of ../gate.h, behind whatever has measured.
#pragma once

#include "driver.h"
#include "warp.cuh"

namespace yfk {
namespace cuda {

// By the first warp of a block. The slots may come from this very launch: they are read behind
// the first-level cache, in an order that depends on their number alone.
__device__ __forceinline__ void judge_step(const GateArguments& a) {
  double norm_sq = 0.0;
  for (int64_t slot = threadIdx.x; slot < a.num_slots; slot += kWarp)
    norm_sq += __ldcg(a.partials + slot * kSums);
  norm_sq = warp_sum(norm_sq);
  if (threadIdx.x != 0) return;
  const double inv_scale = a.grad_scale ? 1.0 / double(*a.grad_scale) : 1.0;
  const bool found_inf = a.found_inf && *a.found_inf != 0.0f;
  judge(a.num_slots > 0, norm_sq, inv_scale, found_inf, a.state, a.num_groups, a.words,
        a.coefficients);
}

}  // namespace cuda
}  // namespace yfk
