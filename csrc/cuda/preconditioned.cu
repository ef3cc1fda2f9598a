// YellowFin with a preconditioner, in one pass.
#include "update.cuh"

namespace yfk {
namespace cuda {

Passes yellowfin_diagonal_passes(DType dtype) {
  return {update_pass<PreconditionedYellowFin<false>>(dtype), nullptr, nullptr};
}

Passes yellowfin_compact_passes(DType dtype) {
  return {update_pass<PreconditionedYellowFin<true>>(dtype), nullptr, nullptr};
}

}  // namespace cuda
}  // namespace yfk
