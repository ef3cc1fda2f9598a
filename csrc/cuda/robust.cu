// YellowFin's robust mode with one step size, in one pass.
#include "advance.cuh"

namespace yfk {
namespace cuda {

Passes yellowfin_robust_passes(DType dtype) {
  return {advance_pass<YellowFin<false, true>>(dtype), nullptr, nullptr};
}

}  // namespace cuda
}  // namespace yfk
