"""Differences of gradients stay on the pieces of the first evaluation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from losses import same
from torch import Tensor, nn

from yfkernels.curvature import gradient_and_product

Function = Callable[[Tensor], Tensor]


def pooled(pool: Function, *sides: int) -> Function:
    return lambda x: pool(x.reshape(2, 4, *sides))


FUNCTIONS: dict[str, Function] = {
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU in place": nn.ReLU(inplace=True),
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "Tensor.relu": Tensor.relu,
    "Tensor.relu_": Tensor.relu_,
    "nn.LeakyReLU": nn.LeakyReLU(0.2, inplace=True),
    "F.leaky_relu": lambda x: F.leaky_relu(x, negative_slope=0.3),
    "nn.ReLU6": nn.ReLU6(inplace=True),
    "F.relu6": F.relu6,
    "nn.Hardtanh": nn.Hardtanh(-0.5, 0.7),
    "F.hardtanh": lambda x: F.hardtanh(x, max_val=0.5, inplace=True),
    "nn.MaxPool1d": pooled(nn.MaxPool1d(3, stride=2, padding=1), 4096),
    "nn.MaxPool2d": pooled(nn.MaxPool2d(3, stride=2, ceil_mode=True), 64, 64),
    "F.max_pool2d": pooled(lambda x: F.max_pool2d(x, 2, dilation=2), 64, 64),
    "nn.MaxPool3d": pooled(nn.MaxPool3d(2), 16, 16, 16),
    "nn.AdaptiveMaxPool2d": pooled(nn.AdaptiveMaxPool2d(3), 64, 64),
}


class Units:
    """Many units whose inputs move with few parameters, so that some cross a kink at any move."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.x, self.target = torch.randn(2, 32768)
        self.features = torch.randn(32768, 8)
        self.w, self.z = (0.1 * torch.randn(8)).requires_grad_(), torch.randn(8)

    def product(self, function: Function, method: str) -> tuple[Tensor, Tensor]:
        """The gradient and the product."""

        def closure() -> Tensor:
            y = function(self.x + (2.0 * (self.features @ self.w)).sin()).flatten()
            return (y * self.target[: len(y)]).sum()

        _, grads, products = gradient_and_product(closure, [self.w], [self.z], method=method)
        assert grads[0] is not None
        assert products[0] is not None
        return grads[0], products[0]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("method", ["central", "forward"])
def test_functions_with_kinks(name: str, method: str) -> None:
    units = Units()
    exact = units.product(FUNCTIONS[name], "reverse")
    found = units.product(FUNCTIONS[name], method)
    same([found[0]], [exact[0]], 1e-5)
    # Thousands of terms cancel here, so that rounding counts; without holding it is 10 and more.
    same([found[1]], [exact[1]], {"central": 3e-2, "forward": 0.15}[method])


@pytest.mark.parametrize("method", ["central", "forward"])
def test_what_holding_is_for(method: str) -> None:
    """The same function, written in a way that is not known, gives something else altogether."""
    units = Units()

    def unknown(x: Tensor) -> Tensor:
        return torch.maximum(x, torch.zeros(()))

    found, exact = units.product(unknown, method)[1], units.product(unknown, "reverse")[1]
    assert float((found - exact).norm() / exact.norm()) > 1.0
