"""Tests that would prove once more what others have proved: they are not run at all."""

from __future__ import annotations

import pytest

from support.cases import Site
from support.kinds import Kind

# Where others stand beside YellowFin on a backend other than native: LAMB for the rules, on all of
# them, and the sketch under Triton's slow interpreter. What else differs from backend to backend is
# their kernels, and those are followed in test_rule_traces.py and test_yellowfin_traces.py.
MIXTURES = ("test_dtypes_mixed", "test_all_sizes_at_once", "test_found_inf_skips_finite_gradients")


def leave_out_repeats(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects them, so that no reason is printed for each."""
    found = {item for item in items if isinstance(item, pytest.Function) and repeats_others(item)}
    if found:
        config.hook.pytest_deselected(items=list(found))
        items[:] = [item for item in items if item not in found]


def repeats_others(test: pytest.Function) -> bool:
    """Whether this backend's kernels have to show here what they did elsewhere, or nothing."""
    parameters = test.callspec.params if hasattr(test, "callspec") else {}
    site, kind = parameters.get("site"), parameters.get("kind", parameters.get("build"))
    if not isinstance(site, Site) or site.backend == "native":
        return False
    if site.interpreted and test.get_closest_marker("kernel_free"):
        return True
    if not isinstance(kind, Kind):
        return False
    if test.originalname in MIXTURES:
        return not (kind.core or kind.name == "LAMB")
    return not kind.core or (site.interpreted and kind.name != "YellowFin")
