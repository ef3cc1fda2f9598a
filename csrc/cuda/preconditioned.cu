// YellowFin with a preconditioner, in one pass.
// A division and a root an element: the GPU's own, good to a few units in the last place.
// compile with: -prec-div=false -prec-sqrt=false
#include "update.cuh"

namespace yfk {
namespace cuda {

Passes yellowfin_diagonal_passes(DType dtype) {
  return {update_pass<PreconditionedYellowFin<Stored::kFloats>>(dtype), nullptr, nullptr};
}

Passes yellowfin_compact_passes(DType dtype) {
  return {update_pass<PreconditionedYellowFin<Stored::kCodes>>(dtype), nullptr, nullptr};
}

Passes yellowfin_float8_passes(DType dtype) {
  return {update_pass<PreconditionedYellowFin<Stored::kFloat8>>(dtype), nullptr, nullptr};
}

}  // namespace cuda
}  // namespace yfk
