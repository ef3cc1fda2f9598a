"""What the speed and the convergence benchmarks share."""
