"""The rows of the comparisons, and reading them with settings."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

from yfkernels.lab.recipes import RECIPES, read_recipe
from yfkernels.lab.registry import OPTIMIZERS

CLASSES = {
    **{row.name: row.optimizer for row in OPTIMIZERS},
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))


@pytest.mark.parametrize("name", RECIPES)
def test_a_row_builds_what_it_says(name: str) -> None:
    optimizer = read_recipe(name).build(model())
    assert type(optimizer) is CLASSES[name]
    for option, value in RECIPES[name].options.items():
        assert optimizer.param_groups[0][option] == value
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4


def test_lamb_decays_matrices_only() -> None:
    decays = {
        name: group["weight_decay"]
        for group in read_recipe("lamb:weight_decay=0.3").build(model()).param_groups
        for name in group["param_names"]
    }
    assert decays == {"0.weight": 0.3, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0}


@pytest.mark.parametrize(
    ("text", "decay"),
    [
        ("lamb", 0.01),
        ("lamb:preset=timm", 0.01),
        ("lamb:preset=v3", 0.0),
        ("lamb:preset=deepspeed", 0.0),
        ("lamb:preset=v3,weight_decay=0.2", 0.2),
    ],
)
def test_lamb_decays_as_its_preset_does(text: str, decay: float) -> None:
    built = read_recipe(text).build(model())
    of_names = {name: group for group in built.param_groups for name in group["param_names"]}
    assert of_names["0.weight"]["weight_decay"] == decay
    assert of_names["1.weight"]["weight_decay"] == 0.0


def test_what_was_given_is_told_from_what_the_row_holds() -> None:
    assert read_recipe("sgd").given == {}
    tuned = read_recipe("sgd:lr=0.2,nesterov=True").with_options(lr=3.0)
    assert tuned.given == {"lr": 0.2, "nesterov": True}
    assert tuned.options == {"lr": 3.0, "momentum": 0.9, "nesterov": True}


@pytest.mark.parametrize(
    ("text", "setting", "expected"),
    [
        ("sgd", "lr 0.1, momentum 0.9", {"lr": 0.1, "momentum": 0.9}),
        (" SGD : lr=1e-2", "lr 0.01, momentum 0.9", {"lr": 0.01, "momentum": 0.9}),
        ("sgd:nesterov=true", "lr 0.1, momentum 0.9, nesterov True", {"nesterov": True}),
        ("sgd:momentum=0,maximize=False", "lr 0.1, momentum 0, maximize False", {"momentum": 0}),
        ("adam:betas=(0.5, 0.9)", "lr 0.001, betas (0.5, 0.9)", {"betas": (0.5, 0.9)}),
        ("yellowfin", "defaults", {"lr": 1.0}),
        ("yellowfin:lr=0.5,clip=None", "lr 0.5, clip None", {"lr": 0.5}),
        ("lamb:lr=0.02,preset=timm", "lr 0.02, preset timm", {"lr": 0.02}),
    ],
)
def test_settings_are_read(text: str, setting: str, expected: dict[str, Any]) -> None:
    chosen = read_recipe(text)
    assert chosen.setting == setting
    group = chosen.build(model()).param_groups[0]
    assert {name: group[name] for name in expected} == expected
    assert all(type(group[name]) is type(value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("lion", "no optimizer 'lion'; choose from yellowfin, lamb, qhm, qhadam, "),
        ("", "no optimizer ''"),
        ("sgd:0.1", "cannot read '0.1'; write option=value,option=value"),
        ("sgd:lr=", "cannot read 'lr='"),
        ("sgd:lr=0.1)+f(", "cannot read 'lr=0.1)+f('"),
        ("sgd:lr=open('x')", "cannot read"),
        ("sgd:**{}", "cannot read '**{}'"),
        ("sgd:learning_rate=0.1", "SGD refuses 'learning_rate=0.1': "),
        ("sgd:lr=-1", "SGD refuses 'lr=-1': Invalid learning rate"),
        ("adamw:foreach=True", "AdamW refuses 'foreach=True': "),
        ("lamb:preset=times", "LAMB refuses 'preset=times': "),
        ("lamb:lr=-1.0", "LAMB refuses 'lr=-1.0': Invalid lr value"),
    ],
)
def test_what_cannot_be_built_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        read_recipe(text)


def test_other_options_leave_the_row_alone() -> None:
    before = dict(RECIPES["sgd"].options)
    assert RECIPES["sgd"].with_options(lr=3.0).options == {"lr": 3.0, "momentum": 0.9}
    assert RECIPES["sgd"].options == before
