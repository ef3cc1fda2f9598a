"""Rival optimizers: one written for the benchmarks alone, and those of other packages."""

from bench.speed.rivals.per_tensor_yellowfin import PerTensorYellowFin

__all__ = ["PerTensorYellowFin"]
