"""What the tests of the optimizers share."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from support.cases import Site
from support.kinds import KINDS, Kind
from support.training import Build, Model

# Each optimizer with its defaults, and YellowFin with each other update that the robust mode has.
ROBUST_UPDATES = {"preconditioner", "momentum_dtype"}
ORDINARY = [k for k in KINDS if k.name == k.optimizer.__name__ or ROBUST_UPDATES & set(k.options)]


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest, site: Site) -> Kind:
    """Every optimizer, and the forms of YellowFin that keep other state or run other passes."""
    found: Kind = request.param
    return found


@pytest.fixture(params=ORDINARY, ids=str)
def build(request: pytest.FixtureRequest, site: Site) -> Build:
    """The optimizer's constructor with the backend filled in."""
    return partial(request.param.build, backend=site.backend)


@pytest.fixture
def model(rng: np.random.Generator, site: Site) -> Model:
    torch.manual_seed(int(rng.integers(2**31)))
    return Model().to(site.device)


@pytest.fixture
def quick(site: Site) -> Site:
    """All but Triton's slow interpreter, for what the host does alone."""
    if site.interpreted:
        pytest.skip("of the host alone: too slow with Triton's interpreter")
    return site
