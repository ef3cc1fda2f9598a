"""The sketch is an estimate: how good it has to be, whatever the shapes of the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import yfkernels


@pytest.mark.parametrize(
    ("count", "numel"), [(1, 200_000), (400, 64), (300, 1000), (40, 5000), (7, 1)]
)
def test_norm_of_the_average_gradient(count: int, numel: int, rng: np.random.Generator) -> None:
    """Unbiased, with a relative standard deviation of sqrt(2 / 4096) = 2.2% if elements are spread
    evenly over the buckets; seven elements have no collision and are exact.

    The sum over 4096 buckets and eight draws is one of squares of normal numbers, and less likely
    than 2 exp(-x) to be off by more than 2 d sqrt(x) + 2 d² x, where d² is the reciprocal of their
    number (Laurent and Massart 2000, lemma 1). With x = 23 that is one false alarm in 5e9 draws;
    a tenth more is for the squares it is divided by. Three deviations in the mean square of eight
    are seldomer still.
    """
    errors = []
    for _ in range(8):
        grads = [torch.from_numpy(rng.standard_normal(numel)) for _ in range(count)]
        params = [torch.nn.Parameter(torch.zeros_like(grad)) for grad in grads]
        opt = yfkernels.YellowFin(params, variance="sketch", robust=False, backend="torch")
        for param, grad in zip(params, grads):
            param.grad = grad
        opt.step()
        sketch = opt.state_dict()["param_groups"][0]["tuner"][-4096:]
        average = torch.cat(grads) * (1 - 0.999)
        errors.append(float(sketch.square().sum() / average.square().sum()) - 1)
    filled = min(1.0, count * numel / 4096)
    deviation = np.sqrt(2 / 4096) * filled
    d = filled / np.sqrt(8 * 4096)
    assert abs(np.mean(errors)) <= 1.1 * (2 * d * np.sqrt(23) + 2 * d * d * 23) + 1e-12
    assert np.sqrt(np.mean(np.square(errors))) <= 3 * deviation + 1e-12
