// LAMB: a pass for moments and norms, then one for the parameters.
#include "apply.cuh"

namespace yfk {
namespace cuda {

Passes lamb_passes(DType dtype) {
  return {nullptr, update_state_pass<LAMB>(dtype), apply_pass<LAMB>(dtype)};
}

}  // namespace cuda
}  // namespace yfk
