"""The benchmarks measure what they say: contestants, counted bytes, statistics, files."""

from __future__ import annotations

import csv
import itertools
import json
import math
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.speed import runner, track
from bench.speed.clocks import Sample, Step
from bench.speed.contestant import DTYPES, RaceContestant
from bench.speed.contestants import CONTESTANTS, default_contestants
from bench.speed.footprint import Footprint
from bench.speed.race import race
from bench.speed.result import COPY, Entrant, RaceResult
from bench.speed.rivals import PerTensorYellowFin
from bench.speed.settings import RaceSettings
from bench.speed.sizes import parse_size
from bench.speed.tables import BUSY_SPREAD, LEGEND, race_table
from bench.speed.targets import check
from yfkernels import YellowFin

# Bytes that the passes read and write per parameter: all fp32; bf16 parameters and gradients.
COUNTED_BYTES = {
    "yellowfin-robust": (24, 24),
    "yellowfin-diagonal": (32, 32),
    "yellowfin-compact": (26, 26),
    "yellowfin-published": (36, 36),
    "yellowfin-sketch": (24, 24),
    "lamb": (44, 46),
    "lamb-unclipped": (40, 44),
    "qhm": (20, 22),
    "qhadam": (28, 30),
    "adamw-fused": (28, 14),
    "adamw-fused+clip": (40, 20),
    "sgd-fused": (20, 10),
    "sgd-fused+clip": (32, 16),
    "sgd-foreach": (32, 16),
    "sgd-loop": (32, 16),
    "yellowfin-per-tensor": (80, 40),
    "apex-lamb": (52, 26),
    "apex-adam": (28, 22),
    "apex-sgd": (20, 10),
    "deepspeed-adam": (28, 14),
    "bnb-adamw8bit": (16, 10),
    "timm-adamw": (80, 40),
    "timm-sgdw": (40, 20),
    "timm-lamb": (104, 52),
    "pytorch-optimizer-lamb": (112, 56),
    "pytorch-optimizer-lamb-loop": (96, 48),
    "torch-optimizer-lamb": (100, 50),
    "qhoptim-qhm": (44, 22),
    "qhoptim-qhadam": (108, 54),
    "prodigy": (124, 62),
}
ON_CPU = default_contestants("cpu", "2x1K")
OURS_MOVED = [f"{name}@moved" for name, contestant in CONTESTANTS.items() if contestant.ours]


def test_every_contestant_is_counted() -> None:
    counted = {
        name: tuple(contestant.bytes_per_param(dtype) for dtype in DTYPES.values())
        for name, contestant in CONTESTANTS.items()
    }
    assert {name: counted[name] for name in COUNTED_BYTES} == COUNTED_BYTES
    # a new optimizer's are those of the registry
    assert all(CONTESTANTS[name].ours for name in counted.keys() - COUNTED_BYTES.keys())


@pytest.mark.parametrize(
    ("name", "tensors", "numel"),
    [
        ("resnet50", 161, 25_557_032),
        ("gpt2", 148, 124_439_808),
        ("bert-large", 398, 336_226_108),
        ("10000x64", 10_000, 640_000),
        ("1x50M", 1, 50_000_000),
    ],
)
def test_sizes(name: str, tensors: int, numel: int) -> None:
    size = parse_size(name)
    assert (size.tensors, size.numel) == (tensors, numel)


def test_per_tensor_rival_takes_the_same_steps() -> None:
    """Else the comparison would not be about the same work."""
    torch.manual_seed(0)
    shapes = ((7, 5), (11,), (3, 2, 2))
    ours = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    theirs = [param.detach().clone().requires_grad_() for param in ours]
    fused, rival = YellowFin(ours, robust=False, backend="torch"), PerTensorYellowFin(theirs)
    for iteration in range(60):
        scale = {20: 1e3, 40: 1e6}.get(iteration, 1.0)
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = scale * torch.randn_like(mine)
            other.grad = mine.grad.clone()
        fused.step()
        rival.step()
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)


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


def test_other_packages() -> None:
    rows = [row for row in CONTESTANTS.values() if row.package]
    assert {row.package for row in rows} == {
        "apex",
        "bitsandbytes",
        "deepspeed",
        "pytorch_optimizer",
        "qhoptim",
        "timm",
        "torch_optimizer",
    }
    assert not any(row.essential for row in rows)
    absent = [row for row in rows if find_spec(row.package or "") is None]
    assert all(row.why_absent == f"{row.package} is not installed" for row in absent)
    assert all(row.why_absent is None for row in rows if row not in absent)


