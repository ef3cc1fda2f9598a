// NVIDIA's own arithmetic, for test_occupancy.py. Reads lines of
//   arch threads registers shared | block registers shared
// (of a multiprocessor, then of a kernel) and prints how many blocks fit.
#include <cuda_occupancy.h>

#include <cstdio>

int main() {
  int arch, threads, registers, shared, block, used_registers, used_shared;
  while (std::scanf("%d %d %d %d | %d %d %d", &arch, &threads, &registers, &shared, &block,
                    &used_registers, &used_shared) == 7) {
    cudaOccDeviceProp device;
    device.computeMajor = arch / 10;
    device.computeMinor = arch % 10;
    device.maxThreadsPerBlock = 1024;
    device.maxThreadsPerMultiprocessor = threads;
    device.regsPerBlock = device.regsPerMultiprocessor = registers;
    device.warpSize = 32;
    device.sharedMemPerBlock = 48 * 1024;
    device.sharedMemPerMultiprocessor = shared;
    device.sharedMemPerBlockOptin = shared - 1024;
    device.reservedSharedMemPerBlock = 1024;
    device.numSms = 100;
    cudaOccFuncAttributes kernel;
    kernel.maxThreadsPerBlock = 1024;
    kernel.numRegs = used_registers;
    kernel.sharedSizeBytes = used_shared;
    kernel.partitionedGCConfig = PARTITIONED_GC_OFF;
    kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
    kernel.maxDynamicSharedSizeBytes = 0;
    const cudaOccDeviceState state;
    cudaOccResult result;
    const cudaOccError status =
        cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &kernel, &state, block, 0);
    if (status != CUDA_OCC_SUCCESS) return int(status);
    std::printf("%d\n", result.activeBlocksPerMultiprocessor);
  }
}
