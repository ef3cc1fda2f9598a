// Where the checks launch: on a device that is not the current one, and stays so unless the driver
// makes it current.
#pragma once

#include "cuda/driver.h"
#include "cuda_runtime.h"

namespace yfk {

inline const cuda::Queue kQueue = {1, cuda_on_cpu::stream_on(1)};

}  // namespace yfk
