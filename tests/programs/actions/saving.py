"""Ways to save an optimizer, to load it, to copy it."""

from __future__ import annotations

import copy
import io
import pickle
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from programs.gradients import give_gradients
from programs.registry import action, one_of
from programs.side import Side, clone
from torch import nn
from torch.distributed.checkpoint import state_dict as dcp
from torch.optim import Optimizer


@action(2.0, neutral=True)
def save(side: Side, rng: np.random.Generator) -> None:
    """To look at the state must change nothing."""
    side.optimizer.state_dict()


@action(2.0, neutral=True, loads=True)
def load_own(side: Side, rng: np.random.Generator) -> None:
    side.optimizer.load_state_dict(side.optimizer.state_dict())


@action(2.0, neutral=True, loads=True)
def load_twice(side: Side, rng: np.random.Generator) -> None:
    saved = copy.deepcopy(side.optimizer.state_dict())
    for _ in range(2):
        side.optimizer.load_state_dict(copy.deepcopy(saved))


@action(2.0, neutral=True, loads=True)
def load_elsewhere(side: Side, rng: np.random.Generator) -> None:
    """Into a fresh optimizer over the same parameters, from the same dict once or twice."""
    saved = copy.deepcopy(side.optimizer.state_dict())
    with torch.device("meta" if side.ours and one_of(rng, 2) else "cpu"):
        fresh = side.fresh()
    for _ in range(1 + one_of(rng, 2)):
        fresh.load_state_dict(saved if side.ours else copy.deepcopy(saved))
    side.optimizer = fresh


@action(2.0, neutral=True, loads=True)
def load_over_another_run(side: Side, rng: np.random.Generator) -> None:
    """Into an optimizer that has taken steps of its own, or one without effect to have state."""
    saved = copy.deepcopy(side.optimizer.state_dict())
    values = [clone(p.detach()) for p in side.params]
    grads = [p.grad for p in side.params]
    other, without_effect = side.fresh(), one_of(rng, 2)
    for p in side.params:
        p.grad = torch.zeros_like(p) if without_effect else torch.ones_like(p)
    if without_effect:  # as torch.distributed.checkpoint does
        for group in other.param_groups:
            group["lr"] = torch.tensor(0.0) if isinstance(group["lr"], torch.Tensor) else 0.0
    other.step()
    with torch.no_grad():
        for p, value, grad in zip(side.params, values, grads):
            p.copy_(value)
            p.grad = grad
    other.load_state_dict(saved)
    side.optimizer = other


@action()
def through_distributed_checkpoint(side: Side, rng: np.random.Generator) -> None:
    """torch.distributed.checkpoint's state dicts, flat or not, loaded once or twice."""
    give_gradients(side, rng, density=1.0)
    side.step()  # without a state it would make one
    grads = [p.grad for p in side.params]
    side.optimizer.zero_grad()  # it is an error not to
    if side.subject and side.fits and all(p.requires_grad for p in side.params):
        model = nn.ParameterList(side.params)
        options = dcp.StateDictOptions(flatten_optimizer_state_dict=bool(one_of(rng, 2)))
        saved = dcp.get_optimizer_state_dict(model, side.optimizer, options=options)
        values = [clone(p.detach()) for p in side.params]
        fresh = side.fresh()
        for _ in range(1 + one_of(rng, 2)):
            dcp.set_optimizer_state_dict(model, fresh, copy.deepcopy(saved), options=options)
        with torch.no_grad():
            for p, value in zip(side.params, values):
                p.copy_(value)  # from before the step by which it makes a state
        side.optimizer = fresh
    for p, grad in zip(side.params, grads):
        p.grad = grad


@action(2.0, neutral=True, loads=True)
def restart(side: Side, rng: np.random.Generator) -> None:
    """The next process: a file, new parameters, a new optimizer."""
    file = io.BytesIO()
    torch.save(side.optimizer.state_dict(), file)
    fresh = side.fresh(new_parameters=True)
    _take_gradients(side, fresh)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    side.optimizer = fresh


