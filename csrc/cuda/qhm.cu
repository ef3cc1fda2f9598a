// QHM: one pass.
#include "update.cuh"

namespace yfk {
namespace cuda {

Passes qhm_passes(DType dtype) { return {update_pass<QHM>(dtype), nullptr, nullptr}; }

}  // namespace cuda
}  // namespace yfk
