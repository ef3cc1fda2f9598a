"""What else goes on in the process: memory, other optimizers, mistakes that are refused."""

from __future__ import annotations

import copy
import gc
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from programs.comparing import equal
from programs.gradients import give_gradients
from programs.registry import action, one_of
from programs.side import FIRST_STATES, Mismatch, Side, claim, same_bits
from support.cases import CANARY


@action(4.0, neutral=True)
def churn(side: Side, rng: np.random.Generator) -> None:
    """Memory of the sizes that the optimizer has freed becomes somebody else's."""
    if one_of(rng, 4) == 0:
        gc.collect()
    del side.canaries[: len(side.canaries) // 2]
    for p in side.params:
        for count in (p.numel(), 1):
            side.canaries += [torch.full((count,), CANARY) for _ in range(2)]
    side.canaries.append(torch.full((len(side.params), 12), CANARY, dtype=torch.float64))


@action()
def another_optimizer(side: Side, rng: np.random.Generator) -> None:
    """Takes steps over the same parameters in between."""
    give_gradients(side, rng, plain=True)
    with_gradient = [p for p in side.params if p.grad is not None]
    if with_gradient:
        torch.optim.SGD(with_gradient, lr=0.01).step()


@action(neutral=True)
def another_of_the_same_class(side: Side, rng: np.random.Generator) -> None:
    """Over other parameters: nothing is shared."""
    other = side.fresh(new_parameters=True)
    for group in other.param_groups:
        for p in group["params"]:
            p.grad = torch.full_like(p, 3.0)
    other.step()


def _sparse(side: Side) -> None:
    p = next((p for p in side.params if p.numel()), None)
    if p is None:
        raise LookupError("no element")
    p.grad = torch.zeros(p.shape).to_sparse()
    side.optimizer.step()


def _bad_lr(side: Side) -> None:
    for p in side.params:
        p.grad = torch.ones_like(p)
    side.optimizer.param_groups[-1]["lr"] = float("nan")
    side.optimizer.step()


def _failing_closure(side: Side) -> None:
    def closure() -> Any:
        raise ValueError("the model")

    side.optimizer.step(closure)


def _failing_hook(side: Side) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("the hook")

    handle = side.optimizer.register_step_pre_hook(fail)
    try:
        side.optimizer.step()
    finally:
        handle.remove()


def _same_parameter_again(side: Side) -> None:
    side.optimizer.add_param_group({"params": [side.params[0]]})


def _bad_group(side: Side) -> None:
    side.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "lr": -1.0})


def _other_groups(side: Side) -> None:
    saved = copy.deepcopy(side.optimizer.state_dict())
    saved["param_groups"].append(copy.deepcopy(saved["param_groups"][-1]))
    side.optimizer.load_state_dict(saved)


def _other_shapes(side: Side) -> None:
    saved = copy.deepcopy(side.optimizer.state_dict())
    for state in saved["state"].values():
        for name in FIRST_STATES:
            if name in state:
                state[name] = torch.zeros(7, 9, 2)
                side.optimizer.load_state_dict(saved)
                return
    raise LookupError("no state yet")


def _resized_with_its_state(side: Side) -> None:
    p = _with_state(side)
    kept = p.data
    try:
        p.data = torch.ones(11, 3, dtype=p.dtype)
        p.grad = torch.ones_like(p)
        side.optimizer.step()
    finally:
        p.data = kept


def _reshaped_with_its_state(side: Side) -> None:
    p = _with_state(side)
    kept = p.data
    try:
        p.data = p.detach().reshape(1, 1, -1)  # as many elements at the same place
        p.grad = torch.ones_like(p)
        side.optimizer.step()
    finally:
        p.data = kept


def _gradient_from_before_a_resize(side: Side) -> None:
    p = side.params[-1]
    group = next(
        g["params"] for g in side.optimizer.param_groups if any(p is q for q in g["params"])
    )
    if not any(side.begun(q) for q in side.tuned_with(group) if q is not p):
        raise LookupError("no other state: to delete this one would begin the statistics anew")
    kept, state = p.data, side.optimizer.state.pop(p, None)
    for q in side.params:
        q.grad = torch.ones_like(q)
    try:
        p.data = torch.ones(50, 7, dtype=p.dtype)
        side.optimizer.step()
    finally:
        p.data = kept
        side.optimizer.state.pop(p, None)
        if state is not None:
            side.optimizer.state[p] = state


