"""The compiled module yfkernels._C: CPU with SIMD and threads, CUDA with persistent grids."""
