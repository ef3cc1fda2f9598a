"""The steps of differences are short enough for truncation and long enough for rounding.

Each loss has only one of the two errors, and it is known in closed form: a step ten times as long
breaks the bound on truncation, a step a tenth as long the bound on rounding.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from yfkernels.curvature import gradient_and_product

# eps = share u^power (1 + ‖w‖) / ‖z‖; see yfkernels/curvature/difference.py for the sources.
SHARE = {"central": 0.1, "forward": 0.3}
POWER = {"central": 1 / 3, "forward": 1 / 2}

methods = pytest.mark.parametrize("method", ["central", "forward"])
dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "float"])


def length(method: str, dtype: torch.dtype, norm: float) -> float:
    """Of a step, eps ‖z‖, at parameters of that norm."""
    return float(SHARE[method] * torch.finfo(dtype).eps ** POWER[method] * (1.0 + norm))


@methods
@dtypes
@pytest.mark.parametrize("norm", [0.0, 8.0])
@pytest.mark.parametrize("size", [0.01, 100.0])
def test_truncation(method: str, dtype: torch.dtype, norm: float, size: float) -> None:
    """Of the gradient d + d³ / h², or d + d² / h, with d = w - norm: 1 if the step is h.

    The gradient is 0 at w, so that no difference cancels and rounding does not count.
    """
    w = torch.tensor([norm], dtype=dtype, requires_grad=True)
    z = torch.tensor([size], dtype=dtype)
    h = length(method, dtype, norm)

    def loss() -> Tensor:
        d = w - norm
        beyond = d**4 / (4 * h**2) if method == "central" else d**3 / (3 * h)
        return (d**2 / 2 + beyond).sum()

    (product,) = gradient_and_product(loss, [w], [z], method=method).products
    assert product is not None
    error = abs(float(product / size) - 1.0)
    assert 0.5 < error < 2.0, f"{error:.2g} in place of 1"


@methods
@dtypes
def test_rounding(method: str, dtype: torch.dtype) -> None:
    """Of the gradient 1 + w: it is a multiple of u above 1, and of u / 2 below."""
    count = 4096
    w = torch.zeros(count, dtype=dtype, requires_grad=True)
    z = torch.randn(count, generator=torch.Generator().manual_seed(0)).to(dtype)

    def loss() -> Tensor:
        return (w + w**2 / 2).sum()

    (product,) = gradient_and_product(loss, [w], [z], method=method).products
    assert product is not None
    error = float((product - z).double().square().mean().sqrt())
    # Rounding to multiples of u has a mean square error of u² / 12. A central difference has an end
    # on either side of 1; a forward one has a single end, half the time above it.
    u = torch.finfo(dtype).eps
    ends = {"central": (1.0 + 0.25) / 12, "forward": (1.0 + 0.25) / 2 / 12}[method] ** 0.5 * u
    eps = length(method, dtype, 0.0) / float(z.norm())
    wanted = ends / (2 * eps if method == "central" else eps)
    assert 0.7 * wanted < error < 1.4 * wanted, f"{error / wanted:.2g} times what is due"
