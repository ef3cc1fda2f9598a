// What the host side makes of the runtime's answers: devices are counted and made current, and an
// error is told once. And without chunks it launches nothing.
#include <stdexcept>

#include "check.h"
#include "cuda/launch.h"
#include "queue.h"

namespace yfk {
namespace {

using cuda_on_cpu::runtime;

void check_count(int devices, cudaError_t answer, int count, const std::string& why) {
  runtime = {devices, 0, answer};
  const char* reason = nullptr;
  EXPECT(cuda::device_count(&reason) == count, "with " << devices << " devices");
  EXPECT(reason == why, reason << " instead of " << why);
  EXPECT(cudaGetLastError() == cudaSuccess, "the next launch finds the error");
}

// fails: as the device before is made current again.
void check_guard(int device, bool fails) {
  runtime = {};
  {
    const cuda::DeviceGuard guard(device);
    EXPECT(runtime.current == device, runtime.current << " is current");
    if (fails) runtime.answer = cudaErrorNoDevice;
  }
  EXPECT(runtime.current == (fails ? device : 0), runtime.current << " is current afterwards");
  EXPECT(cudaGetLastError() == cudaSuccess, "the next launch finds the error");
}

void check_error() {
  runtime = {0, 0, cudaErrorNoDevice};
  std::string told;
  try {
    cuda::decide({}, {0, nullptr});
  } catch (const std::runtime_error& error) {
    told = error.what();
  }
  EXPECT(told == "yfkernels: cudaGetDevice: cudaErrorNoDevice (no device)", told);
  EXPECT(cudaGetLastError() == cudaSuccess, "the next launch finds the error");
}

// CUDA takes a grid without blocks for an error, and the one here ends the program.
void check_nothing_is_launched() {
  runtime = {};
  const Table none = {};
  const DType dtype = DType::kFloat32;
  cuda::update(none, dtype, RuleId::kQHM, nullptr, nullptr, nullptr, nullptr, nullptr, kQueue);
  cuda::update_state(none, dtype, RuleId::kLAMB, nullptr, nullptr, nullptr, nullptr, kQueue);
  cuda::apply(none, dtype, RuleId::kLAMB, nullptr, nullptr, kQueue);
  cuda::advance_tangents(none, FamilyId::kPlain, nullptr, kQueue);
  cuda::own_derivatives(none, FamilyId::kPlain, nullptr, kQueue);
  cuda::project(none, {ProjectionId::kStored, 0, 0}, nullptr, nullptr, nullptr, nullptr, kQueue);
}

}  // namespace

void check_runtime(Random&) {
  check_count(3, cudaSuccess, 3, "");
  check_count(0, cudaSuccess, 0, "no device");
  check_count(3, cudaErrorInsufficientDriver, 0, "the driver is too old");
  for (const int device : {0, 1}) check_guard(device, false);
  check_guard(1, true);
  check_error();
  check_nothing_is_launched();
}

}  // namespace yfk
