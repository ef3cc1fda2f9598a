"""What theory predicts for a choice of hyperparameters: stationary loss and risk bounds."""

from yfkernels.analysis.generalization import pac_bayes_bound, stationary_excess_loss

__all__ = ["pac_bayes_bound", "stationary_excess_loss"]
