"""What the tests here share: the device, and the backends whose kernels run on it."""

from __future__ import annotations

import pytest
from support.cases import Site, why_unusable


@pytest.fixture
def device() -> str:
    return "cuda"


@pytest.fixture(params=["native", "triton"])
def backend(request: pytest.FixtureRequest, device: str) -> str:
    """The fused backends; one that is not usable skips with its reason."""
    reason = why_unusable(Site(request.param, device))
    if reason:
        pytest.skip(reason)
    return request.param
