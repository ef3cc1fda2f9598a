"""Self-tuning optimizers for PyTorch whose whole step is two or three fused launches."""

from yfkernels._version import __version__
from yfkernels.config import show_config
from yfkernels.optim.yellowfin import YellowFin
from yfkernels.tuning.single_step import single_step

__all__ = ["YellowFin", "__version__", "show_config", "single_step"]
