"""A race: paired ratios, and what it leaves out to keep to its time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch

from bench.speed import runner, track
from bench.speed.clocks import Sample, Step
from bench.speed.contestants import CONTESTANTS
from bench.speed.footprint import Footprint
from bench.speed.race import race
from bench.speed.result import COPY, Entrant, RaceResult
from bench.speed.settings import RaceSettings
from bench.speed.sizes import parse_size
from bench.speed.tables import BUSY_SPREAD, LEGEND, race_table
from bench.speed.targets import check


def test_ratios_are_paired_within_rounds() -> None:
    """A machine that slows down threefold half-way changes no ratio."""
    names = ("yellowfin-published", "yellowfin-sketch", "adamw-fused")
    result = RaceResult(parse_size("1x50M"), copy_bytes=2**29)
    drift = (1.0, 1.0, 3.0, 3.0)
    for name, seconds in zip((COPY, *names), (0.02, 0.065, 0.04, 0.05), strict=True):
        result.samples[name] = [Sample(seconds * slowdown) for slowdown in drift]
    for name in names:
        result.entrants[name] = Entrant(CONTESTANTS[name], "eager")
        result.footprints[name] = Footprint(state_bytes=8 * result.size.numel, allocations=0)

    assert math.isclose(result.ratio("yellowfin-published", "adamw-fused"), 1.3)
    assert math.isclose(
        result.copy_fraction("yellowfin-sketch"), (24 * 50e6 / 0.04) / (2**29 / 0.02)
    )
    assert result.spread("yellowfin-published") > BUSY_SPREAD
    notes = race_table(result, torch.device("cpu")).notes
    assert notes[0] == LEGEND
    assert "all rows. The machine was busy" in notes[1]
    outcomes = {v.target.claim: v.outcome for v in check({"1x50M": result}, "cpu")}
    assert outcomes["published / fused AdamW, time"] == "pass"
    assert outcomes["sketch, state bytes / param"] == "FAIL"
    assert outcomes["per-tensor YellowFin / published, time"] == "not measured"

    result.samples["yellowfin-sketch"] = [Sample(0.04)] * len(drift)
    notes = race_table(result, torch.device("cpu")).notes
    assert "YellowFin (published), AdamW fused. The machine was busy" in notes[1]


@dataclass
class FakeClock:
    """A clock by which every step costs what is written here, and no step is taken."""

    costs: dict[str, float]
    elapsed: float = 0.0
    steps: dict[int, str] = field(default_factory=dict)

    def now(self) -> float:
        return self.elapsed

    def repeats_for(self, step: Step) -> int:
        # the copy is asked about first, then the entrants in their order
        self.steps[id(step)] = list(self.costs)[len(self.steps)]
        return 1

    def sample(self, step: Step, repeats: int, before: Step) -> Sample:
        seconds = self.costs[self.steps[id(step)]]
        self.elapsed += seconds
        return Sample(seconds)


COSTS = {
    COPY: 0.1,
    "yellowfin-published": 0.2,
    "adamw-fused": 0.1,
    "sgd-loop": 0.3,
    "sgd-foreach": 0.1,
}


def fake_race(
    monkeypatch: pytest.MonkeyPatch, seconds: float, costs: dict[str, float] = COSTS
) -> RaceResult:
    monkeypatch.setitem(track.COPY_BYTES, "cpu", 2**10)
    clock = FakeClock(costs)
    monkeypatch.setattr(RaceSettings, "clock", lambda settings: clock)
    names = tuple(name for name in costs if name != COPY)
    settings = RaceSettings(
        torch.device("cpu"), "torch", names, ("eager",), rounds=10, now=clock.now
    )
    return race(parse_size("3x8"), settings, seconds=seconds)


@pytest.mark.parametrize(
    ("seconds", "left_out", "rounds"),
    [
        (100.0, [], 10),
        # a look at each costs 0.8 s, and 10 rounds 8 s
        (6.5, ["sgd-loop"], 10),
        (5.0, ["sgd-loop", "sgd-foreach"], 10),
        # only those the targets need are left: 0.4 s a round
        (2.7, ["sgd-loop", "sgd-foreach"], 5),
        (0.1, ["sgd-loop", "sgd-foreach"], 2),
    ],
)
def test_a_race_keeps_to_its_time(
    seconds: float, left_out: list[str], rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = fake_race(monkeypatch, seconds)
    assert list(result.left_out) == left_out
    assert result.rounds == rounds
    assert set(result.samples) == set(COSTS) - set(left_out)
    table = race_table(result, torch.device("cpu"))
    assert ("of 10 rounds: time ran out" in table.title) == (rounds < 10)
    assert ("Left out: sgd-loop: 10 x 0.3 s was too long" in table.notes[-1]) == bool(left_out)


def test_slow_contestants_take_part_in_the_first_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.6 s fit four seconds six times, 20 s are taken five times all the same."""
    costs = {COPY: 4.5, "adamw-fused": 4.1, "sgd-loop": 0.6, "sgd-foreach": 20.0}
    result = fake_race(monkeypatch, math.inf, costs)
    rounds = {key: len(samples) for key, samples in result.samples.items()}
    assert rounds == {COPY: 10, "adamw-fused": 10, "sgd-loop": 6, "sgd-foreach": 5}
    notes = race_table(result, torch.device("cpu")).notes
    assert "Slow, and in the first rounds only: SGD-m for-loop 6, SGD-m foreach 5." in notes

    # of the reference's rounds those count in which both were
    result.samples["adamw-fused"][6:] = [Sample(100.0)] * 4
    assert math.isclose(result.ratio("sgd-loop", "adamw-fused"), 0.6 / 4.1)
    assert math.isclose(result.ratio("adamw-fused", "sgd-loop"), 4.1 / 0.6)


def test_modes_that_there_is_room_for() -> None:
    for device, small, large in (("cuda", "bert-large", "1x1G"), ("cpu", "1x50M", "gpt2")):
        settings = RaceSettings(torch.device(device), "auto", None, runner.MODES[device])
        assert settings.modes_for(parse_size(small)) == runner.MODES[device]
        assert settings.modes_for(parse_size(large)) == ("eager",)
    assert RaceSettings(torch.device("cuda"), "auto", None, ()).rounds_for(parse_size("1x1G")) >= 50
