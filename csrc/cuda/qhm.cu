// QHM: one pass.
#include "advance.cuh"

namespace yfk {
namespace cuda {

Passes qhm_passes(DType dtype) { return {advance_pass<QHM>(dtype), nullptr, nullptr}; }

}  // namespace cuda
}  // namespace yfk
