"""The YellowFin tuner in tensor operations, on any device.

Every scalar is a float64 tensor on the device of the state, so nothing here synchronizes.
Source: Zhang, Mitliagkas, Ré, arXiv 1706.03471.
"""

from __future__ import annotations

from torch import Tensor

from yfkernels.ops.constants import SUMS
from yfkernels.ops.options import YellowFinOptions
from yfkernels.ops.torch.plain import tune_plain
from yfkernels.ops.torch.preconditioned import tune_preconditioned
from yfkernels.ops.torch.statistics import TuningStep


def tune_yellowfin(
    options: YellowFinOptions,
    partials: Tensor,
    sketches: Tensor | None,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    state: Tensor,
    groups: Tensor,
    coefficients: Tensor,
) -> None:
    """Adds up the slots and runs the tuner where `state` lives."""
    sums = dict(zip(SUMS, partials.sum(0).unbind()))
    step = TuningStep(options, sums["grad_sq"], grad_scale, found_inf, state, groups)
    if options.preconditioned:
        tune_preconditioned(step, sums, state, coefficients)
    else:
        tune_plain(step, sums, sketches, state, coefficients)
