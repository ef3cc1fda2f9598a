"""Models on the line through two others."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from yfkernels.analysis import interpolated


def conv_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.Flatten())


@pytest.mark.parametrize("share", [-1.0, 0.0, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_weights_are_on_the_line(share: float, dtype: torch.dtype) -> None:
    one, two = conv_net().to(dtype), conv_net().to(dtype)
    before = [p.detach().clone() for p in (*one.parameters(), *two.parameters())]
    result = interpolated(one, two, share)
    for p, x, y in zip(result.parameters(), one.parameters(), two.parameters()):
        exact = (1.0 - share) * x.detach().double() + share * y.detach().double()
        assert p.dtype == dtype
        assert p.requires_grad
        torch.testing.assert_close(p.detach(), exact.to(dtype), rtol=1e-6, atol=1e-7)
    assert all(p.equal(b) for p, b in zip((*one.parameters(), *two.parameters()), before))
    assert result.get_buffer("1.running_var") is not one.get_buffer("1.running_var")


def test_tied_weights_stay_tied() -> None:
    def tied() -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    one, two = tied(), tied()
    result = interpolated(one, two, 0.25)
    assert result.get_parameter("0.weight") is result[1].weight
    expected = one[0].weight + 0.25 * (two[0].weight - one[0].weight)
    torch.testing.assert_close(result[0].weight, expected)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Invalid other value: .*\(4, 2\).*\(3, 2\)"):
        interpolated(nn.Linear(2, 3), nn.Linear(2, 4), 0.5)


@pytest.mark.parametrize("share", [math.nan, math.inf])
def test_share_must_be_finite(share: float) -> None:
    with pytest.raises(ValueError, match=r"Invalid share value: (nan|inf); it must be finite"):
        interpolated(nn.Linear(2, 3), nn.Linear(2, 3), share)