@action(2.0, neutral=True)
def pickle_all(side: Side, rng: np.random.Generator) -> None:
    _replace(side, pickle.loads(pickle.dumps(side.optimizer)))


@action(2.0, neutral=True)
def deepcopy_all(side: Side, rng: np.random.Generator) -> None:
    _replace(side, copy.deepcopy(side.optimizer))


@action(neutral=True)
def save_object(side: Side, rng: np.random.Generator) -> None:
    file = io.BytesIO()
    torch.save(side.optimizer, file)
    file.seek(0)
    _replace(side, torch.load(file, weights_only=False))


@action(neutral=True)
def copy_and_go_on(side: Side, rng: np.random.Generator) -> None:
    """The copy trains, the original stays as it is."""
    twin = copy.deepcopy(side.optimizer)
    for group in twin.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    twin.step()
    twin.state.clear()


@action(neutral=True, loads=True)
def load_plain_steps(side: Side, rng: np.random.Generator) -> None:
    """Step counts as old checkpoints have them: numbers."""
    saved = copy.deepcopy(side.optimizer.state_dict())
    kind = (int, float)[one_of(rng, 2)]
    for state in saved["state"].values():
        if isinstance(state, dict) and "step" in state:
            state["step"] = kind(state["step"])
    side.optimizer.load_state_dict(saved)


@action(neutral=True, loads=True)
def load_rearranged(side: Side, rng: np.random.Generator) -> None:
    """The same content with other numbers for the parameters, in other containers."""
    saved = copy.deepcopy(side.optimizer.state_dict())
    offset = 100
    state: OrderedDict[Any, Any] = OrderedDict()
    for key in reversed(list(saved["state"])):
        state[key + offset] = OrderedDict(reversed(list(saved["state"][key].items())))
    groups = [
        {**dict(reversed(list(g.items()))), "params": [i + offset for i in g["params"]]}
        for g in saved["param_groups"]
    ]
    side.optimizer.load_state_dict({"param_groups": groups, "state": state})


@action(neutral=True, loads=True)
def load_after_hooks(side: Side, rng: np.random.Generator) -> None:
    """Checkpointing libraries change the dict in hooks and change it back."""
    post = side.optimizer.register_state_dict_post_hook(
        lambda _, saved: {"wrapped": copy.deepcopy(saved)}
    )
    pre = side.optimizer.register_load_state_dict_pre_hook(lambda _, saved: saved["wrapped"])
    side.optimizer.load_state_dict(side.optimizer.state_dict())
    post.remove()
    pre.remove()


@action()
def keep_checkpoint(side: Side, rng: np.random.Generator) -> None:
    side.checkpoint = side.snapshot()


@action(2.0)
def return_to_checkpoint(side: Side, rng: np.random.Generator) -> None:
    """Back to an earlier step, as after a loss that diverged."""
    if side.checkpoint is None:
        return
    values, saved = side.checkpoint
    params = side.params
    sizes = [len(group["params"]) for group in side.optimizer.param_groups]
    if sizes != [len(group["params"]) for group in saved["param_groups"]]:
        return
    if any(p.shape != v.shape or p.dtype != v.dtype for p, v in zip(params, values)):
        return
    with torch.no_grad():
        for p, value in zip(params, values):
            p.copy_(value)
    side.optimizer.load_state_dict(saved if side.subject and side.ours else copy.deepcopy(saved))


def _replace(side: Side, optimizer: Any) -> None:
    """`optimizer` has parameters of its own; torch copies ones with holes without the holes."""
    _take_gradients(side, optimizer)
    side.optimizer = optimizer


def _take_gradients(side: Side, optimizer: Optimizer) -> None:
    new = [p for group in optimizer.param_groups for p in group["params"]]
    for p, q in zip(side.params, new):
        if p.stride() != q.stride():
            q.data = clone(p.detach())
        q.grad = p.grad
