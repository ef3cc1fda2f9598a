"""What the tests of the optimizers share."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from cases import Target
from kinds import KINDS, Kind
from training import Build, Model

# Where LAMB stands for the rules of the other optimizers on a backend other than native. What else
# differs from backend to backend is their kernels, and those are followed in test_rule_traces.py.
MIXTURES = ("test_dtypes_mixed", "test_all_sizes_at_once", "test_found_inf_skips_finite_gradients")


def choose(kind: Kind, target: Target, request: pytest.FixtureRequest) -> Kind:
    mixture = kind.name == "LAMB" and request.node.originalname in MIXTURES
    if target.backend != "native" and not (kind.core or mixture):
        pytest.skip("YellowFin stands for the others on this backend")
    return kind


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest, target: Target) -> Kind:
    """Every optimizer, and the forms of YellowFin that keep other state or run other passes."""
    return choose(request.param, target, request)


@pytest.fixture(params=[kind for kind in KINDS if kind.name == kind.optimizer.__name__], ids=str)
def build(request: pytest.FixtureRequest, target: Target) -> Build:
    """The optimizer's constructor with the backend filled in."""
    return partial(choose(request.param, target, request).build, backend=target.backend)


@pytest.fixture
def model(rng: np.random.Generator, target: Target) -> Model:
    torch.manual_seed(int(rng.integers(2**31)))
    return Model().to(target.device)
