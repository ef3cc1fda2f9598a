"""Subclasses of an optimizer: tuned where the step is the parent's, else refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from yfkernels import HD, MARTHE, QHM, RTHO, QHAdam

SGD, Adam, AdamW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
PARENTS: list[Any] = [SGD, Adam, AdamW, QHM, QHAdam]


def subclass(parent: Any, **attributes: Any) -> Any:
    return type(f"My{parent.__name__}", (parent,), attributes)


def lr_after(base: torch.optim.Optimizer, w: nn.Parameter) -> float:
    optimizer = HD(base)
    for _ in range(4):
        w.grad = 2.0 * w.detach()
        optimizer.step()
    rate: float = optimizer.diagnostics()["lr"][0]
    return rate


@pytest.mark.parametrize("parent_first", [True, False], ids=["parent first", "child first"])
@pytest.mark.parametrize("parent", PARENTS)
def test_a_subclass_that_does_not_step_itself(
    parent: Any, parent_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch wraps step() of a class when the first one of it is made: the order is the user's."""
    for each in parent.__mro__:
        if getattr(vars(each).get("step"), "hooked", False):
            monkeypatch.setattr(each, "step", vars(each)["step"].__wrapped__)

    def init(self: Any, params: Any, **options: Any) -> None:
        parent.__init__(self, params, lr=0.01, **options)
        self.param_groups[0]["note"] = "mine"

    renamed = subclass(parent, __init__=init, add_param_group=parent.add_param_group)
    grandchild = subclass(renamed)
    found = []
    for kind in (parent, grandchild) if parent_first else (grandchild, parent):
        w = nn.Parameter(torch.tensor([1.0, -2.0]))
        found.append(lr_after(kind([w], **({"lr": 0.01} if kind is parent else {})), w))
    assert found[0] == found[1] > 0.01


def refused(kind: Any, tuner: Callable[..., Any], part: str) -> None:
    name = rf"{kind.__qualname__}; {tuner.__name__} wraps .* torch\.optim\.SGD, .*QHAdam"
    reason = rf"but not those of a subclass with a {part} of its own, which may step otherwise"
    with pytest.raises(TypeError, match=rf"{name} depend .*{reason}: give it one of them, such as"):
        tuner(kind([nn.Parameter(torch.ones(1))], lr=0.1))


@pytest.mark.parametrize("tuner", [HD, MARTHE, RTHO])
@pytest.mark.parametrize("parent", PARENTS)
def test_a_subclass_with_a_step_of_its_own(parent: Any, tuner: Callable[..., Any]) -> None:
    def step(self: Any, closure: Any = None) -> Any:
        return parent.step(self, closure)

    refused(subclass(parent, step=step), tuner, "step")
    refused(subclass(subclass(parent, step=step)), tuner, "step")


def test_a_subclass_with_a_part_of_the_step_of_its_own() -> None:
    def gather(self: Any, *arguments: Any) -> Any:
        return SGD._init_group(self, *arguments)

    refused(subclass(SGD, _init_group=gather), HD, "_init_group")


def test_a_step_that_is_mixed_in() -> None:
    class Logged:
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)  # type: ignore[misc]

    refused(type("Mixed", (Logged, AdamW), {}), MARTHE, "step")
