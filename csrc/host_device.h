// What marks a function that the host and the device share.
#pragma once

#if defined(__CUDACC__)
#define YFK_FN __host__ __device__ __forceinline__
#else
#define YFK_FN inline __attribute__((always_inline))
#endif
