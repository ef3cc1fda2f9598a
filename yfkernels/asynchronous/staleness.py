"""How much a stale gradient counts: rules that weigh, or refuse, a push by its staleness."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from yfkernels._checks import check_fraction, check_positive, require, require_number
from yfkernels.ops.sample import Sample
from yfkernels.optim.qhm import QHM

_COORDINATES = 65_536  # of which a gate takes its cosine: its standard error is then 1/256 or less


class StalenessRule:
    """Weighs each push. A weight of 0 refuses it, a weight of 1 changes nothing.

    Where a weight goes depends on the optimizer (`weighs_gradient`). SGD and QHM are linear in the
    gradient: the gradient is scaled, and with it all that it will ever contribute through the
    momentum. Adam, LAMB and YellowFin divide by the gradient's own size, so that scaling all
    gradients alike does nothing, and YellowFin measures them; there the learning rate of the one
    step is scaled.
    """

    def begin(self, parameters: Sequence[Tensor]) -> None:
        """Called once by the server, with its flat parameters."""

    def weight(self, staleness: int, gradient: Sequence[Tensor]) -> float:
        """A push's weight in [0, 1].

        Args:
            staleness: versions between the pull and now, >= 0.
            gradient: flat tensors.
        """
        raise NotImplementedError

    def applied(self, parameters: Sequence[Tensor]) -> None:
        """Called after each applied push, with the flat parameters as they are now."""

    def state_dict(self) -> dict[str, Any]:
        """What it remembers."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores what state_dict() saved; called after `begin`, with the parameters restored."""


class DelayAdaptive(StalenessRule):
    """1 / (tau + 1): the learning rate alpha / (tau + 1) at staleness tau.

    Source: Agarwal, Duchi, "Distributed Delayed Stochastic Optimization", arXiv 1104.5525; Zhang,
    Gupta, Lian, Liu, "Staleness-aware Async-SGD", arXiv 1511.05950.

    Example:
        >>> DelayAdaptive().weight(3, [])
        0.25
    """

    def weight(self, staleness: int, gradient: Sequence[Tensor]) -> float:
        return 1.0 / (staleness + 1)


class DropOlder(StalenessRule):
    """1 up to a staleness, 0 beyond: the push is refused.

    Args:
        limit: the largest staleness that is applied, >= 0.

    Raises:
        ValueError: a negative limit.
    """

    def __init__(self, limit: int) -> None:
        ok = isinstance(limit, int) and not isinstance(limit, bool) and limit >= 0
        require(ok, "limit", limit, "an integer >= 0")
        self._limit = limit

    def weight(self, staleness: int, gradient: Sequence[Tensor]) -> float:
        return 1.0 if staleness <= self._limit else 0.0


class AgeGate(StalenessRule):
    """exp(-decay tau) times half a cosine that falls from 1 to 0 at a cutoff, after CGAD.

        w = exp(-decay tau) (1 + cos(pi tau / cutoff)) / 2  below the cutoff, 0 from there on

    Args:
        decay: a, >= 0.
        cutoff: the staleness from which on a push is refused, > 0.

    Raises:
        TypeError, ValueError: an argument out of its range.

    Source: the idea, a cosine gate in the age with a cutoff beside an exponential, is of the
    abstract of arXiv 2605.09126 (CGAD). The formula of the cosine is ours: it was not compared with
    the paper's.

    Example:
        >>> gate = AgeGate(decay=0.0, cutoff=8)
        >>> [round(gate.weight(staleness, []), 3) for staleness in (0, 4, 8)]
        [1.0, 0.5, 0.0]
    """

    def __init__(self, decay: float = 0.1, cutoff: float = 16) -> None:
        _check_decay(decay)
        check_positive("cutoff", cutoff)
        self._decay, self._cutoff = decay, cutoff

    def weight(self, staleness: int, gradient: Sequence[Tensor]) -> float:
        if staleness >= self._cutoff:
            return 0.0
        cosine = 0.5 * (1.0 + math.cos(math.pi * staleness / self._cutoff))
        return math.exp(-self._decay * staleness) * cosine


class CosineGate(StalenessRule):
    """The cosine of a stale gradient with the running average of the moves, times exp(-decay tau).

        w = exp(-decay tau) max(cos(-g, average move), 0)

    A gradient that disagrees is refused. That cannot stop training: a refusal makes no version, so
    workers soon pull the current one, and a fresh gradient (tau = 0) has weight 1, as has any
    before the first move. The average and the cosine are those of 65,536 coordinates drawn at
    random, or of all if there are fewer.

    Args:
        decay: a, >= 0.
        smoothing: of the average, in [0, 1).
        seed: determines the coordinates.

    Raises:
        TypeError, ValueError: an argument out of its range.
    """

    def __init__(self, decay: float = 0.1, smoothing: float = 0.9, seed: int = 0) -> None:
        _check_decay(decay)
        check_fraction("smoothing", smoothing)
        self._decay, self._smoothing, self._seed = decay, smoothing, seed

    def begin(self, parameters: Sequence[Tensor]) -> None:
        self._sample = Sample(parameters, _COORDINATES, self._seed)
        self._last = self._sample.of(parameters)
        self._average = torch.zeros_like(self._last)

    def weight(self, staleness: int, gradient: Sequence[Tensor]) -> float:
        if staleness == 0 or not bool(self._average.any()):
            return 1.0
        descent = -self._sample.of(gradient)
        cosine = float(torch.cosine_similarity(descent, self._average, dim=0, eps=0.0).nan_to_num())
        return math.exp(-self._decay * staleness) * min(max(cosine, 0.0), 1.0)

    def applied(self, parameters: Sequence[Tensor]) -> None:
        now = self._sample.of(parameters)
        self._average.lerp_(now - self._last, 1.0 - self._smoothing)
        self._last = now

    def state_dict(self) -> dict[str, Any]:
        return {"average": self._average}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self._average.copy_(state_dict["average"])


RULES: dict[str, type[StalenessRule]] = {
    "delay_adaptive": DelayAdaptive,
    "drop_older": DropOlder,
    "age_gate": AgeGate,
    "cosine_gate": CosineGate,
}


def weighs_gradient(optimizer: Optimizer) -> bool:
    """Whether a weight is to scale an optimizer's gradient; if not, its learning rate."""
    return isinstance(optimizer, torch.optim.SGD | QHM)


@contextmanager
def scaled_lr(optimizer: Optimizer, weight: float) -> Iterator[None]:
    """Scales the learning rate of every parameter group, for one step."""
    lrs = [group["lr"] for group in optimizer.param_groups]
    try:
        for group, lr in zip(optimizer.param_groups, lrs):
            group["lr"] = lr * weight
        yield
    finally:
        for group, lr in zip(optimizer.param_groups, lrs):
            group["lr"] = lr


def _check_decay(decay: Any) -> None:
    require_number("decay", decay)
    require(0.0 <= decay < math.inf, "decay", decay, "finite and >= 0")
