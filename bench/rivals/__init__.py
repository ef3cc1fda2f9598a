"""Rival optimizers written for the benchmarks alone."""

from bench.rivals.per_tensor_yellowfin import PerTensorYellowFin

__all__ = ["PerTensorYellowFin"]
