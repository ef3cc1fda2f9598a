"""Self-tuning optimizers for PyTorch whose whole step is one to three fused launches."""

from yfkernels._version import __version__
from yfkernels.config import show_config
from yfkernels.ops.averaging import WeightAverage
from yfkernels.optim.hd import HD
from yfkernels.optim.hyper_lr_search import find_hyper_lr
from yfkernels.optim.lamb import LAMB
from yfkernels.optim.marthe import MARTHE
from yfkernels.optim.param_groups import param_groups
from yfkernels.optim.qhadam import QHAdam
from yfkernels.optim.qhm import QHM
from yfkernels.optim.rtho import RTHO
from yfkernels.optim.yellowfin import YellowFin
from yfkernels.schedules.batch_size_sampler import BatchSizeSampler
from yfkernels.schedules.multistage import MultistageSchedule
from yfkernels.schedules.stage import Stage
from yfkernels.tuners.closed_loop import ClosedLoop
from yfkernels.tuners.single_step import single_step

__all__ = [
    "HD",
    "LAMB",
    "MARTHE",
    "QHM",
    "RTHO",
    "BatchSizeSampler",
    "ClosedLoop",
    "MultistageSchedule",
    "QHAdam",
    "Stage",
    "WeightAverage",
    "YellowFin",
    "__version__",
    "find_hyper_lr",
    "param_groups",
    "show_config",
    "single_step",
]
