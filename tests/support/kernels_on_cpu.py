"""A pytest plugin: the native backend of CPU tensors runs the CUDA kernels, compiled as C++.

    YFK_KERNELS_ON_CPU=module.so pytest -p support.kernels_on_cpu -k native tests/optim

So all Python and C++ between an optimizer and its CUDA kernels is run without a GPU: what is left
for a device is the order in which memory is seen, warps in step, and speed. The module is that of
cuda_on_cpu/check_program.py, whose headers say what streams and devices are here.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any

import torch


def load(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("yfkernels._C", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sys.modules["yfkernels._C"] = load(os.environ["YFK_KERNELS_ON_CPU"])

from yfkernels.ops import backends, table  # noqa: E402  with that module in it
from yfkernels.ops.backend import Backend  # noqa: E402
from yfkernels.ops.native.cuda import NativeCuda  # noqa: E402
from yfkernels.optim import _planner  # noqa: E402


class KernelsOnCpu(NativeCuda):
    """The CUDA backend with tensors of the host."""

    def unusable(self, device_type: str) -> str | None:
        return None if device_type == "cpu" else super().unusable(device_type)

    def _queue(self, device: torch.device) -> tuple[int, int]:
        return 1, 1  # a stream of a device that is not the current one (cuda_runtime.h)


KERNELS = KernelsOnCpu()
_backend_of = backends.backend_of


def backend_of(name: str, device_type: str) -> Backend:
    return KERNELS if (name, device_type) == ("native", "cpu") else _backend_of(name, device_type)


for user in (backends, _planner):
    user.backend_of = backend_of  # type: ignore[attr-defined]
# the work over a table is cut as on a device, but for tensors of a test's size
table.GRANULARITY["cpu"] = table.Granularity(chunk=4096, slots=16, slot_numel=1)