def run_tiny(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, *more: str
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    monkeypatch.setitem(track.COPY_BYTES, device, 2**16)
    arguments = ["--device", device, "--sizes", "3x64,2x1K", "--rounds", "2", "--check"]
    arguments += ["--dtype", "fp32,bf16", *more]
    assert runner.main([*arguments, "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    with (tmp_path / "samples.csv").open(encoding="utf-8", newline="") as file:
        return summary, list(csv.DictReader(file))


def test_report_of_a_tiny_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    summary, samples = run_tiny(tmp_path, monkeypatch, "cpu")

    entrants = [*ON_CPU, *OURS_MOVED]
    assert len(samples) == 2 * 2 * 2 * (len(entrants) + 1)  # sizes, dtypes, rounds, entrants, copy
    assert {sample["dtype"] for sample in samples} == {"fp32", "bf16"}
    assert all(float(sample["host_seconds"]) > 0.0 for sample in samples)
    assert summary["environment"]["threads"] == torch.get_num_threads()
    contestants = summary["sizes"]["2x1K"]["contestants"]
    assert set(contestants) == set(entrants)
    assert contestants["adamw-fused"]["state_bytes"] == 2 * (2 * 4 * 1000 + 4)
    assert contestants["yellowfin-published"]["allocations_per_step"] == 0
    in_bf16 = summary["sizes"]["2x1K bf16"]["contestants"]
    assert in_bf16["adamw-fused"]["state_bytes"] == 2 * (2 * 2 * 1000 + 4)
    assert in_bf16["sgd-fused"]["bytes_per_param"] == 10

    text = (tmp_path / "tables.md").read_text(encoding="utf-8")
    shown = capsys.readouterr().out
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    for name in ON_CPU:
        label = CONTESTANTS[name].label
        assert label in text
        assert label in shown
        assert label in page
    assert "Targets: 0 of 27 met" in page
    for picture in ("roofline.png", "roofline-bf16.png"):
        assert (tmp_path / picture).stat().st_size > 10_000
        assert f"({picture})" in page


def test_sizes_without_time_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first size takes all the time there is: the others are left out, and the run is kept."""
    times = itertools.count(0.0, 30.0)
    monkeypatch.setitem(track.COPY_BYTES, "cpu", 2**10)
    monkeypatch.setattr(runner, "RaceSettings", partial(RaceSettings, now=lambda: next(times)))
    arguments = ["--sizes", "3x64,2x1K", "--dtype", "fp32,bf16", "--contestants", "adamw-fused"]
    assert runner.main([*arguments, "--budget", "100", "--out", str(tmp_path)]) == 0
    assert "The time is up (100 s). Left out: 2x1K fp32, 3x64 bf16" in capsys.readouterr().out
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert list(summary["sizes"]) == ["3x64"]
    assert "2x1K fp32" in summary["environment"]["no time for"]


def test_one_family_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Named by patterns, each once; a rival that is not installed is left out with the reason."""
    monkeypatch.setitem(track.COPY_BYTES, "cpu", 2**16)
    absent = RaceContestant(
        "absent-lamb", "absent LAMB", package="absent", bytes_fp32=4, make=lambda *_: NotImplemented
    )
    monkeypatch.setitem(CONTESTANTS, "absent-lamb", absent)
    arguments = ["--contestants", "adamw-fused,*lamb*,lamb", "--sizes", "3x64", "--rounds", "2"]
    assert runner.main([*arguments, "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    entrants = list(summary["sizes"]["3x64"]["contestants"])
    assert entrants[:3] == ["adamw-fused", "lamb", "lamb@moved"]
    assert all("lamb" in name for name in entrants[1:])
    assert "absent-lamb" not in entrants
    assert "absent-lamb" not in summary["sizes"]["3x64"]["left_out"]  # once is enough
    assert "absent-lamb: absent is not installed" in summary["environment"]["left out"]
    assert {target["claim"].partition(" ")[0] for target in summary["targets"]} == {
        "LAMB",
        "fastest",
    }
    assert "Targets: 0 of 4 met" in (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.mark.cuda
def test_report_of_a_tiny_run_on_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = "yellowfin-published,lamb,qhm,adamw-fused,sgd-loop"  # each is profiled in every mode
    summary, samples = run_tiny(tmp_path, monkeypatch, "cuda", "--contestants", few)
    assert all(float(sample["device_seconds"]) > 0.0 for sample in samples)
    contestants = summary["sizes"]["3x64"]["contestants"]
    assert {
        "yellowfin-published",
        "yellowfin-published@capturable",
        "yellowfin-published@graph",
    } <= set(contestants)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "50M"], "Invalid size: '50M'"),
        (["--contestants", "adam"], "no contestant 'adam'"),
        (["--contestants", "lamb,*lion*"], "no contestant '*lion*'"),
        (["--dtype", "fp8"], "no dtype 'fp8'; choose from fp32, bf16"),
        (["--budget", "0"], "'0' is not a whole number from 1 up"),
        (["--rounds", "1"], "'1' is not a whole number from 2 up"),
        pytest.param(
            ["--device", "cuda"],
            "torch sees no CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here"),
        ),
    ],
)
def test_bad_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        runner.main(arguments)
    assert message in capsys.readouterr().err
