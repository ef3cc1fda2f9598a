"""What the tests of the optimizers share."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from cases import Target
from kinds import KINDS, Kind
from training import Build, Model


def choose(kind: Kind, target: Target) -> Kind:
    """All on the native backend, a few on the others: what differs there is tested by traces."""
    if not kind.core and target.backend != "native":
        pytest.skip("YellowFin and LAMB stand for the others on this backend")
    return kind


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest, target: Target) -> Kind:
    """Every optimizer, and the forms of YellowFin that keep other state or run other passes."""
    return choose(request.param, target)


@pytest.fixture(params=[kind for kind in KINDS if kind.name != "YellowFin-sketch"], ids=str)
def build(request: pytest.FixtureRequest, target: Target) -> Build:
    """The optimizer's constructor with the backend filled in."""
    return partial(choose(request.param, target).build, backend=target.backend)


@pytest.fixture
def model(rng: np.random.Generator, target: Target) -> Model:
    torch.manual_seed(int(rng.integers(2**31)))
    return Model().to(target.device)
