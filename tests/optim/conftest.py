"""The optimizers of the package: a new one is a row in OPTIMIZERS."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import Target
from training import Build, Model

from yfkernels import YellowFin

OPTIMIZERS = [pytest.param(YellowFin, id="YellowFin")]


@pytest.fixture(params=OPTIMIZERS)
def build(request: pytest.FixtureRequest, target: Target) -> Build:
    """The optimizer's constructor with the backend filled in."""
    return lambda params, **options: request.param(params, backend=target.backend, **options)


@pytest.fixture
def model(rng: np.random.Generator, target: Target) -> Model:
    torch.manual_seed(int(rng.integers(2**31)))
    return Model().to(target.device)
