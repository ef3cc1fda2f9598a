"""A run of the speed benchmark: arguments, sizes, files."""

from __future__ import annotations

import csv
import itertools
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.speed import runner, track
from bench.speed.contestant import RaceContestant
from bench.speed.contestants import CONTESTANTS, default_contestants
from bench.speed.settings import RaceSettings
from bench.speed.sizes import parse_size

ON_CPU = default_contestants("cpu", "2x1K")
OURS_MOVED = [f"{name}@moved" for name, contestant in CONTESTANTS.items() if contestant.ours]


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
    assert "Targets: 0 of 34 met" in page
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
    assert "Targets: 0 of 6 met" in (tmp_path / "report.md").read_text(encoding="utf-8")


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
