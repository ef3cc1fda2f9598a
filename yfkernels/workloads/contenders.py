"""The optimizers that are compared, each with the setting a user would start from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from yfkernels import YellowFin


@dataclass(frozen=True)
class Contender:
    """An optimizer with its setting.

    Attributes:
        label: name for people.
        setting: what was set, in words; printed beside every result.
        build: makes the optimizer for a model's parameters.
    """

    label: str
    setting: str
    build: Callable[[Iterable[nn.Parameter]], Optimizer]


# torch's two run as its fused kernels, the fastest it has: same mathematics, fair times.
CONTENDERS: dict[str, Contender] = {
    "yellowfin": Contender(
        label="YellowFin",
        setting="defaults",
        build=YellowFin,
    ),
    "adamw": Contender(
        label="AdamW",
        setting="lr 0.001",
        build=lambda parameters: AdamW(parameters, fused=True),
    ),
    "sgd": Contender(
        label="SGD",
        setting="lr 0.1, momentum 0.9",
        build=lambda parameters: SGD(parameters, lr=0.1, momentum=0.9, fused=True),
    ),
}
