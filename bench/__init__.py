"""Benchmarks of the fused optimizers against their rivals, in one interleaved run."""
