"""Ways to set the learning rate in the course of a training: hypergradients and schedules."""

from __future__ import annotations

import math
from typing import Any, Protocol

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LRScheduler,
    StepLR,
)

from yfkernels import HD, MARTHE, RTHO
from yfkernels.lab.options import OptionError
from yfkernels.lab.tuning.options import check_ranges
from yfkernels.lab.tuning.steppers import Closure, Descending, Scheduled, Tuned

# method: the options that mean something to it
METHODS = {
    "hd": ("hyper_lr", "grad_clipping"),
    "rtho": ("hyper_lr", "alpha"),
    "marthe": ("hyper_lr", "alpha", "mu"),
    "staircase": ("grad_clipping",),
    "exponential": ("grad_clipping",),
    "cosine-restarts": ("grad_clipping",),
    "constant": ("grad_clipping",),
}
# Of `cosine-restarts`: three periods, each twice as long as the one before, as in Loshchilov and
# Hutter, "SGDR", arXiv 1608.03983, whose T_0 = 10 epochs and T_mult = 2 fill 70 epochs.
SEVENTHS = 7
GROWTH = 2
STAIR = 0.1  # factor of `staircase` after each third of the run
LAST = 0.01  # share of the first lr that `exponential` ends at


class Method(Protocol):
    """An optimizer together with what sets its learning rate."""

    def step(self, loss: Closure, validation: Closure | None = None) -> Tensor:
        """Trains on one minibatch and sets the learning rate of the next step.

        Args:
            loss: computes the minibatch's training loss and returns it; calls no backward().
            validation: the same of a validation minibatch; only MARTHE and RTHO call it.

        Returns:
            The training loss before the step, detached.
        """
        ...

    def diagnostics(self) -> dict[str, float]:
        """`lr`, with which the next step begins, `mu` and `hyper_lr`; NaN where it has none."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs, the optimizer's state included."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where another one of the same name stopped."""
        ...


def build_method(
    name: str,
    optimizer: Optimizer,
    *,
    total_steps: int,
    hyper_lr: float | None = None,
    alpha: float | None = None,
    mu: float | None = None,
    grad_clipping: float | None = None,
) -> Method:
    """The method of that name.

    Args:
        name: hd, rtho, marthe: hypergradients. staircase: a tenth after each third of the run.
            exponential: in every step by the same factor, down to 1 percent. cosine-restarts: down
            to 0 along a cosine, three times, in 1, 2 and 4 sevenths of the run. constant.
        optimizer: as `bases.build_base` makes it, with the first learning rate.
        total_steps: length of the run, at least 1.
        hyper_lr: step size of lr, in the additive form of the papers; None: the
            normalized form, or, with alpha, 1e-8 to begin with.
        alpha: step size of hyper_lr itself; None: it is fixed.
        mu: what a step of MARTHE keeps of its history, up to 1; below 0 or None: it adapts.
        grad_clipping: bound on the norm of the gradient, for `clip_grad_norm_`; None: no clip.

    Raises:
        OptionError: no such method, or an option means nothing to it or is out of its range.
        ValueError: HD with a hyper_lr of 0.
        TypeError: the optimizer's step has no closed form, which hypergradients need.
    """
    if name not in METHODS:
        raise OptionError("method", name, f"choose from {', '.join(METHODS)}")
    given = {"hyper_lr": hyper_lr, "alpha": alpha, "mu": mu, "grad_clipping": grad_clipping}
    for option, value in given.items():
        if value is not None and option not in METHODS[name]:
            raise OptionError(option, value, _why_not(option, name))
    check_ranges(given)
    if name == "rtho":
        return Tuned(RTHO(optimizer, hyper_lr=hyper_lr, alpha=alpha))
    if name == "marthe":
        kept = None if mu is None or mu < 0.0 else mu
        return Tuned(MARTHE(optimizer, mu=kept, hyper_lr=hyper_lr, alpha=alpha))
    if name == "hd":
        form = "normalized" if hyper_lr is None else "additive"
        return Descending(HD(optimizer, form=form, hyper_lr=hyper_lr), grad_clipping)
    return Scheduled(optimizer, grad_clipping, _schedule(name, optimizer, total_steps))


def _why_not(option: str, name: str) -> str:
    having = [method for method, options in METHODS.items() if option in options]
    reason = f"{name} has none"
    if option == "grad_clipping":
        reason = f"{name} differentiates the whole step, and a clip has no closed form"
    return f"{reason}; leave it out, or choose {' or '.join(having)}"


def _schedule(name: str, optimizer: Optimizer, total_steps: int) -> LRScheduler | None:
    """torch's own, to be advanced in every step."""
    if name == "staircase":
        return StepLR(optimizer, step_size=math.ceil(total_steps / 3), gamma=STAIR)
    if name == "exponential":
        return ExponentialLR(optimizer, gamma=LAST ** (1.0 / total_steps))
    if name == "cosine-restarts":
        first = math.ceil(total_steps / SEVENTHS)
        return CosineAnnealingWarmRestarts(optimizer, T_0=first, T_mult=GROWTH)
    return None
