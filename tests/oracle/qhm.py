"""QHM in plain float64 NumPy: the slow, obvious optimizer that every backend has to equal.

Ma and Yarats, "Quasi-hyperbolic momentum and Adam" (ICLR 2019), equation (4).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from oracle.vectors import Array
from oracle.walk import Group, Oracle, Trace, decay


@dataclass
class QhmGroup(Group):
    """One parameter group with all options of QHM."""

    nu: float = 0.7
    beta: float = 0.999
    momentum_buffers: list[Array] = field(init=False)
    momentum_magnitudes: list[Array] = field(init=False)  # the same average of |g|, for the path

    def __post_init__(self) -> None:
        super().__post_init__()
        self.momentum_buffers = self.zeros()
        self.momentum_magnitudes = self.zeros()


class QhmOracle(Oracle[QhmGroup, Trace]):
    """The optimizer. The buffer starts at zero and is never debiased."""

    def move(self, group: QhmGroup, i: int, g: Array, norm: float) -> None:
        lr, nu, beta = group.lr, group.nu, group.beta
        g, size = decay(group, i, g)
        d = group.momentum_buffers[i] = beta * group.momentum_buffers[i] + (1.0 - beta) * g
        magnitude = group.momentum_magnitudes[i] = (
            beta * group.momentum_magnitudes[i] + (1.0 - beta) * size
        )
        # nu may leave [0, 1] where QHM stands for another method.
        group.path[i] += np.abs(lr) * (np.abs(1.0 - nu) * size + np.abs(nu) * magnitude)
        group.params[i] = group.params[i] - lr * ((1.0 - nu) * g + nu * d)

    def trace(self, norm: float) -> Trace:
        return Trace(norm, self.all_steps(), self.skipped_steps)
