"""The optimizers whose learning rate can be tuned, with the settings of the lab's recipes."""

from __future__ import annotations

from torch import nn
from torch.optim import Optimizer

from yfkernels.lab.options import OptionError
from yfkernels.lab.recipes import RECIPES
from yfkernels.lab.tuning.options import check_ranges

BASES = ("sgd", "adam", "adamw", "qhm", "qhadam")
MOMENTUM = {"sgd": "momentum", "qhm": "beta"}  # what the optimizer calls it


def build_base(
    name: str,
    model: nn.Module,
    *,
    lr: float | None = None,
    momentum: float | None = None,
    wd: float | None = None,
) -> Optimizer:
    """An optimizer for all parameters of a model.

    Args:
        name: of `BASES`.
        model: what it trains.
        lr: the first learning rate; None: 0.1 for sgd, 1 for qhm, 0.001 for the others.
        momentum: of sgd (None: 0.9), or beta of qhm (None: 0.999).
        wd: weight decay; None: the optimizer's default, 0.01 for adamw, 0 for the others.

    Raises:
        OptionError: no such optimizer, it has no momentum to set, or a number is out of its range.
    """
    if name not in BASES:
        raise OptionError("optimizer", name, f"choose from {', '.join(BASES)}")
    if momentum is not None and name not in MOMENTUM:
        having = " or ".join(MOMENTUM)
        raise OptionError(
            "momentum", momentum, f"{name} has betas instead; leave it out, or choose {having}"
        )
    check_ranges({"lr": lr, "momentum": momentum, "wd": wd})
    given = {"lr": lr, MOMENTUM.get(name, "momentum"): momentum, "weight_decay": wd}
    chosen = {option: value for option, value in given.items() if value is not None}
    return RECIPES[name].with_options(**chosen).build(model)
