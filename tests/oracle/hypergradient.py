"""A tuner's step differentiated as a whole, in float64: torch.func.jvp of w, slots and lr at once.

Written from the papers, functionally, and without a look at the package. The parameters are one
vector, the network a formula of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.func import grad, jvp

Loss = Callable[[Tensor], Tensor]
Slots = tuple[Tensor, ...]
Step = Callable[[Tensor, Tensor, Slots, Tensor, int], tuple[Tensor, Slots]]
"""(g, w, slots, lr, number from 1) to (w, slots) after it."""


def sgd(
    momentum: float = 0.0, dampening: float = 0.0, nesterov: bool = False, decay: float = 0.0
) -> Step:
    def step(g: Tensor, w: Tensor, slots: Slots, lr: Tensor, t: int) -> tuple[Tensor, Slots]:
        g = g + decay * w
        if not momentum:
            return w - lr * g, slots
        v = g if t == 1 else momentum * slots[0] + (1.0 - dampening) * g
        return w - lr * (g + momentum * v if nesterov else v), (v,)

    return step


def qhm(nu: float, beta: float, decay: float) -> Step:
    """With decoupled decay."""

    def step(g: Tensor, w: Tensor, slots: Slots, lr: Tensor, t: int) -> tuple[Tensor, Slots]:
        d = beta * slots[0] + (1.0 - beta) * g
        return (1.0 - lr * decay) * w - lr * ((1.0 - nu) * g + nu * d), (d,)

    return step


def adam(
    betas: tuple[float, float] = (0.9, 0.999),
    nus: tuple[float, float] = (1.0, 1.0),
    eps: float = 1e-8,
    decay: float = 0.0,
    decoupled: bool = False,
) -> Step:
    def step(g: Tensor, w: Tensor, slots: Slots, lr: Tensor, t: int) -> tuple[Tensor, Slots]:
        if not decoupled:
            g = g + decay * w
        m = betas[0] * slots[0] + (1.0 - betas[0]) * g
        v = betas[1] * slots[1] + (1.0 - betas[1]) * g * g
        m_hat, v_hat = m / (1.0 - betas[0] ** t), v / (1.0 - betas[1] ** t)
        top = (1.0 - nus[0]) * g + nus[0] * m_hat
        size = ((1.0 - nus[1]) * g * g + nus[1] * v_hat).sqrt() + eps
        kept = 1.0 - lr * decay if decoupled else 1.0
        return kept * w - lr * top / size, (m, v)

    return step


class Normalized:
    """The normalized step of a learning rate, as docs/optimizers/hypergradients.md has it."""

    def __init__(self, hyper_lr: float) -> None:
        self.hyper_lr = hyper_lr
        self.cosines: list[float] = []
        self.norms: list[float] = []
        self.changes: list[float] = []

    def factor(self, e: Tensor, z: Tensor) -> float:
        """Of the learning rate, after a hypergradient <e, z>."""
        norm = float(e.norm())
        c = float(e @ z) / (norm * float(z.norm()))
        self.cosines.append(c)
        wanted = math.exp(-self.hyper_lr * c / math.sqrt(sum(c * c for c in self.cosines)))
        if self.norms:
            change = math.log(norm / self.norms[-1])
            count = len(self.changes)
            usual = math.sqrt(sum(c * c for c in self.changes) / count) if count else math.inf
            limit = max(5.0 * usual, math.log(1.5))
            if c > 0 and change > limit:
                wanted = min(wanted, math.exp(-3.0 * c))
            self.changes.append(min(abs(change), limit))
        self.norms.append(norm)
        return wanted


@dataclass
class Tuner:
    """MARTHE over one vector.

    Attributes:
        step: of the optimizer.
        slots: how many it has.
        w: the parameters.
        lr, mu, beta: as the paper has them; `adapts` says whether mu does.
        alpha: step size of beta.
    """

    step: Step
    slots: int
    w: Tensor
    lr: float
    mu: float
    beta: float
    alpha: float = 0.0
    adapts: bool = False
    clip: float = 100.0
    count: float = 0.0
    delta: float = 0.0
    number: int = 0
    state: Slots = ()
    z: Slots = field(default=())

    def __post_init__(self) -> None:
        self.state = tuple(torch.zeros_like(self.w) for _ in range(self.slots))
        self.z = tuple(torch.zeros_like(self.w) for _ in range(1 + self.slots))

    def advance(self, training: Loss, validation: Loss) -> None:
        self.number += 1
        at, lr = (self.w, *self.state), torch.tensor(self.lr, dtype=torch.float64)

        def whole(lr: Tensor, w: Tensor, *slots: Tensor) -> Slots:
            w, slots = self.step(grad(training)(w), w, slots, lr, self.number)
            return (w, *slots)

        still = tuple(torch.zeros_like(each) for each in at)
        _, own = jvp(whole, (lr, *at), (torch.ones_like(lr), *still))
        damped = tuple(self.mu * each for each in self.z)
        after, self.z = jvp(whole, (lr, *at), (torch.ones_like(lr), *damped))
        self.w, *rest = after
        self.state = tuple(rest)
        e = grad(validation)(self.w)
        delta = min(max(float(e @ self.z[0]), -self.clip), self.clip)
        if self.alpha:
            self.beta = max(self.beta + self.alpha * delta * self.delta, 0.0)
        self.lr = max(self.lr - self.beta * delta, 0.0)
        if self.adapts:
            h = min(max(delta / float(e @ own[0]), 0.0), 1.0)
            self.count = (self.count + 1.0) * self.mu
            self.mu = h ** (1.0 / (self.count + 1.0))
        self.delta = delta
