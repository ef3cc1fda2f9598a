"""What programs do to parameter groups."""

from __future__ import annotations

import numpy as np
import torch
from programs.notation import numbers
from programs.registry import action, one_of
from programs.side import Side
from torch import Tensor
from torch.nn import Parameter


@action(3.0)
def change_lr(side: Side, rng: np.random.Generator) -> None:
    """As a scheduler does: a number, or a tensor that is written to."""
    groups = side.optimizer.param_groups
    group = groups[one_of(rng, len(groups))]
    factor, way = (0.5, 2.0, 1.0)[one_of(rng, 3)], one_of(rng, 3)
    lr = group["lr"]
    if way == 0 and isinstance(lr, Tensor):
        lr.mul_(factor)
    elif way == 1:
        group["lr"] = torch.tensor(float(lr) * factor)
    else:
        group["lr"] = float(lr) * factor


@action()
def schedule(side: Side, rng: np.random.Generator) -> None:
    """A scheduler of torch's, which wraps the optimizer's step and writes to its groups."""
    scheduler = torch.optim.lr_scheduler.ExponentialLR(side.optimizer, gamma=0.75)
    side.optimizer.zero_grad()
    side.optimizer.step()
    scheduler.step()


@action()
def change_weight_decay(side: Side, rng: np.random.Generator) -> None:
    groups = side.optimizer.param_groups
    group = groups[one_of(rng, len(groups))]
    group["weight_decay"] = (0.0, 0.1)[one_of(rng, 2)]


@action()
def change_sign(side: Side, rng: np.random.Generator) -> None:
    groups = side.optimizer.param_groups
    group = groups[one_of(rng, len(groups))]
    group["maximize"] = not group["maximize"]


@action(2.0)
def add_group(side: Side, rng: np.random.Generator) -> None:
    shapes = ((), (5,), (17,), (3, 5))
    params = [
        Parameter(numbers(rng, torch.empty(shapes[one_of(rng, len(shapes))])).float())
        for _ in range(1 + one_of(rng, 2))
    ]
    side.optimizer.add_param_group({"params": params})


@action()
def drop_group(side: Side, rng: np.random.Generator) -> None:
    """The last one and its state; nobody else's is touched."""
    groups = side.optimizer.param_groups
    if len(groups) > 1:
        for p in groups.pop()["params"]:
            side.optimizer.state.pop(p, None)


@action()
def drop_parameter(side: Side, rng: np.random.Generator) -> None:
    """It goes with its state, and its memory is soon somebody else's."""
    groups = side.optimizer.param_groups
    group = groups[one_of(rng, len(groups))]
    if len(group["params"]) > 1:
        p = group["params"].pop(one_of(rng, len(group["params"])))
        side.optimizer.state.pop(p, None)


@action(2.0)
def move_to_another_group(side: Side, rng: np.random.Generator) -> None:
    groups = side.optimizer.param_groups
    source = groups[one_of(rng, len(groups))]["params"]
    target = groups[one_of(rng, len(groups))]["params"]
    if len(source) > 1:
        p = source.pop(one_of(rng, len(source)))
        target.insert(one_of(rng, len(target) + 1), p)


@action()
def reverse_a_group(side: Side, rng: np.random.Generator) -> None:
    groups = side.optimizer.param_groups
    groups[one_of(rng, len(groups))]["params"].reverse()


@action(neutral=True)
def copy_groups(side: Side, rng: np.random.Generator) -> None:
    """Wrappers put other dicts and lists in the place of the optimizer's."""
    side.optimizer.param_groups = [
        {**group, "params": list(group["params"])} for group in side.optimizer.param_groups
    ]


@action(neutral=True)
def other_groups_for_a_while(side: Side, rng: np.random.Generator) -> None:
    """Some groups less, a strange one, and the old ones again."""
    groups = side.optimizer.param_groups
    before = list(groups)
    del groups[1 + one_of(rng, len(groups)) :]
    side.optimizer.add_param_group({"params": [Parameter(torch.ones(5))]})
    groups[:] = before


@action(neutral=True)
def note_in_groups(side: Side, rng: np.random.Generator) -> None:
    """A program's own entries, as schedulers and loggers make them."""
    for i, group in enumerate(side.optimizer.param_groups):
        group["user_name"] = f"group {i}"
        group["initial_lr"] = float(group["lr"])
        group["foreach"] = None
