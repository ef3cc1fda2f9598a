"""What theory predicts for a choice of hyperparameters: stationary loss, stability, risk bounds."""

from yfkernels.analysis.generalization import (
    delayed_covariance,
    delayed_pac_bayes_bound,
    pac_bayes_bound,
    stationary_excess_loss,
)
from yfkernels.analysis.staleness import (
    BestMomentum,
    algorithmic_momentum,
    best_momentum,
    delayed_excess_loss,
    implicit_momentum,
    stability_limit,
)

__all__ = [
    "BestMomentum",
    "algorithmic_momentum",
    "best_momentum",
    "delayed_covariance",
    "delayed_excess_loss",
    "delayed_pac_bayes_bound",
    "implicit_momentum",
    "pac_bayes_bound",
    "stability_limit",
    "stationary_excess_loss",
]
