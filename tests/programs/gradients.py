"""Gradients of one step: the same numbers for every side, in whatever form programs leave them."""

from __future__ import annotations

import numpy as np
import torch
from programs.notation import numbers
from programs.side import Side
from support.cases import lay_out
from torch import Tensor
from torch.nn import Parameter

FORMS = (
    *("fresh", "fresh", "in place", "in place", "row major", "in a buffer", "strided"),
    *("negated", "conjugated", "with a graph"),
)


def in_form(g: Tensor, form: str, p: Parameter, *, ours: bool) -> Tensor:
    """A gradient of the values of `g`, which lies as `p` does; torch's Adam refuses some."""
    if form == "in place" and p.grad is not None and p.grad.dtype == g.dtype:
        old = p.grad
        writable = not old.is_conj() and not old.is_neg() and 0 not in old.stride()
        if old.shape == g.shape and writable:
            with torch.no_grad():
                return old.copy_(g)
    if form == "row major":
        return g.clone(memory_format=torch.contiguous_format)
    if form == "in a buffer":
        return lay_out(g, "offset")[0]
    if form == "strided":
        return lay_out(g, "strided")[0]
    if form == "negated":
        return torch._neg_view(-g)
    if form == "conjugated" and g.is_complex() and ours:
        return g.conj().resolve_conj().conj()
    if form == "with a graph":
        return g.clone().requires_grad_()
    return g


def draw_gradients(side: Side, rng: np.random.Generator, density: float) -> list[Tensor | None]:
    """A gradient for each parameter, as it lies, or None; a frozen parameter has none."""
    drawn: list[Tensor | None] = []
    for p in side.params:
        present, constant = rng.random() < density, rng.random() < 0.15
        values = numbers(rng, p) + 0.3
        if constant and values.numel():
            values = values.reshape(-1)[0].expand(values.shape)
        g = torch.empty_like(p.detach()).copy_(values)
        drawn.append(g if present and p.requires_grad else None)
    return drawn


def give_gradients(
    side: Side, rng: np.random.Generator, density: float = 0.85, *, plain: bool = False
) -> None:
    """New gradients; the subject's in any form, everyone else's as autograd makes them."""
    forms = np.random.default_rng(rng.integers(2**32))
    for p, g in zip(side.params, draw_gradients(side, rng, density)):
        if g is None:
            p.grad = None
        elif side.subject and not plain:
            p.grad = in_form(g, FORMS[forms.integers(len(FORMS))], p, ours=side.ours)
            if p.numel() and bool((g == g.reshape(-1)[0]).all()) and forms.random() < 0.5:
                p.grad = g.reshape(-1)[0].expand(g.shape)
        else:
            p.grad = g
