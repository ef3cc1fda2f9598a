// Kernels that do on purpose what the package's must not, each one thing, for test_detectors.py.
#include <cstdint>

// Nothing wrong: doubles and a division, but outside of the loop over elements.
__global__ void clean_kernel(const float4* x, float4* y, double* sums, int chunks, int n) {
  double sum = 0.0;
  for (int chunk = 0; chunk < chunks; ++chunk) {
    float part = 0.0f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
      const float4 a = x[int64_t(chunk) * n + i];
      part += a.x;
      y[int64_t(chunk) * n + i] = a;
    }
    sum += double(part) / chunks;
  }
  sums[threadIdx.x] = sum;
}

__global__ void scalar_kernel(const float* x, float* y, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = 2.0f * x[i];
}

__global__ void double_kernel(const float4* x, double* y, int n) {
  double sum = 0.0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) sum += double(x[i].x);
  y[threadIdx.x] = sum;
}

__global__ void division_kernel(const float4* x, float4* y, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    const float4 a = x[i];
    y[i] = make_float4(a.x / a.w, a.y, a.z, a.w);
  }
}

__global__ void root_kernel(const float4* x, float4* y, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    const float4 a = x[i];
    y[i] = make_float4(sqrtf(a.x), a.y, a.z, a.w);
  }
}

// Two blocks of 1024 threads leave a thread 32 registers, and 48 values have to wait for their sum.
__global__ void __launch_bounds__(1024, 2) spill_kernel(const float* x, float* y, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    float values[48], sum = 0.0f;
#pragma unroll
    for (int k = 0; k < 48; ++k) sum += values[k] = x[k * n + i];
#pragma unroll
    for (int k = 0; k < 48; ++k) y[k * n + i] = sum * values[k];
  }
}

// Which memory an address lies in shows only at run time.
__global__ void generic_kernel(float* global, int n) {
  __shared__ float shared[1024];
  shared[threadIdx.x] = 1.0f;
  __syncthreads();
  float* x = n > 1024 ? global : shared;
  for (int i = threadIdx.x; i < n; i += blockDim.x) x[i] = 2.0f * x[i];
  __syncthreads();
  global[threadIdx.x] = shared[threadIdx.x];
}

// Loops over doubles are none over elements.
__global__ void slots_kernel(const double* slots, double* sums, int n) {
  double sum = 0.0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) sum += slots[i];
  sums[threadIdx.x] = sum;
}

namespace yfk {
enum class Measure { kNorm, kAverage, kSketch };
}

// A sketch's measurement, three operations an element, that reads a column too many.
template <class G, yfk::Measure kWhat>
__global__ void measure_kernel(const float4* g, const float4* extra, float* out, int n) {
  float squares = 0.0f, sum = 0.0f, rest = 0.0f;
#pragma unroll 1
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    const float4 a = g[i], b = extra[i];
    squares += a.x * a.x + a.y * a.y + a.z * a.z + a.w * a.w;
    sum += a.x + a.y + a.z + a.w;
    rest = fmaxf(rest, fmaxf(fmaxf(b.x, b.y), fmaxf(b.z, b.w)));
  }
  out[threadIdx.x] = squares + sum + rest;
}
template __global__ void measure_kernel<float, yfk::Measure::kSketch>(const float4*, const float4*,
                                                                      float*, int);
