"""What an optimizer's last step shows: its learning rate, and momentum set, wanted and measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

from torch.optim import SGD

from yfkernels import YellowFin
from yfkernels.asynchronous import Server, TotalMomentum

NAMES = ("lr", "momentum", "target_momentum", "total_momentum")
_LONGEST = 64  # staleness up to which the total momentum of SGD is read

Reading = dict[str, float | None]


class Readings(Protocol):
    """Reads a server's optimizer after each applied push."""

    def read(self, staleness: int) -> Reading:
        """`NAMES`; None for what this optimizer does not have.

        `momentum` is the algorithmic one, which the optimizer was set to; `target_momentum` is what
        optimizer and workers are to have together, and `total_momentum` what they were seen to
        have.

        Args:
            staleness: of the push.
        """

    def state_dict(self) -> dict[str, Any]:
        """What it remembers."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on where state_dict() was taken."""


class Settings:
    """Of optimizers that nothing is measured of."""

    def __init__(self, server: Server) -> None:
        self._group = server.optimizer.param_groups[0]

    def read(self, staleness: int) -> Reading:
        group = self._group
        names = [name for name in ("momentum", "beta") if name in group]
        momentum = group[names[0]] if names else group["betas"][0]
        return {**dict.fromkeys(NAMES), "lr": float(group["lr"]), "momentum": momentum}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        pass


class OfSGD(Settings):
    """Measures the total momentum of SGD, in which a gradient's own part of a move is -lr g."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._buffers = server.buffers
        self._total = TotalMomentum(server.buffers.parameters, max_staleness=_LONGEST)

    @staticmethod
    def fits(optimizer: object) -> bool:
        """Whether the own part is that, and nothing else moves the parameters."""
        if not isinstance(optimizer, SGD):
            return False
        (group,) = optimizer.param_groups
        others = ("dampening", "maximize", "nesterov", "weight_decay")
        return not any(group[name] for name in others)

    def read(self, staleness: int) -> Reading:
        found = super().read(staleness)
        own = -float(self._group["lr"]) * self._total.sampled(self._buffers.gradients)
        self._total.record(self._buffers.parameters)
        return {**found, "total_momentum": self._total.estimate(own, staleness)}

    def state_dict(self) -> dict[str, Any]:
        return self._total.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self._total.load_state_dict(state_dict)


class OfYellowFin(Settings):
    """What YellowFin says itself; with its closed loop all four."""

    def __init__(self, optimizer: YellowFin) -> None:
        self._optimizer = optimizer

    def read(self, staleness: int) -> Reading:
        found = self._optimizer.diagnostics()
        values = {name: found.get(name, math.nan) for name in NAMES}
        return {name: None if math.isnan(value) else value for name, value in values.items()}


def readings_of(server: Server) -> Readings:
    """What reads the server's optimizer."""
    if isinstance(server.optimizer, YellowFin):
        return OfYellowFin(server.optimizer)
    return OfSGD(server) if OfSGD.fits(server.optimizer) else Settings(server)
