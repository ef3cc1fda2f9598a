"""Self-tuning optimizers for PyTorch whose whole step is one to three fused launches."""

from yfkernels._version import __version__
from yfkernels.config import show_config
from yfkernels.optim.lamb import LAMB
from yfkernels.optim.param_groups import param_groups
from yfkernels.optim.qhadam import QHAdam
from yfkernels.optim.qhm import QHM
from yfkernels.optim.yellowfin import YellowFin
from yfkernels.schedules.batch_size_sampler import BatchSizeSampler
from yfkernels.schedules.multistage import MultistageSchedule
from yfkernels.schedules.stage import Stage
from yfkernels.tuners.single_step import single_step

__all__ = [
    "LAMB",
    "QHM",
    "BatchSizeSampler",
    "MultistageSchedule",
    "QHAdam",
    "Stage",
    "YellowFin",
    "__version__",
    "param_groups",
    "show_config",
    "single_step",
]
