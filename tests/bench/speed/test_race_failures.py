"""A contestant that fails is noted, and the others are measured; large ones never meet."""

from __future__ import annotations

import gc
import json
import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from bench.speed import clocks, race, runner, settings, track
from bench.speed.clocks import Sample
from bench.speed.contestant import RaceContestant
from bench.speed.contestants import CONTESTANTS
from bench.speed.result import COPY, Entrant, RaceResult
from bench.speed.settings import RaceSettings
from bench.speed.sizes import parse_size
from bench.speed.tables import race_table

CPU = torch.device("cpu")


class Stepping:
    """An optimizer with a state, whose step does what it is told."""

    alive: ClassVar[weakref.WeakSet[Stepping]] = weakref.WeakSet()

    def __init__(self, on_step: Callable[[int], None] = lambda taken: None) -> None:
        self.state = torch.zeros(8)
        self.taken = 0
        self.on_step = on_step
        Stepping.alive.add(self)

    def step(self) -> None:
        self.taken += 1
        self.on_step(self.taken)


def raising(error: Exception, at: int) -> Callable[[int], None]:
    def on_step(taken: int) -> None:
        if taken >= at:
            raise type(error)(*error.args)  # a new one: it would keep its frames

    return on_step


def take_part(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    on_step: Callable[[int], None] = lambda taken: None,
    *,
    ours: bool = False,
) -> None:
    def make(params: object, build: object) -> Stepping:
        return Stepping(on_step)

    monkeypatch.setitem(
        CONTESTANTS, name, RaceContestant(name, name, ours=ours, bytes_fp32=4, make=make)
    )


def run(monkeypatch: pytest.MonkeyPatch, *names: str, crowded: bool = False) -> RaceResult:
    monkeypatch.setitem(track.COPY_BYTES, "cpu", 2**10)
    monkeypatch.setattr(clocks.CpuClock, "_FLUSHED_BYTES", 2**10)
    monkeypatch.setitem(settings.CROWDED, "cpu", 0 if crowded else math.inf)
    chosen = RaceSettings(CPU, "torch", names, ("eager",), rounds=5)
    return race.race(parse_size("3x8"), chosen)


@pytest.mark.parametrize("crowded", [False, True])
@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("at", [1, 5, 9])  # warming up, looked at, in the rounds
def test_the_others_go_on(
    at: int, ours: bool, crowded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_part(monkeypatch, "broken", raising(OSError("no file\nat all"), at), ours=ours)
    take_part(monkeypatch, "large", raising(torch.cuda.OutOfMemoryError("no memory"), at))
    take_part(monkeypatch, "sound")
    result = run(monkeypatch, "broken", "large", "sound", crowded=crowded)
    assert result.failed == {"broken": "OSError: no file"}
    assert result.left_out == {"large": "out of memory"}
    assert set(result.samples) == {COPY, "sound"}
    assert len(result.samples["sound"]) == 5
    notes = race_table(result, CPU).notes
    assert "Failed: broken: OSError: no file." in notes
    assert "Left out: large: out of memory." in notes


def test_nobody_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    for crowded in (False, True):
        take_part(monkeypatch, "broken", raising(OSError("no file"), 1))
        result = run(monkeypatch, "broken", crowded=crowded)
        assert race_table(result, CPU).rows == ()


@pytest.mark.parametrize(("ours", "status"), [(False, 0), (True, 1)])
def test_only_a_failure_of_ours_fails_the_run(
    ours: bool, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(track.COPY_BYTES, "cpu", 2**10)
    take_part(monkeypatch, "broken", raising(OSError("no file"), 1), ours=ours)
    arguments = ["--contestants", "broken,sgd-fused", "--sizes", "3x8", "--rounds", "2"]
    assert runner.main([*arguments, "--out", str(tmp_path)]) == status
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["sizes"]["3x8"]["failed"] == {"broken": "OSError: no file"}
    assert list(summary["sizes"]["3x8"]["contestants"]) == ["sgd-fused"]


def test_one_is_freed_before_the_next_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """On 80 GB the states of all do not fit beside 1e9 parameters."""
    gc.collect()
    most = []
    names = ("one", "two", "broken", "three")
    for name in names:
        error = raising(OSError("no file"), 5) if name == "broken" else lambda taken: None

        def on_step(taken: int, error: Callable[[int], None] = error) -> None:
            most.append(len(Stepping.alive))
            error(taken)

        take_part(monkeypatch, name, on_step)
    result = run(monkeypatch, *names, crowded=True)
    assert set(result.entrants) == {"one", "two", "three"}
    assert max(most) == 1
    most.clear()
    run(monkeypatch, *names)
    assert max(most) > 1


def test_large_sizes_of_a_gpu_are_crowded() -> None:
    chosen = RaceSettings(torch.device("cuda"), "auto", None, runner.MODES["cuda"])
    crowded = [n for n in ("1x1G", "gpt2", "bert-large") if chosen.one_by_one(parse_size(n))]
    assert crowded == ["1x1G", "bert-large"]


def test_what_there_is_is_told_after_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(track.COPY_BYTES, "cpu", 2**10)
    monkeypatch.setitem(settings.CROWDED, "cpu", 0)
    for name in ("one", "two"):
        take_part(monkeypatch, name)
    seen: list[list[str]] = []
    chosen = RaceSettings(CPU, "torch", ("one", "two"), ("eager",), rounds=2)
    race.race(
        parse_size("3x8"), chosen, on_contestant=lambda result: seen.append([*result.entrants])
    )
    assert seen == [["one"], ["one", "two"]]


def test_gradients_move_one_by_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """And are back at home for the next."""
    monkeypatch.setitem(track.COPY_BYTES, "cpu", 2**10)
    monkeypatch.setitem(settings.CROWDED, "cpu", 0)
    places: dict[str, list[int]] = {"one": [], "two": []}

    def make(name: str) -> Callable[[list[torch.Tensor], object], Stepping]:
        def build(params: list[torch.Tensor], _: object) -> Stepping:
            def on_step(taken: int) -> None:
                assert params[0].grad is not None
                places[name].append(params[0].grad.data_ptr())

            return Stepping(on_step)

        return build

    for name in places:
        contestant = RaceContestant(name, name, ours=True, bytes_fp32=4, make=make(name))
        monkeypatch.setitem(CONTESTANTS, name, contestant)
    monkeypatch.setattr(clocks.CpuClock, "_WINDOW", 1e-9)
    chosen = RaceSettings(CPU, "torch", ("one", "two"), ("eager", "moved"), rounds=4)
    result = race.race(parse_size("3x8"), chosen)
    assert set(result.samples) == {COPY, "one", "one@moved", "two", "two@moved"}
    assert len(set(places["one"])) == 2
    assert places["two"][0] == places["one"][0]


def test_ratios_of_those_who_did_not_meet() -> None:
    """The machine is twice as slow when the second is measured: the copy beside it tells."""
    result = RaceResult(parse_size("1x1G"), copy_bytes=2**30)
    for name, slow in (("adamw-fused", 1.0), ("qhm", 2.0)):
        result.entrants[name] = Entrant(CONTESTANTS[name], "eager")
        result.samples[name] = [Sample(0.03 * slow)] * 4
        result.beside[name] = [Sample(0.001 * slow)] * 4
    result.samples[COPY] = [sample for samples in result.beside.values() for sample in samples]
    assert math.isclose(result.ratio("qhm", "adamw-fused"), 1.0)
    assert math.isclose(result.ratio("qhm", COPY), 30.0)
    assert result.rounds == 4
