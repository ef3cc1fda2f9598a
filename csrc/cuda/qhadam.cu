// QHAdam: one pass.
#include "advance.cuh"

namespace yfk {
namespace cuda {

Passes qhadam_passes(DType dtype) { return {advance_pass<QHAdam>(dtype), nullptr, nullptr}; }

}  // namespace cuda
}  // namespace yfk
