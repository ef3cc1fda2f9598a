"""Which tests stay in one process where pytest-xdist shares them out."""

from __future__ import annotations

# What all tests of such a folder need is compiled, or started, once.
FOLDERS = ("tests/cuda", "tests/cuda_on_cpu", "tests/distributed")
# Each of these takes tens of gigabytes: one after the other they fit, at once they do not.
LARGE = (
    "tests/gpu/test_large_tensor.py::test_large_tensor",
    "tests/optim/test_large_rule_tensor.py::test_lamb_past_two_billion_elements",
)


def scope_of(nodeid: str) -> str:
    """Tests of one scope run one after the other; most have a scope of their own."""
    if nodeid.partition("[")[0] in LARGE:
        return "tens of gigabytes"
    folder = nodeid.partition("::")[0].rpartition("/")[0]
    return folder if folder in FOLDERS else nodeid
