"""Tangents of optimizer steps in plain float64 NumPy: the steps themselves, differentiated.

Nothing here knows a derivative. A step is written as its paper has it and taken once with complex
numbers: what a change of i ε in lr, and of i ε Z in parameter and slots, makes of it is ε times the
tangent, with no rounding to speak of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from oracle.vectors import Array

_SMALL = 1e-100


@dataclass(frozen=True)
class Options:
    """What a user sets, and how far a run is.

    Attributes:
        step: number of this step, from 1.
        momentum: m, and c, a, b of the momentum family as of "torch.optim.SGD" with dampening and
            Nesterov's form, or of QHM with its beta and nu.
        betas, nus, eps: of QHAdam; nus of 1 are Adam.
    """

    lr: float = 0.1
    weight_decay: float = 0.0
    decoupled: bool = False
    maximize: bool = False
    step: int = 1
    momentum: tuple[float, float, float, float] = (0.0, 1.0, 1.0, 0.0)
    betas: tuple[float, float] = (0.9, 0.999)
    nus: tuple[float, float] = (1.0, 1.0)
    eps: float = 1e-8

    @property
    def coupled_decay(self) -> float:
        return 0.0 if self.decoupled else self.weight_decay

    @property
    def decoupled_decay(self) -> float:
        return self.weight_decay if self.decoupled else 0.0


Step = Callable[..., list[Any]]
"""(options, lr, w, slots, grad of the loss) to (w, slots) after the step."""


def momentum_step(o: Options, lr: Any, w: Any, slots: Sequence[Any], grad: Any) -> list[Any]:
    """SGD with momentum and QHM; without a slot plain gradient descent."""
    m, c, a, b = o.momentum
    g = (-grad if o.maximize else grad) + o.coupled_decay * w
    after = [m * v + c * g for v in slots]
    u = a * g + b * after[0] if slots else g
    return [w - lr * o.decoupled_decay * w - lr * u, *after]


def adam_step(o: Options, lr: Any, w: Any, slots: Sequence[Any], grad: Any) -> list[Any]:
    """QHAdam, and Adam with nus of 1."""
    (b1, b2), (n1, n2), t = o.betas, o.nus, o.step
    g = (-grad if o.maximize else grad) + o.coupled_decay * w
    m = b1 * slots[0] + (1.0 - b1) * g
    v = b2 * slots[1] + (1.0 - b2) * g**2
    square = (1.0 - n2) * g**2 + n2 * v / (1.0 - b2**t)
    # the root has no derivative at 0, where that of the specification is 0
    root = np.where(square.real == 0.0, 0.0, np.sqrt(np.where(square.real == 0.0, 1.0, square)))
    u = ((1.0 - n1) * g + n1 * m / (1.0 - b1**t)) / (root + o.eps)
    return [w - lr * o.decoupled_decay * w - lr * u, m, v]


def advance(
    step: Step,
    o: Options,
    mu: float,
    w: Array,
    slots: Sequence[Array],
    grad: Array,
    hz: Array,
    z: Sequence[Array],
) -> list[Array]:
    """Z after a step: w's, then the slots'. hz: the Hessian times mu Zw."""
    if mu == 0.0:  # then nothing is known of them
        hz, z = np.zeros_like(w), [np.zeros_like(w) for _ in z]
    zw, *rest = (mu * each for each in z)
    tilted = [slot + 1j * _SMALL * each for slot, each in zip(slots, rest)]
    lr = o.lr + 1j * _SMALL
    after = step(o, lr, w + 1j * _SMALL * zw, tilted, grad + 1j * _SMALL * hz)
    return [each.imag / _SMALL for each in after]


def own(step: Step, o: Options, w: Array, slots: Sequence[Array], grad: Array) -> Array:
    """The step's own derivative of w to lr, all else being what it is."""
    after: Array = step(o, o.lr + 1j * _SMALL, w.astype(complex), slots, grad)[0]
    return after.imag / _SMALL


def dot(a: Array, b: Array) -> float:
    """⟨a, b⟩, rounded once."""
    return math.fsum((a * b).ravel())
