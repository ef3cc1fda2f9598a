"""Our convolutions have torch's values and gradients, and the second derivative of both."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yfkernels.curvature.layers import ShortSecondDerivatives

SETTINGS: dict[str, tuple[Any, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "1d": (F.conv1d, (2, 2, 7), (4, 2, 3), {"stride": 2, "padding": 1}),
    "2d": (F.conv2d, (2, 2, 5, 4), (2, 2, 3, 2), {"padding": (1, 0)}),
    "strided, dilated": (F.conv2d, (1, 2, 7, 6), (2, 2, 2, 2), {"stride": 2, "dilation": (2, 1)}),
    "groups": (F.conv2d, (1, 4, 3, 3), (2, 2, 2, 2), {"groups": 2, "padding": [1]}),
    "3d": (F.conv3d, (1, 2, 3, 3, 3), (2, 2, 2, 2, 2), {}),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("biased", [True, False])
def test_derivatives(setting: str, biased: bool) -> None:
    torch.manual_seed(0)
    function, *shapes, given = SETTINGS[setting]
    inputs = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    inputs += [torch.randn(len(inputs[1]), dtype=torch.float64)] if biased else []
    for t in inputs:
        t.requires_grad_()

    def ours(*arguments: Tensor) -> Any:
        with ShortSecondDerivatives():
            return function(*arguments, **given)

    assert torch.equal(ours(*inputs), function(*inputs, **given))
    assert torch.autograd.gradcheck(ours, inputs)
    assert torch.autograd.gradgradcheck(ours, inputs)
    for left_out in range(len(inputs)):  # no gradient to the data, and to a frozen weight or bias
        some = [t.detach() if i == left_out else t for i, t in enumerate(inputs)]
        assert torch.autograd.gradgradcheck(ours, some)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_same_as_torch(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 5, 6).to(memory_format=layout).requires_grad_()
    layer = nn.Conv2d(3, 4, 3, padding=1)
    wanted = layer(x)
    with ShortSecondDerivatives():
        found = layer(x)
    assert "_Forward" in type(found.grad_fn).__name__
    assert torch.equal(found, wanted)
    seed = torch.randn_like(found)
    inputs = [x, *layer.parameters()]
    for a, b in zip(*(torch.autograd.grad(y, inputs, seed) for y in (found, wanted))):
        assert torch.equal(a, b)


def test_what_is_left_to_torch() -> None:
    x = torch.randn(2, 3, 5, 5)
    layer = nn.Conv2d(3, 4, 3)
    with ShortSecondDerivatives():
        assert nn.Conv2d(3, 4, 3, padding="same")(x).shape == (2, 4, 5, 5)
        assert layer(x[0]).shape == (4, 3, 3)
        assert nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular")(x).shape == (2, 4, 5, 5)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
