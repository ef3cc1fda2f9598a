// YellowFin's robust mode with one step size, in one pass.
#include "update.cuh"

namespace yfk {
namespace cuda {

Passes yellowfin_robust_passes(DType dtype) {
  return {update_pass<YellowFin<false, true>>(dtype), nullptr, nullptr};
}

}  // namespace cuda
}  // namespace yfk
