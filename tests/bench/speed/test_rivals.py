"""The rivals of other packages do the work they are counted and compared for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.speed.contestant import Build, RaceContestant
from bench.speed.contestants import CONTESTANTS

COUNTED = (
    "timm-adamw",
    "timm-sgdw",
    "prodigy",
    "timm-lamb",
    "pytorch-optimizer-lamb",
    "pytorch-optimizer-lamb-loop",
    "torch-optimizer-lamb",
    "qhoptim-qhm",
    "qhoptim-qhadam",
)


def installed(name: str) -> RaceContestant:
    contestant = CONTESTANTS[name]
    if contestant.why_absent is not None:
        pytest.skip(contestant.why_absent)
    return contestant


class Traffic(TorchDispatchMode):
    """Counts the bytes that operators read and write of tensors of one size.

    A tensor that an operator is given twice is read once; views cost nothing.
    """

    def __init__(self, numel: int) -> None:
        super().__init__()
        self.numel = numel
        self.bytes = 0

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = operator(*args, **kwargs)
        given = dict(zip((argument.name for argument in operator._schema.arguments), args))
        read, written = set[int](), set[int]()
        for argument in operator._schema.arguments:
            tensors = self._addresses({**given, **kwargs}.get(argument.name))
            if argument.alias_info is not None and argument.alias_info.is_write:
                written |= tensors
            if argument.name != "out":
                read |= tensors
        if all(value.alias_info is None for value in operator._schema.returns):
            written |= self._addresses(result)  # a new tensor
        if written or not self._addresses(result):  # else a view
            self.bytes += 4 * (len(read) + len(written))
        return result

    def _addresses(self, value: object) -> set[int]:
        leaves = (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))
        return {leaf.data_ptr() for leaf in leaves if leaf.numel() == self.numel}


@pytest.mark.parametrize("name", COUNTED)
def test_bytes_are_those_of_the_operators(name: str) -> None:
    contestant = installed(name)
    params = [torch.randn(1000, requires_grad=True)]
    params[0].grad = torch.randn(1000)
    optimizer = contestant.make(params, Build())
    for _ in range(3):
        optimizer.step()
    with Traffic(1000) as traffic:
        optimizer.step()
    assert traffic.bytes == contestant.bytes_fp32


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("lamb", "timm-lamb"), ("qhm", "qhoptim-qhm"), ("qhadam", "qhoptim-qhadam")],
)
def test_ours_and_theirs_take_the_same_steps(ours: str, theirs: str) -> None:
    """Else the comparison would not be about the same work."""
    torch.manual_seed(0)
    shapes = ((7, 5), (11,), (3, 2, 2))
    params = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    copies = [param.detach().clone().requires_grad_() for param in params]
    mine = CONTESTANTS[ours].make(params, Build())
    other = installed(theirs).make(copies, Build())
    for iteration in range(20):
        for param, copy in zip(params, copies, strict=True):
            param.grad = 10.0 ** (iteration % 3 - 2) * torch.randn_like(param)  # clipped or not
            copy.grad = param.grad.clone()
        mine.step()
        other.step()
        for param, copy in zip(params, copies, strict=True):
            torch.testing.assert_close(param, copy, rtol=1e-9, atol=1e-12)
