"""The loss around the weights of a trained model: sharpness, flatness, scales without effect."""

from yfkernels.analysis.landscape.adaptive import Adaptive
from yfkernels.analysis.landscape.flatness import EpsilonFlatness
from yfkernels.analysis.landscape.keskar import Keskar
from yfkernels.analysis.landscape.line import interpolated
from yfkernels.analysis.landscape.measure import METHODS, Measure, sharpness
from yfkernels.analysis.landscape.monitor import Reading, SharpnessMonitor
from yfkernels.analysis.landscape.random_directions import Random
from yfkernels.analysis.landscape.rescaling import rescale_relu_layers
from yfkernels.analysis.landscape.results import (
    AdaptiveSharpness,
    Flatness,
    KeskarSharpness,
    LargestCurvature,
    LayerSharpness,
    MeanSharpness,
    Sharpness,
)
from yfkernels.analysis.landscape.spectrum import LambdaMax, Trace
from yfkernels.analysis.landscape.surface import Evaluations, Surface

__all__ = [
    "METHODS",
    "Adaptive",
    "AdaptiveSharpness",
    "EpsilonFlatness",
    "Evaluations",
    "Flatness",
    "Keskar",
    "KeskarSharpness",
    "LambdaMax",
    "LargestCurvature",
    "LayerSharpness",
    "MeanSharpness",
    "Measure",
    "Random",
    "Reading",
    "Sharpness",
    "SharpnessMonitor",
    "Surface",
    "Trace",
    "interpolated",
    "rescale_relu_layers",
    "sharpness",
]
