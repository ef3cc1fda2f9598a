"""Triton: CUDA without the compiled module, and a CPU through Triton's interpreter."""
