"""Which parameters go without weight decay, and that any optimizer takes the groups."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest
import torch
from torch import nn

from yfkernels import YellowFin
from yfkernels.optim.param_groups import param_groups


class Block(nn.Module):
    """Something of everything: embedding tied to the head, norms of two shapes, 2-d bias."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.norm = nn.LayerNorm((3, 4))
        self.conv = nn.Conv1d(3, 3, 1)
        self.batch_norm = nn.BatchNorm1d(3)
        self.bias = nn.Parameter(torch.zeros(3, 4))
        self.scale = nn.Parameter(torch.ones(()))
        self.head = nn.Linear(4, 7)
        self.head.weight = self.embed.weight
        self.register_buffer("mean", torch.zeros(3, 4))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.norm(self.embed(tokens) - self.mean) + self.bias
        return self.head(self.scale * self.batch_norm(self.conv(hidden)))


WITHOUT = {
    "bias",
    "scale",
    "norm.weight",
    "norm.bias",
    "conv.bias",
    "batch_norm.weight",
    "batch_norm.bias",
    "head.bias",
}


def split(model: nn.Module, *args: Any) -> tuple[set[str], set[str]]:
    """Names with decay and names without."""
    sides: dict[bool, set[str]] = {True: set(), False: set()}
    for group in param_groups(model, 0.1, *args):
        sides[group["weight_decay"] > 0] |= set(group["param_names"])
    return sides[True], sides[False]


def test_biases_norms_and_vectors_go_without() -> None:
    assert split(Block()) == ({"embed.weight", "conv.weight"}, WITHOUT)


def test_every_parameter_is_in_one_group_under_its_own_name() -> None:
    model = Block()
    groups = param_groups(model, 0.1)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    named = dict(model.named_parameters())
    members = [
        (name, p) for g in groups for name, p in zip(g["param_names"], g["params"], strict=True)
    ]
    assert len(members) == len(named)
    assert all(named[name] is parameter for name, parameter in members)


def test_groups_keep_the_order_of_the_model() -> None:
    order = [name for name, _ in Block().named_parameters()]
    for group in param_groups(Block(), 0.1):
        assert group["param_names"] == sorted(group["param_names"], key=order.index)


@pytest.mark.parametrize(
    "no_decay", ["conv.weight", "conv.*", ["*nv.weight", "norm.*"], {"conv.weight"}]
)
def test_patterns_add_to_the_rule(no_decay: Any) -> None:
    assert split(Block(), no_decay) == ({"embed.weight"}, WITHOUT | {"conv.weight"})


def test_a_pattern_may_use_any_name_of_a_tied_parameter() -> None:
    assert split(Block(), "head.weight") == ({"conv.weight"}, WITHOUT | {"embed.weight"})


def test_a_parameter_shared_with_a_norm_layer_goes_without() -> None:
    model = nn.ModuleDict({"linear": nn.Linear(3, 4), "norm": nn.LayerNorm((4, 3))})
    model["linear"].weight = model["norm"].weight
    assert split(model) == (set(), {"linear.weight", "linear.bias", "norm.bias"})


def test_a_predicate_decides_alone() -> None:
    decayed, without = split(Block(), lambda name, parameter: parameter.shape == (3,))
    assert without == {"conv.bias", "batch_norm.weight", "batch_norm.bias"}
    assert decayed == {name for name, _ in Block().named_parameters()} - without


def test_frozen_parameters_are_left_out() -> None:
    model = Block()
    model.embed.weight.requires_grad_(False)
    model.conv.bias.requires_grad_(False)
    assert split(model) == ({"conv.weight"}, WITHOUT - {"conv.bias"})
    assert split(model, "embed.*") == ({"conv.weight"}, WITHOUT - {"conv.bias"})


def test_an_empty_group_is_left_out() -> None:
    (group,) = param_groups(nn.Linear(3, 3, bias=False), 0.1)
    assert (group["param_names"], group["weight_decay"]) == (["weight"], 0.1)
    (group,) = param_groups(nn.LayerNorm(3), 0.1)
    assert (group["param_names"], group["weight_decay"]) == (["weight", "bias"], 0.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda groups: torch.optim.SGD(groups, lr=0.1),
        lambda groups: torch.optim.AdamW(groups, lr=0.1, weight_decay=0.5, fused=True),
        lambda groups: YellowFin(groups, weight_decay=0.5),
    ],
    ids=["SGD", "AdamW", "YellowFin"],
)
def test_optimizers_decay_only_the_first_group(make: Any) -> None:
    """Names travel with the groups, through a state_dict as well."""
    model = Block()
    optimizer = make(param_groups(model, 0.1))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    model(torch.zeros(2, 3, dtype=torch.long)).sum().backward()
    optimizer.step()
    saved = optimizer.state_dict()
    again = make(param_groups(copy.deepcopy(model), 0.1))
    again.load_state_dict(saved)
    for old, new in zip(optimizer.param_groups, again.param_groups, strict=True):
        assert new["param_names"] == old["param_names"]
        assert new["weight_decay"] == old["weight_decay"]


def test_a_schedule_drives_both_groups() -> None:
    optimizer = torch.optim.SGD(param_groups(Block(), 0.1), lr=0.4)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.2]


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_bad_weight_decay(value: float) -> None:
    with pytest.raises(ValueError, match=r"weight_decay value: .*; it must be finite and >= 0"):
        param_groups(Block(), value)


@pytest.mark.parametrize(
    ("model", "weight_decay", "no_decay", "complaint"),
    [
        (list(Block().parameters()), 0.1, (), "model type: list; give a torch.nn.Module"),
        (Block(), "0.1", (), "weight_decay type: str ('0.1')"),
        (Block(), 0.1, 3, "no_decay type: int (3); give name patterns or a function"),
        (Block(), 0.1, ["conv.*", None], "no_decay type: list (['conv.*', None])"),
        (Block(), 0.1, None, "no_decay type: NoneType"),
    ],
)
def test_bad_types(model: Any, weight_decay: Any, no_decay: Any, complaint: str) -> None:
    with pytest.raises(TypeError, match=re.escape(complaint)):
        param_groups(model, weight_decay, no_decay)


@pytest.mark.parametrize("pattern", ["conv", "LayerNorm.weight", "Conv.*", ""])
def test_a_pattern_that_matches_nothing_is_named(pattern: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"Invalid no_decay value: {pattern!r}")):
        param_groups(Block(), 0.1, ["norm.*", pattern])


def test_nothing_to_train() -> None:
    with pytest.raises(ValueError, match="no trainable parameter"):
        param_groups(Block().requires_grad_(False), 0.1)


def test_a_parameter_without_a_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"'0\.weight' has no shape yet; run the model"):
        param_groups(nn.Sequential(nn.LazyLinear(3)), 0.1)
