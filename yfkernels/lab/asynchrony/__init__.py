"""Training with several workers and stale gradients, simulated or real: `yfkernels async`."""
