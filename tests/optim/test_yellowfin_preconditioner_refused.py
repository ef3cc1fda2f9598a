"""Options and saved states that do not go with a preconditioner are refused."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from support.cases import Gradients, Site, assert_same_bits, normal
from torch import Tensor, nn

from yfkernels import YellowFin

pytestmark = pytest.mark.kernel_free
MODES: dict[str, dict[str, Any]] = {
    "diagonal": {"preconditioner": "diagonal"},
    "compact": {"preconditioner": "compact"},
    "robust": {"preconditioner": None},
    "published": {"robust": False},
}
SQUARES = {"diagonal": "exp_avg_sq", "compact": "exp_avg_sq_codes"}  # what they are kept as
each_one = pytest.mark.parametrize("chosen", ["diagonal", "compact"])


@pytest.mark.parametrize("value", ["factored", "x", "", "Diagonal", True, 1, ["compact"]])
def test_unknown_preconditioner(value: Any) -> None:
    with pytest.raises(ValueError, match="preconditioner") as error:
        YellowFin([nn.Parameter(torch.ones(3))], preconditioner=value)
    message = str(error.value)
    assert repr(value) in message
    for choice in ("'auto'", "'compact'", "'diagonal'", "None"):
        assert choice in message.replace(repr(value), "", 1)


@each_one
@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ({"sparsity_debias": True}, "False"),
        ({"trust_ratio": True}, "False"),
        ({"variance": "exact"}, "None"),
        ({"variance": "sketch"}, "None"),
        ({"momentum_form": "buffer"}, "'polyak'"),
    ],
    ids=str,
)
def test_options_at_odds_with_the_preconditioner(
    options: dict[str, Any], fix: str, chosen: str
) -> None:
    [(name, value)] = options.items()
    with pytest.raises(ValueError, match=f"Invalid {name} value: {value!r}; it must be {fix}"):
        YellowFin([nn.Parameter(torch.ones(3))], preconditioner=chosen, **options)


@each_one
def test_needs_the_robust_mode(chosen: str) -> None:
    with pytest.raises(ValueError, match=rf"preconditioner.*'{chosen}'.*robust=False"):
        YellowFin([nn.Parameter(torch.ones(3))], preconditioner=chosen, robust=False)


def test_preconditioner_in_a_group() -> None:
    """There is one metric: to take such an override and ignore it would be a silent lie."""
    with pytest.raises(ValueError, match=r"preconditioner.*constructor"):
        YellowFin([{"params": [nn.Parameter(torch.ones(3))], "preconditioner": "diagonal"}])


# In three of them the windows fill the same room.
@pytest.mark.parametrize(
    ("saved", "loading", "window"),
    [
        ("diagonal", "robust", 20),
        ("robust", "diagonal", 20),
        ("diagonal", "robust", 40),
        ("robust", "diagonal", 10),
        ("published", "diagonal", 10),
        ("compact", "robust", 20),
        ("diagonal", "compact", 20),
        ("compact", "diagonal", 20),
    ],
)
@pytest.mark.parametrize("taken", [1, 4])
def test_state_of_another_mode(
    saved: str, loading: str, window: int, taken: int, site: Site, rng: np.random.Generator
) -> None:
    values = normal(rng, torch.empty(30)).float().to(site.device)
    params = [nn.Parameter(values.clone()) for _ in range(2)]
    one = YellowFin(params[:1], backend=site.backend, **MODES[saved])
    other = YellowFin(params[1:], backend=site.backend, window=window, **MODES[loading])

    def everything() -> Any:
        return copy.deepcopy(([p.detach() for p in params], other.state_dict()))

    def step(g: Tensor | None) -> None:
        for p in params:
            p.grad = torch.empty_like(p).copy_(g)
        one.step()
        other.step()

    for [g] in Gradients(taken).draw(rng, params[:1]):
        step(g)
    before = everything()
    named = "robust|preconditioner" if saved == "published" else "preconditioner"
    if saved in SQUARES and loading in SQUARES:
        named = f"no '{SQUARES[loading]}' for parameter 0.*same preconditioner, momentum_dtype"
    with pytest.raises(RuntimeError, match=named):
        other.load_state_dict(one.state_dict())
    assert_same_bits(before, everything(), "unchanged")
    step(g)


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ({}, "compact"),
        ({"preconditioner": "auto"}, "compact"),
        ({"preconditioner": "diagonal"}, "diagonal"),
        ({"preconditioner": None}, None),
        ({"robust": False}, None),
        ({"preconditioner": "auto", "robust": False}, None),
    ],
    ids=str,
)
def test_what_is_chosen(options: dict[str, Any], chosen: str | None) -> None:
    """And weight decay is decoupled with a preconditioner alone, unless a group asks."""
    p, q = (nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = YellowFin([p], **options)
    assert f"preconditioner: {chosen}\n" in repr(optimizer)
    assert optimizer.param_groups[0]["decoupled_weight_decay"] is (chosen is not None)
    optimizer.add_param_group({"params": [q], "decoupled_weight_decay": chosen is None})
    assert optimizer.param_groups[1]["decoupled_weight_decay"] is (chosen is None)
