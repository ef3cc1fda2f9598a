"""Kernels and copies of one step on a CUDA device, from the profiler, or word that it lost some."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

# The first records of a session may be dropped: their times lie before what the profiler takes for
# its beginning, the more so the longer the process has lived (pytorch#192021). A first session may
# have none at all (sglang#22589). So kernels that can be told from all others go before the step,
# and a few after it. If those before it were all dropped, the next attempt lets them take longer.
SENTINEL = "spin_kernel"  # torch.cuda._sleep
BEFORE, AFTER = 64, 4
_CYCLES = (1, 100_000, 2_000_000)  # of each before the step, by attempt; in all some 0.1, 4, 80 ms


@dataclass(frozen=True)
class DeviceWork:
    """A kernel, copy or fill on the device: its name and its seconds."""

    name: str
    seconds: float

    @property
    def is_kernel(self) -> bool:
        """Whether it is no copy or fill."""
        return not self.name.startswith(("Memcpy", "Memset"))


class RecordsLostError(RuntimeError):
    """The profiler did not see the whole step, so that nothing can be counted."""


def work_of(step: Callable[[], object]) -> list[DeviceWork]:
    """Everything that a step has the device do, in order.

    Args:
        step: is taken until the profiler has lost nothing of it, three times at most; has been
            taken before, so that nothing is built or compiled.

    Raises:
        RecordsLostError: none of the three was whole.
    """
    *tries, last = _CYCLES
    for cycles in tries:
        with suppress(RecordsLostError):
            return between_sentinels(_session(step, cycles))
    return between_sentinels(_session(step, last))


def between_sentinels(records: Sequence[DeviceWork]) -> list[DeviceWork]:
    """What ran between the sentinels.

    Records are lost from the front: one sentinel before the step says that none of its own is.

    Raises:
        RecordsLostError: no sentinel before the step was seen, or not all of those after it.
    """
    is_sentinel = [SENTINEL in record.name for record in records]
    if not any(is_sentinel):
        raise RecordsLostError(
            f"the profiler saw {len(records)} kernels and copies, and none of those that were put "
            "around the step: it may be used by another tool, or not be allowed here"
        )
    if not is_sentinel[0] or sum(is_sentinel) <= AFTER:
        raise RecordsLostError("the profiler lost the beginning of the step")
    if len(records) < AFTER or not all(is_sentinel[-AFTER:]):
        raise RecordsLostError("the profiler lost the end of the step")
    return [record for record in records if SENTINEL not in record.name]


def _session(step: Callable[[], object], cycles: int) -> list[DeviceWork]:
    """What the profiler has of a step and the sentinels around it, by the time it began."""
    _spin(1)  # loads that kernel
    # the other activity, ProfilerActivity.CPU, would have every operator of torch recorded
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        _spin(BEFORE, cycles)
        step()
        torch.cuda.synchronize()
        _spin(AFTER)
    events = [
        event
        for event in profiler.events()
        if event.device_type.name == "CUDA"
        and not getattr(event, "is_user_annotation", False)  # which older torch does not tell
        and not event.name.startswith("Optimizer.step#")
    ]
    events.sort(key=lambda event: event.time_range.start)
    return [DeviceWork(event.name, event.time_range.elapsed_us() * 1e-6) for event in events]


def _spin(count: int, cycles: int = 1) -> None:
    for _ in range(count):
        torch.cuda._sleep(cycles)
    torch.cuda.synchronize()
