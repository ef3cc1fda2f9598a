"""What the profiler saw of a step, and whether that is all of it; with a pretended device."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.common import launches
from bench.common.launches import (
    AFTER,
    BEFORE,
    DeviceWork,
    RecordsLostError,
    between_sentinels,
    work_of,
)

SPIN = DeviceWork("at::cuda::(anonymous namespace)::spin_kernel(long)", 1e-6)
STEP = [
    DeviceWork("measure<float>", 2e-3),
    DeviceWork("Memcpy DtoD", 1e-6),
    DeviceWork("tune", 1e-6),
]


@pytest.mark.parametrize("dropped", [0, 1, BEFORE - 1])
def test_the_step_is_what_lies_between(dropped: int) -> None:
    records = [SPIN] * BEFORE + STEP + [SPIN] * AFTER
    assert between_sentinels(records[dropped:]) == STEP
    assert [work.is_kernel for work in STEP] == [True, False, True]


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([], "saw 0 kernels and copies, and none of those"),
        (STEP, "saw 3 kernels and copies, and none of those"),
        ([*STEP, *[SPIN] * AFTER], "lost the beginning"),
        ([*STEP[1:], *[SPIN] * AFTER], "lost the beginning"),
        ([SPIN] * AFTER, "lost the beginning"),
        ([SPIN] * BEFORE + STEP, "lost the end"),
        ([SPIN] * BEFORE + STEP + [SPIN] * (AFTER - 1), "lost the end"),
    ],
)
def test_lost_records_are_told(records: list[DeviceWork], words: str) -> None:
    with pytest.raises(RecordsLostError, match=words):
        between_sentinels(records)


class Profiled:
    """A device, and a profiler that loses what began within a time of its own beginning."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, lost_us: float) -> None:
        self.now = 0.0
        self.lost_us = lost_us
        self.sessions = 0
        self.ran: list[tuple[float, str]] = []
        monkeypatch.setattr(launches, "profile", self.profile)
        monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: self.run(SPIN.name, cycles / 1e3))
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)

    def run(self, name: str, us: float) -> None:
        self.ran.append((self.now, name))
        self.now += 1.0 + us

    def profile(self, activities: Any) -> Profiled:
        self.sessions += 1
        self.begin = self.now
        return self

    def __enter__(self) -> Profiled:
        return self

    def __exit__(self, *error: object) -> None:
        self.seen = [(t, name) for t, name in self.ran if t >= self.begin + self.lost_us]

    def events(self) -> list[Any]:
        def event(start: float, name: str, kind: str = "CUDA") -> Any:
            time_range = SimpleNamespace(start=start, elapsed_us=lambda: 2.0)
            where = SimpleNamespace(name=kind)
            return SimpleNamespace(name=name, device_type=where, time_range=time_range)

        beside = [event(0.0, "aten::add", "CPU"), event(0.0, "Optimizer.step#SGD.step")]
        return beside + [event(*record) for record in reversed(self.seen)]  # in no order


@pytest.mark.parametrize(("lost_us", "sessions"), [(0.0, 1), (60.0, 1), (200.0, 2), (9e4, 3)])
def test_a_session_that_lost_the_step_is_repeated(
    lost_us: float, sessions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more time before the step: what is lost is lost by its time."""
    device = Profiled(monkeypatch, lost_us)
    seen = work_of(lambda: [device.run(name, 1.0) for name in ("measure", "update")])
    assert [work.name for work in seen] == ["measure", "update"]
    assert seen[0].seconds == pytest.approx(2e-6)
    assert device.sessions == sessions


def test_nothing_is_told_of_what_was_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Profiled(monkeypatch, 1e9)
    with pytest.raises(RecordsLostError, match="saw 0 kernels"):
        work_of(lambda: device.run("update", 1.0))
    assert device.sessions == 3