def _with_state(side: Side) -> torch.nn.Parameter:
    for p in side.params:
        state = side.optimizer.state.get(p) or {}
        if any(name in state for name in FIRST_STATES):
            return p
    raise LookupError("no state yet")


MISTAKES: tuple[Callable[[Side], None], ...] = (
    *(_sparse, _bad_lr, _failing_closure, _failing_hook, _same_parameter_again, _bad_group),
    *(_other_groups, _other_shapes, _resized_with_its_state, _reshaped_with_its_state),
    _gradient_from_before_a_resize,
)


@action(3.0, neutral=True, ours=True)
def mistake(side: Side, rng: np.random.Generator) -> None:
    """Something that is refused, and leaves everything as it was."""
    make = MISTAKES[one_of(rng, len(MISTAKES))]
    if side.cleared:
        return  # any step, refused or not, begins the statistics anew
    values, saved = side.snapshot()
    grads = [p.grad for p in side.params]
    lr = side.optimizer.param_groups[-1]["lr"]
    try:
        make(side)
    except (RuntimeError, ValueError, LookupError, TypeError):
        pass
    else:
        raise Mismatch(f"{make.__name__} was not refused", "")
    finally:
        side.optimizer.param_groups[-1]["lr"] = lr
        for p, g in zip(side.params, grads):
            p.grad = g
    _forget_beginnings(side, saved)
    now = side.snapshot()
    kind = f"{make.__name__}, refused, has changed "
    for i, (before, after) in enumerate(zip(values, now[0])):
        claim(same_bits(before, after), f"{kind}a parameter", str(i))
    claim(_equal(saved, now[1]), f"{kind}the state", f"{saved}\n{now[1]}")


def _forget_beginnings(side: Side, saved: dict[str, Any]) -> None:
    """State that is as it begins may be there before the step is refused: it counts as absent."""
    for i, p in enumerate(side.params):
        state = side.optimizer.state.get(p) or {}
        for name in state.keys() - saved["state"].get(i, {}).keys():
            begins = torch.zeros(())
            if name in ("master", "param_avg"):
                begins = torch.view_as_real(p.detach()) if p.is_complex() else p.detach()
            assert bool((state[name] == begins).all()), f"{name} has begun"
            del state[name]
        if not state and i not in saved["state"]:
            side.optimizer.state.pop(p, None)
    for group, before in zip(side.optimizer.param_groups, saved["param_groups"]):
        for name in group.keys() - before.keys():
            del group[name]


def _equal(a: Any, b: Any) -> bool:
    """Through dicts and lists, to the bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[name], b[name]) for name in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return equal(a, b)


@action(neutral=True, ours=True)
def lazy_parameter(side: Side, rng: np.random.Generator) -> None:
    """A parameter whose memory holds its conjugate or its negative moves, or is refused."""
    z = torch.tensor([1.0 + 2.0j, 3.0 - 1.0j])
    p = torch.nn.Parameter((z.conj(), z.conj().imag, torch._neg_view(z))[one_of(rng, 3)])
    p.grad = torch.ones_like(p)
    before, plain = p.detach().clone(), torch.nn.Parameter(p.detach().clone().resolve_conj())
    plain.grad = torch.ones_like(plain)
    try:
        side.build([{"params": [p]}]).step()
    except (RuntimeError, ValueError, TypeError):
        claim(torch.equal(p, before), "refused, a lazy parameter has moved")
        return
    side.build([{"params": [plain]}]).step()
    claim(torch.allclose(p, plain), "a lazy parameter moves otherwise", f"{p}, {plain}")


@action(0.3, neutral=True, ours=True)
def twice_in_a_group(side: Side, rng: np.random.Generator) -> None:
    """torch warns, as long as it does not refuse; two updates at a time must not be."""
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            side.build([{"params": [p, p]}]).step()
    except (RuntimeError, ValueError):
        claim(bool((p == 1.0).all()), "listed twice, a parameter has moved")
    else:
        raise Mismatch("a parameter listed twice was not refused", "")
