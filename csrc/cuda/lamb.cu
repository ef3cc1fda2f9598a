// LAMB: a pass for moments and norms, then one for the parameters.
#include "move.cuh"

namespace yfk {
namespace cuda {

Passes lamb_passes(DType dtype) {
  return {nullptr, direct_pass<LAMB>(dtype), move_pass<LAMB>(dtype)};
}

}  // namespace cuda
}  // namespace yfk
