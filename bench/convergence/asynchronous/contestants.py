"""Who trains with stale gradients: ours with nothing set, others on a grid of learning rates."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.optim import SGD, AdamW, Optimizer

from yfkernels import ClosedLoop, YellowFin
from yfkernels.asynchronous import CosineGate, DelayAdaptive, StalenessRule

OPEN = ClosedLoop(gain=0.0, compensate=False)  # reads the momentum, and leaves it
PAPERS = ClosedLoop(every=1, compensate=False)
PUBLISHED = partial(YellowFin, robust=False)


@dataclass(frozen=True)
class Contestant:
    """An optimizer on the server.

    Attributes:
        label: for people.
        build: makes it, from parameters and a learning rate if it has a grid.
        lrs: the grid; empty for what is not tuned.
        rule: weighs its gradients by their staleness.
    """

    label: str
    build: Callable[..., Optimizer]
    lrs: tuple[float, ...] = ()
    rule: Callable[[], StalenessRule] | None = None

    def optimizer(self, params: Iterable[Any], lr: float) -> Optimizer:
        """The optimizer of one training."""
        return self.build(params, lr=lr) if self.lrs else self.build(params)


HALF_DECADES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0)
_ADAM, _SGD = HALF_DECADES[:7], HALF_DECADES[2:]
_adamw = partial(AdamW, fused=True)
_heavy = partial(SGD, momentum=0.9)

CONTESTANTS = {
    "yellowfin": Contestant("YellowFin, closed loop", partial(YellowFin, closed_loop=True)),
    "yellowfin-half": Contestant(
        "YellowFin, closed loop, lr=0.5", partial(YellowFin, lr=0.5, closed_loop=True)
    ),
    "yellowfin-paper": Contestant(
        "YellowFin, the paper's loop", partial(YellowFin, closed_loop=PAPERS)
    ),
    "yellowfin-open": Contestant("YellowFin, open loop", partial(YellowFin, closed_loop=OPEN)),
    "published": Contestant("as published, closed loop", partial(PUBLISHED, closed_loop=True)),
    "published-limited": Contestant(
        "as published, closed loop, limit_lr",
        partial(PUBLISHED, closed_loop=ClosedLoop(limit_lr=True)),
    ),
    "published-paper": Contestant(
        "as published, the paper's loop", partial(PUBLISHED, closed_loop=PAPERS)
    ),
    "published-open": Contestant("as published, open loop", partial(PUBLISHED, closed_loop=OPEN)),
    "adamw": Contestant("AdamW, tuned", _adamw, _ADAM),
    "adamw-delay": Contestant("AdamW, lr / (tau + 1), tuned", _adamw, _ADAM, DelayAdaptive),
    "adamw-gate": Contestant("AdamW, cosine gate, tuned", _adamw, _ADAM, CosineGate),
    "momentum": Contestant("SGD, momentum 0.9, tuned", _heavy, _SGD),
    "sgd": Contestant("SGD, tuned", SGD, _SGD),
}
