"""Ways to take a step."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from programs.gradients import draw_gradients, give_gradients
from programs.registry import action, one_of
from programs.side import Side
from torch import Tensor
from torch.nn import Parameter


@action(16.0)
def step(side: Side, rng: np.random.Generator) -> None:
    give_gradients(side, rng)
    side.step()


@action(4.0)
def step_of_all(side: Side, rng: np.random.Generator) -> None:
    give_gradients(side, rng, density=1.0)
    side.step()


@action()
def step_of_few(side: Side, rng: np.random.Generator) -> None:
    give_gradients(side, rng, density=0.3)
    side.step()


@action(2.0)
def step_again(side: Side, rng: np.random.Generator) -> None:
    """With the gradients as the last action left them."""
    side.step()


@action()
def step_of_nothing(side: Side, rng: np.random.Generator) -> None:
    side.optimizer.zero_grad(set_to_none=True)
    side.step()


@action()
def step_of_zeros(side: Side, rng: np.random.Generator) -> None:
    _writable(side)
    side.optimizer.zero_grad(set_to_none=False)
    side.step()


@action()
def accumulate(side: Side, rng: np.random.Generator) -> None:
    """Adds to the gradients, as a second backward() does."""
    _writable(side)
    old = [p.grad for p in side.params]
    new = draw_gradients(side, rng, 0.85)
    for p, before, g in zip(side.params, old, new):
        if before is None or before.shape != p.shape or before.dtype != p.dtype:
            p.grad = g
        elif g is not None:
            before.add_(g)
    side.step()


@action(neutral=True)
def forget_gradients_twice(side: Side, rng: np.random.Generator) -> None:
    """What zero_grad() frees is filled by others before the old gradients come back."""
    grads = [None if p.grad is None else p.grad.detach().clone() for p in side.params]
    side.optimizer.zero_grad()
    fillers = [torch.full_like(g, 7.0) for g in grads if g is not None]
    for p, g in zip(side.params, grads):
        p.grad = g
    del fillers


@action(2.0)
def step_with_closure(side: Side, rng: np.random.Generator) -> None:
    grads = draw_gradients(side, rng, 0.85)
    side.optimizer.zero_grad()
    if not side.subject:
        _put(side, grads)
        side.step()
        return

    def closure() -> Tensor:
        side.optimizer.zero_grad()
        return _backward(side.params, grads)

    loss = side.step(closure)
    assert loss is not None


@action(2.0)
def step_in_hooks(side: Side, rng: np.random.Generator) -> None:
    """A step as soon as a parameter has its gradient, as programs do that save memory."""
    grads = draw_gradients(side, rng, 0.85)
    side.optimizer.zero_grad()
    for p, g in zip(side.params, grads):
        if g is None:
            continue
        if not side.subject:
            p.grad = g
            side.step()
        else:

            def update(_: Tensor) -> None:
                side.step()

            handle = p.register_post_accumulate_grad_hook(update)
            _backward([p], [g])
            handle.remove()
            p._post_accumulate_grad_hooks = None  # torch forgets new ones after swap_tensors()
        side.optimizer.zero_grad()


@action()
def step_with_step_hooks(side: Side, rng: np.random.Generator) -> None:
    """Gradients are halved by a hook, as clipping does, and a second hook reads the state."""
    give_gradients(side, rng)
    _writable(side)

    def halve(*_: Any) -> None:
        for p in side.params:
            if p.grad is not None:
                p.grad = p.grad.detach() * 0.5

    def read(optimizer: Any, *_: Any) -> None:
        optimizer.state_dict()

    if not side.subject:
        halve()
        side.step()
        return
    hooks = [
        side.optimizer.register_step_pre_hook(halve),
        side.optimizer.register_step_post_hook(read),
    ]
    side.optimizer.step()  # the hook replaces gradients
    for hook in hooks:
        hook.remove()


@action()
def step_with_a_scaler(side: Side, rng: np.random.Generator) -> None:
    """GradScaler with a scale that is a power of two, which takes nothing from the gradients."""
    give_gradients(side, rng, plain=True)
    given = [p.grad for p in side.params if p.grad is not None]
    if side.subject and given and all(g.dtype == torch.float32 for g in given):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**5)
        scaler.scale(torch.zeros(()))
        for g in given:
            g.mul_(2.0**5)
        if one_of(rng, 2):
            scaler.unscale_(side.optimizer)
        scaler.step(side.optimizer)
        scaler.update()
    else:
        side.step()
    side.optimizer.zero_grad()


@action(2.0)
def step_elsewhere(side: Side, rng: np.random.Generator) -> None:
    """In a thread, or under a setting that a program may have made for other reasons."""
    give_gradients(side, rng)
    settings: list[Callable[[], AbstractContextManager[Any]]] = [
        lambda: torch.autocast("cpu", torch.bfloat16),
        torch.enable_grad,
        torch.no_grad,
        lambda: _default_dtype(torch.float64),
        lambda: torch.random.fork_rng(devices=[]),
        lambda: torch.device("meta"),
    ]
    which = one_of(rng, len(settings) + 1)

    def under_a_setting() -> None:
        with settings[which]():
            side.optimizer.step()

    def in_a_thread() -> None:
        failures: list[BaseException] = []

        def work() -> None:
            try:
                side.optimizer.step()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]

    if not side.subject or (which == len(settings) - 1 and not side.ours):
        side.step()
    else:
        side.step(run=in_a_thread if which == len(settings) else under_a_setting)


@action(needs="skip")
def step_of_no_number(side: Side, rng: np.random.Generator) -> None:
    """A gradient that is not finite: the step is skipped."""
    give_gradients(side, rng, density=1.0, plain=True)
    where = [p.grad for p in side.params if p.grad is not None and p.grad.numel()]
    if where:
        bad = where[one_of(rng, len(where))]
        bad[tuple(0 for _ in bad.shape)] = (float("nan"), float("inf"))[one_of(rng, 2)]
        side.step()
    side.optimizer.zero_grad()


@action(needs="convert")
def step_of_half_gradients(side: Side, rng: np.random.Generator) -> None:
    """Gradients of another dtype than the parameters'."""
    drawn = draw_gradients(side, rng, 0.85)
    if not all(hasattr(p, "grad_dtype") and p.dtype == torch.float32 for p in side.params):
        return  # needs torch 2.9
    for p, g in zip(side.params, drawn):
        p.grad = None
        p.grad_dtype = None  # any
        p.grad = None if g is None else g.bfloat16()
    side.step()
    side.optimizer.zero_grad()


