"""Learning rates in the course of a training, by hypergradient or schedule: `yfkernels tune`."""
