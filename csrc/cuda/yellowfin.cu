// YellowFin as published, in one pass or, with trust ratios, in two.
#include "advance.cuh"
#include "move.cuh"

namespace yfk {
namespace cuda {

// The averages have no part in the move.
Passes yellowfin_passes(DType dtype) {
  return {advance_pass<YellowFin<true>>(dtype), direct_pass<YellowFin<true>>(dtype),
          move_pass<YellowFin<false>>(dtype)};
}

Passes yellowfin_sketch_passes(DType dtype) {
  return {advance_pass<YellowFin<false>>(dtype), direct_pass<YellowFin<false>>(dtype),
          move_pass<YellowFin<false>>(dtype)};
}

}  // namespace cuda
}  // namespace yfk
