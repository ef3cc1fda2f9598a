"""The registry: every optimizer of the package is in it, and a row says what is so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.kinds import KINDS, LEFT_OUT
from torch.optim import Optimizer

import yfkernels
from yfkernels.lab.recipes import RECIPES
from yfkernels.lab.registry import OPTIMIZERS, VARIANTS, Registration, Variant

each_variant = pytest.mark.parametrize(
    ("row", "variant"), VARIANTS, ids=[row.key_of(variant) for row, variant in VARIANTS]
)


def test_every_optimizer_has_a_row() -> None:
    public = {getattr(yfkernels, name) for name in yfkernels.__all__}
    classes = {one for one in public if isinstance(one, type) and issubclass(one, Optimizer)}
    assert {row.optimizer for row in OPTIMIZERS} == classes - {yfkernels.HD}  # which wraps one


def test_names_are_unique() -> None:
    assert len({row.name for row in OPTIMIZERS}) == len(OPTIMIZERS)
    named = [(row.key_of(variant), row.label_of(variant)) for row, variant in VARIANTS]
    for names in zip(*named):
        assert len(set(names)) == len(names)


def test_the_command_and_the_contract_tests_know_every_row() -> None:
    assert list(RECIPES)[: len(OPTIMIZERS)] == [row.name for row in OPTIMIZERS]
    assert len(KINDS) + len(LEFT_OUT) == len(VARIANTS)
    assert {kind.optimizer for kind in KINDS} == {row.optimizer for row in OPTIMIZERS}


@each_variant
def test_state_is_what_a_step_leaves(row: Registration, variant: Variant) -> None:
    optimizer: Any = row.optimizer
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    built = optimizer([p], **{**row.start, **variant.options})
    built.step()
    assert built.state[p].keys() == variant.state


@each_variant
def test_lr_is_a_multiplier_where_the_step_is_tuned(row: Registration, variant: Variant) -> None:
    built: Any = row.optimizer
    group = built([torch.nn.Parameter(torch.ones(3))], **variant.options).param_groups[0]
    assert ("tuned_lr" in group) == row.tunes_step
    assert not row.tunes_step or (group["lr"], row.batch_exponent) == (1.0, 0.0)
