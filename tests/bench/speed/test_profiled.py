"""The profiler comes when the last race is over, and takes from its results only what it must."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from bench.common.launches import RecordsLostError
from bench.speed import footprint, profiled, runner, track
from bench.speed.clocks import Sample, Step
from bench.speed.contestant import Build, RaceContestant
from bench.speed.contestants import CONTESTANTS
from bench.speed.footprint import Footprint, measure_footprint
from bench.speed.profiled import profile_entrants
from bench.speed.result import COPY, Entrant, RaceResult
from bench.speed.settings import RaceSettings
from bench.speed.sizes import parse_size

MODES = ("eager", "moved", "capturable", "graph")


class Stepping:
    """An optimizer that counts its steps."""

    def __init__(self, name: str, capturable: bool = False) -> None:
        self.name = name
        self.capturable = capturable
        self.taken = 0

    def step(self) -> None:
        self.taken += 1


def raced(
    monkeypatch: pytest.MonkeyPatch, built: list[Stepping], size: str, *names: str
) -> RaceResult:
    """A race of these; those whose name begins with `our` are ours."""
    result = RaceResult(parse_size(size), 2**20)
    result.samples[COPY] = [Sample(1.0)] * 2
    for name in names:

        def make(params: list[Tensor], build: Build, name: str = name) -> Stepping:
            built.append(Stepping(name, build.capturable))
            return built[-1]

        ours = name.startswith("our")
        contestant = RaceContestant(
            name, name, ours=ours, bytes_fp32=4, make=make, has_capturable=ours
        )
        monkeypatch.setitem(CONTESTANTS, name, contestant)
        for mode in MODES:
            entrant = Entrant(contestant, mode)
            if entrant.possible:
                result.entrants[entrant.key] = entrant
                result.samples[entrant.key] = [Sample(1.0)] * 2
                result.footprints[entrant.key] = Footprint(8, 0)
    return result


def chosen(now: Callable[[], float] = lambda: 0.0) -> RaceSettings:
    return RaceSettings(torch.device("cpu"), "torch", None, MODES, now=now)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiled, "_kernels_of", lambda step: (step(), [("update", 1e-3)] * 2)[1])


def test_each_is_built_once_more(monkeypatch: pytest.MonkeyPatch, device: None) -> None:
    """Ours first, at all sizes. Moved gradients and graphs launch what the plain forms do."""
    built: list[Stepping] = []
    results = [raced(monkeypatch, built, size, "theirs", "ours") for size in ("3x8", "2x4")]
    written: list[RaceResult] = []
    assert profile_entrants(results, chosen(), math.inf, written.append) is None
    ours, theirs = [("ours", False), ("ours", True)], [("theirs", False)]
    assert [(one.name, one.capturable) for one in built] == ours * 2 + theirs * 2
    # the first steps build plans, of thousands of launches that take the profiler minutes
    assert {one.taken for one in built} == {track.WARMUP_STEPS + 1}
    assert written == results * 2
    for result in results:
        assert {"ours", "ours@moved", "ours@capturable", "theirs"} <= set(result.footprints)
        for seen in result.footprints.values():
            assert (seen.launches, seen.kernels) == (2, {"update": 2e-3})
            assert (seen.state_bytes, seen.allocations) == (8, 0)


def test_it_keeps_to_its_time(monkeypatch: pytest.MonkeyPatch, device: None) -> None:
    built: list[Stepping] = []
    results = [raced(monkeypatch, built, "3x8", "theirs", "ours")]
    settings = chosen(now=lambda: float(len(built)))
    assert profile_entrants(results, settings, 2.0, lambda result: None) == "no time"
    assert [one.name for one in built] == ["ours", "ours"]
    assert results[0].footprints["theirs"].launches is None


def test_what_fails_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no sample; the reasons are told, each once."""
    errors: dict[str, Exception] = {
        "our one": RecordsLostError("lost"),
        "our two": RecordsLostError("lost"),
        "our three": torch.cuda.OutOfMemoryError("no memory"),
    }
    built: list[Stepping] = []

    def kernels(step: Step) -> list[tuple[str, float]]:
        if built[-1].name in errors:
            raise errors[built[-1].name]
        return []  # too many to look at

    monkeypatch.setattr(profiled, "_kernels_of", kernels)
    results = [raced(monkeypatch, built, "3x8", *errors, "our four")]
    words = profile_entrants(results, chosen(), math.inf, lambda result: None)
    assert words == "lost; our three: OutOfMemoryError"
    assert {seen.launches for seen in results[0].footprints.values()} == {None}
    assert results[0].failed == {}
    assert len(results[0].samples["our three"]) == 2


def test_no_profiler_before_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**options: object) -> None:
        raise AssertionError("the profiler was started")

    counts = iter([5, 7])
    stats = {"allocation.all.allocated": 0}
    monkeypatch.setattr(footprint, "profile", refused)
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda: {name: next(counts) for name in stats})
    optimizer = Stepping("ours")
    step, seen = measure_footprint(lambda: optimizer.step, [], torch.device("cuda"))
    assert seen == Footprint(seen.state_bytes, 2)
    assert step == optimizer.step
    assert optimizer.taken == 1


@pytest.mark.parametrize("budget", [None, 100])
def test_it_follows_the_races(
    budget: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a share of the time of its own."""
    options = SimpleNamespace(
        device="cuda",
        threads=None,
        backend="auto",
        contestants=("ours",),
        rounds=None,
        quick=False,
        sizes=[parse_size("3x8"), parse_size("2x4")],
        dtype=("fp32",),
        budget=budget,
        check=False,
        out=tmp_path,
    )
    calls: list[tuple[str, object]] = []
    result = raced(monkeypatch, [], "3x8", "ours")

    def race(
        size: object, settings: object, dtype: object, seconds: float, *told: object
    ) -> object:
        calls.append(("race", seconds))
        return result

    def profile(results: object, settings: object, end: float, on_result: object) -> str:
        calls.append(("profiler", end))
        return "no time"

    monkeypatch.setattr(runner, "parse_arguments", lambda argv: options)
    monkeypatch.setattr(runner.environment, "describe", lambda *_: {})
    monkeypatch.setattr(runner, "RaceSettings", lambda **given: chosen_for(given))
    monkeypatch.setattr(runner, "race", race)
    monkeypatch.setattr(runner, "profile_entrants", profile)
    monkeypatch.setattr(runner.report, "draw", lambda *_: [])
    assert runner.main([]) == 0
    assert [name for name, _ in calls] == ["race", "race", "profiler"]
    assert calls[-1][1] == (math.inf if budget is None else budget)
    if budget is not None:
        assert calls[1] == ("race", pytest.approx(85.0))  # all that is left, but for the profiler's
    assert "launches not counted for all no time" in (tmp_path / "report.md").read_text()


def chosen_for(given: dict[str, object]) -> RaceSettings:
    return RaceSettings(**given, now=lambda: 0.0)  # type: ignore[arg-type]
