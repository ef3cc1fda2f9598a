"""Learning rates that are set in the course of a training: hypergradients beside schedules."""
