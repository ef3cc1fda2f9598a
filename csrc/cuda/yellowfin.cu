// YellowFin as published, in one pass or, with trust ratios, in two.
#include "apply.cuh"
#include "update.cuh"

namespace yfk {
namespace cuda {

// The averages have no part in the move.
Passes yellowfin_passes(DType dtype) {
  return {update_pass<YellowFin<true>>(dtype), update_state_pass<YellowFin<true>>(dtype),
          apply_pass<YellowFin<false>>(dtype)};
}

Passes yellowfin_sketch_passes(DType dtype) {
  return {update_pass<YellowFin<false>>(dtype), update_state_pass<YellowFin<false>>(dtype),
          apply_pass<YellowFin<false>>(dtype)};
}

}  // namespace cuda
}  // namespace yfk
