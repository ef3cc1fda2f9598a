"""Benchmarks: how fast a step is (`speed`), and how fast and how far it trains (`convergence`)."""
