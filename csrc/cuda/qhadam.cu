// QHAdam: one pass.
#include "update.cuh"

namespace yfk {
namespace cuda {

Passes qhadam_passes(DType dtype) { return {update_pass<QHAdam>(dtype), nullptr, nullptr}; }

}  // namespace cuda
}  // namespace yfk
