"""Trainings with stale gradients, on the simulator: who learns, how fast, and how well."""
