// The gate alone: for a rule that measures nothing, or after slots that were added up elsewhere.
#include "gate.cuh"
#include "launch.h"

namespace yfk {
namespace cuda {
namespace {

__global__ void __launch_bounds__(kWarp) gate_kernel(GateArguments arguments) {
  decide_step(arguments);
}

}  // namespace

void decide(const GateArguments& arguments, Queue queue) {
  const DeviceGuard guard(queue.device);
  YFK_LAUNCH(gate_kernel, 1, kWarp, 0, stream_of(queue), arguments);
}

}  // namespace cuda
}  // namespace yfk
