"""Our BatchNorm has torch's values, gradients and statistics, and the second derivative of both."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from yfkernels.curvature.layers import ShortSecondDerivatives

SHAPES = [(6, 3), (4, 3, 5), (2, 3, 4, 5), (2, 3, 2, 3, 2)]


def normalized(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    with ShortSecondDerivatives():
        return F.batch_norm(x, None, None, weight, bias, training=True)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_derivatives(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight, bias = torch.randn(2, 3, dtype=torch.float64)
    weight[0] = 0.0  # must not be divided by
    weight.requires_grad_()
    bias.requires_grad_()
    assert torch.autograd.gradcheck(normalized, (x, weight, bias))
    assert torch.autograd.gradgradcheck(normalized, (x, weight, bias))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_same_as_torch(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 5, 6).to(memory_format=layout).requires_grad_()
    layers = [torch.nn.BatchNorm2d(3) for _ in range(2)]
    outputs = layers[0](x)
    with ShortSecondDerivatives():
        ours = layers[1](x)
    assert "_Forward" in type(ours.grad_fn).__name__
    assert torch.equal(ours, outputs)
    for name, buffer in layers[0].named_buffers():
        assert torch.equal(buffer, layers[1].get_buffer(name))
    seed = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad(outputs, [x, *layers[0].parameters()], seed),
        torch.autograd.grad(ours, [x, *layers[1].parameters()], seed),
    ):
        assert torch.equal(a, b)


def test_what_is_left_to_torch() -> None:
    x = torch.randn(4, 3)
    with ShortSecondDerivatives():
        assert torch.nn.BatchNorm1d(3, affine=False)(x).shape == x.shape
        assert torch.nn.BatchNorm1d(3).eval()(x).shape == x.shape
        assert torch.nn.BatchNorm1d(3)(x.bfloat16()).dtype == torch.bfloat16
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            torch.nn.BatchNorm1d(3)(x[:1])
