"""Which GPUs the compiled module has code for: machine code within a major version, PTX beyond."""

from __future__ import annotations

import pytest

from yfkernels.ops.native.cuda import runs_on


@pytest.mark.parametrize(
    ("archs", "capability", "runs"),
    [
        ("sm_80", (8, 0), True),
        ("sm_80", (8, 6), True),
        ("sm_86", (8, 0), False),
        ("sm_80", (9, 0), False),
        ("sm_80 compute_80", (9, 0), True),
        ("sm_80 sm_90 compute_90", (12, 0), True),
        ("sm_120 compute_120", (9, 0), False),
        ("sm_90a", (9, 0), True),
        ("", (9, 0), False),
    ],
)
def test_runs_on(archs: str, capability: tuple[int, int], runs: bool) -> None:
    assert runs_on(archs, capability) == runs
