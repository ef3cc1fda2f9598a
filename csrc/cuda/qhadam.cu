// QHAdam: one pass.
// A division and a root an element: the GPU's own, good to a few units in the last place.
// compile with: -prec-div=false -prec-sqrt=false
#include "update.cuh"

namespace yfk {
namespace cuda {

Passes qhadam_passes(DType dtype) { return {update_pass<QHAdam>(dtype), nullptr, nullptr}; }

Passes qhadam_bytes_passes(DType dtype) {
  return {update_pass<InBytes<QHAdam>>(dtype), nullptr, nullptr};
}

}  // namespace cuda
}  // namespace yfk
