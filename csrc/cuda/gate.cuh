// The gate of ../gate.h, after whatever has measured.
#pragma once

#include "driver.h"
#include "warp.cuh"

namespace yfk {
namespace cuda {

// By the first warp of a block. The slots may come from this very launch: they are read past the
// first-level cache, in an order that depends on their number alone. All lanes come to the same
// decision, and each applies it to its share of the groups: one lane alone would wait for memory at
// every group.
__device__ __forceinline__ void decide_step(const GateArguments& a) {
  double norm_sq = 0.0;
  for (int64_t slot = threadIdx.x; slot < a.num_slots; slot += kWarp)
    norm_sq += __ldcg(a.partials + slot * kSums);
  norm_sq = given_by(0, warp_sum(norm_sq));
  const double inv_scale = a.grad_scale ? 1.0 / double(*a.grad_scale) : 1.0;
  const bool found_inf = a.found_inf && *a.found_inf != 0.0f;
  const Verdict verdict = verdict_on(a.num_slots > 0, norm_sq, inv_scale, found_inf, *a.state);
  __syncwarp();  // all lanes have read the state
  if (threadIdx.x == 0) remember(verdict, a.state);
  for (int64_t i = threadIdx.x; i < a.num_groups; i += kWarp)
    apply(verdict, reinterpret_cast<Settings*>(a.coefficients + i * a.words));
}

}  // namespace cuda
}  // namespace yfk
