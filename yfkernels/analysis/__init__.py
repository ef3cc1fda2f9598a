"""Theory as a tool: what a choice of hyperparameters should lead to."""

from yfkernels.analysis.generalization import pac_bayes_bound, stationary_excess_loss

__all__ = ["pac_bayes_bound", "stationary_excess_loss"]
