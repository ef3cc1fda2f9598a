"""QHAdam in plain float64 NumPy: the slow, obvious optimizer that every backend has to equal.

Ma and Yarats, "Quasi-hyperbolic momentum and Adam" (ICLR 2019), section 5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from oracle.moments import MomentsGroup
from oracle.vectors import Array
from oracle.walk import Oracle, Trace, decay


@dataclass
class QhAdamGroup(MomentsGroup):
    """One parameter group with all options of QHAdam."""

    lr: float = 1e-3
    nus: tuple[float, float] = (0.7, 1.0)
    betas: tuple[float, float] = (0.995, 0.999)
    eps: float = 1e-8


class QhAdamOracle(Oracle[QhAdamGroup, Trace]):
    """The optimizer. Both moments are debiased by the parameter's own step."""

    def move(self, group: QhAdamGroup, i: int, g: Array, norm: float) -> None:
        lr, t = group.lr, group.steps[i]
        (nu1, nu2), (b1, b2) = group.nus, group.betas
        g, size = decay(group, i, g)
        m = b1 * group.exp_avgs[i] + (1.0 - b1) * g
        v = b2 * group.exp_avg_sqs[i] + (1.0 - b2) * g**2
        group.advance(i, m, v, self.origin)
        magnitude = group.exp_avg_magnitudes[i] = (
            b1 * group.exp_avg_magnitudes[i] + (1.0 - b1) * size
        )
        m_hat, v_hat = m / (1.0 - b1**t), v / (1.0 - b2**t)
        denominator = np.sqrt((1.0 - nu2) * g**2 + nu2 * v_hat) + group.eps
        reach = np.abs(1.0 - nu1) * size + np.abs(nu1) * magnitude / (1.0 - b1**t)
        group.path[i] += lr * reach / denominator
        group.params[i] = group.params[i] - lr * ((1.0 - nu1) * g + nu1 * m_hat) / denominator

    def trace(self, norm: float) -> Trace:
        return Trace(norm, self.all_steps(), self.skipped_steps)
