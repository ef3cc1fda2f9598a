// LAMB: a pass for moments and norms, then one for the parameters.
// A division and a root an element: the GPU's own, good to a few units in the last place.
// compile with: -prec-div=false -prec-sqrt=false
#include "apply.cuh"

namespace yfk {
namespace cuda {

Passes lamb_passes(DType dtype) {
  return {nullptr, update_state_pass<LAMB>(dtype), apply_pass<LAMB>(dtype)};
}

Passes lamb_bytes_passes(DType dtype) {
  return {nullptr, update_state_pass<InBytes<LAMB>>(dtype), apply_pass<InBytes<LAMB>>(dtype)};
}

}  // namespace cuda
}  // namespace yfk
