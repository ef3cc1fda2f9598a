"""What theory predicts for hyperparameters, and how sharp the minimum is that a training found."""

from yfkernels.analysis.generalization import (
    delayed_covariance,
    delayed_pac_bayes_bound,
    pac_bayes_bound,
    stationary_excess_loss,
)
from yfkernels.analysis.landscape import (
    Sharpness,
    SharpnessMonitor,
    interpolated,
    rescale_relu_layers,
    sharpness,
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
    "Sharpness",
    "SharpnessMonitor",
    "algorithmic_momentum",
    "best_momentum",
    "delayed_covariance",
    "delayed_excess_loss",
    "delayed_pac_bayes_bound",
    "implicit_momentum",
    "interpolated",
    "momentum_eigenvalues",
    "momentum_operator",
    "pac_bayes_bound",
    "rescale_relu_layers",
    "robust_region",
    "robust_settings",
    "sharpness",
    "spectral_radius",
    "stability_limit",
    "stationary_excess_loss",
]
