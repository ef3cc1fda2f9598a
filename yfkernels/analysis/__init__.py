"""What theory predicts for a choice of hyperparameters: stability, stationary loss, risk bounds."""

from yfkernels.analysis.generalization import (
    delayed_covariance,
    delayed_pac_bayes_bound,
    pac_bayes_bound,
    stationary_excess_loss,
)
from yfkernels.analysis.robustness import (
    RobustRegion,
    RobustSettings,
    momentum_eigenvalues,
    momentum_operator,
    robust_region,
    robust_settings,
    spectral_radius,
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
    "RobustRegion",
    "RobustSettings",
    "algorithmic_momentum",
    "best_momentum",
    "delayed_covariance",
    "delayed_excess_loss",
    "delayed_pac_bayes_bound",
    "implicit_momentum",
    "momentum_eigenvalues",
    "momentum_operator",
    "pac_bayes_bound",
    "robust_region",
    "robust_settings",
    "spectral_radius",
    "stability_limit",
    "stationary_excess_loss",
]
