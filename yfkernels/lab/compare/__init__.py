"""Optimizers side by side: train, print a table, write every number as CSV, draw a figure."""

from yfkernels.lab.compare.batch_sizes import run_large_batch
from yfkernels.lab.compare.steps import run_comparison

__all__ = ["run_comparison", "run_large_batch"]
