"""`make gpu`: the tests, benchmarks and sanitizers of a CUDA machine, in six minutes."""