@action(neutral=True, ours=True)
def scaled_in_place(side: Side, rng: np.random.Generator) -> None:
    """GradScaler's attributes in any shape that its relatives give them; nothing is to unscale."""
    shape = ((), (1,))[one_of(rng, 2)]
    side.optimizer.grad_scale = torch.full(shape, 4.0)
    side.optimizer.found_inf = torch.zeros(shape)
    grads = [p.grad for p in side.params]
    side.optimizer.zero_grad()
    side.optimizer.step()
    _put(side, grads)
    del side.optimizer.grad_scale, side.optimizer.found_inf


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _put(side: Side, grads: list[Tensor | None]) -> None:
    for p, g in zip(side.params, grads):
        p.grad = g


def _backward(params: list[Parameter], grads: list[Tensor | None]) -> Tensor:
    """A loss that is linear in the parameters, so that `grads` are its gradients to the bit."""
    total = torch.zeros(())
    with torch.enable_grad():
        for p, g in zip(params, grads):
            if g is not None:
                product = p * (g.conj() if g.is_complex() else g)
                total = total + (product.real if g.is_complex() else product).sum().float()
        if total.requires_grad:
            total.backward()
    return total.detach()


def _writable(side: Side) -> None:
    """Gradients that may be written in place: none that stand for many elements at once."""
    for p in side.params:
        if p.grad is not None:
            p.grad = torch.empty_like(p.detach(), dtype=p.grad.dtype).copy_(p.grad.detach())
