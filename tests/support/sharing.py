"""In which order tests run on a device, and which stay in one process under pytest-xdist."""

from __future__ import annotations

# What all tests of such a folder need is compiled, or started, once.
FOLDERS = ("tests/cuda", "tests/cuda_on_cpu", "tests/sharding")
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


def urgency(nodeid: str) -> int:
    """Where time is short on a device, tests of the lower numbers run first.

    What only a device can show; our kernels in the optimizers, native before Triton; and last plain
    torch, which has no kernels of ours.
    """
    file, _, test = nodeid.partition("::")
    if file.startswith("tests/gpu/") or file.endswith("_cuda.py"):
        return 0
    if "torch-cuda" in test:
        return 4
    if "triton-cuda" in test:
        return 3
    return 2 if file.startswith("tests/ops/test_triton_") else 1
