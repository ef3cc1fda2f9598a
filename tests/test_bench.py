"""The benchmarks measure what they say: contestants, counted bytes, statistics, files."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import race as race_module
from bench import runner
from bench.clocks import Sample
from bench.contestants import CONTESTANTS
from bench.footprint import Footprint
from bench.result import COPY, Entry, Result
from bench.rivals import PerTensorYellowFin
from bench.sizes import parse_size
from bench.targets import check
from yfkernels import YellowFin

# Bytes that the passes over fp32 tensors read and write per parameter.
COUNTED_BYTES = {
    "yellowfin-exact": 36,
    "yellowfin-sketch": 24,
    "adamw-fused": 28,
    "adamw-fused+clip": 40,
    "sgd-fused": 20,
    "sgd-fused+clip": 32,
    "sgd-foreach": 32,
    "sgd-loop": 32,
    "yellowfin-per-tensor": 80,
}


def test_every_contestant_is_counted() -> None:
    counted = {name: contestant.bytes_per_param for name, contestant in CONTESTANTS.items()}
    assert counted == COUNTED_BYTES


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
    fused, rival = YellowFin(ours, backend="torch"), PerTensorYellowFin(theirs)
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
    names = ("yellowfin-exact", "yellowfin-sketch", "adamw-fused")
    result = Result(parse_size("1x50M"), copy_bytes=2**29)
    drift = (1.0, 1.0, 3.0, 3.0)
    for name, seconds in zip((COPY, *names), (0.02, 0.065, 0.04, 0.05), strict=True):
        result.samples[name] = [Sample(seconds * slowdown) for slowdown in drift]
    for name in names:
        result.entries[name] = Entry(CONTESTANTS[name], "eager")
        result.footprints[name] = Footprint(state_bytes=8 * result.size.numel, allocations=0)

    assert math.isclose(result.ratio("yellowfin-exact", "adamw-fused"), 1.3)
    assert math.isclose(
        result.copy_fraction("yellowfin-sketch"), (24 * 50e6 / 0.04) / (2**29 / 0.02)
    )
    outcomes = {v.target.claim: v.outcome for v in check({"1x50M": result}, "cpu")}
    assert outcomes["exact / fused AdamW, time"] == "pass"
    assert outcomes["sketch, state bytes / param"] == "FAIL"
    assert outcomes["per-tensor YellowFin / exact, time"] == "not measured"


def run_tiny(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    monkeypatch.setitem(race_module._COPY_BYTES, device, 2**16)
    arguments = ["--device", device, "--sizes", "3x64,2x1K", "--rounds", "2", "--check"]
    assert runner.main([*arguments, "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    with (tmp_path / "samples.csv").open(encoding="utf-8", newline="") as file:
        return summary, list(csv.DictReader(file))


def test_report_of_a_tiny_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    summary, samples = run_tiny(tmp_path, monkeypatch, "cpu")

    entries = [*CONTESTANTS, "yellowfin-exact@moved", "yellowfin-sketch@moved"]
    assert len(samples) == 2 * 2 * (len(entries) + 1)  # sizes, rounds, entries and copy
    assert all(float(sample["host_seconds"]) > 0.0 for sample in samples)
    assert summary["environment"]["threads"] == torch.get_num_threads()
    contestants = summary["sizes"]["2x1K"]["contestants"]
    assert set(contestants) == set(entries)
    assert contestants["adamw-fused"]["state_bytes"] == 2 * (2 * 4 * 1000 + 4)
    assert contestants["yellowfin-exact"]["allocations_per_step"] == 0

    text = (tmp_path / "tables.md").read_text(encoding="utf-8")
    shown = capsys.readouterr().out
    for contestant in CONTESTANTS.values():
        assert contestant.label in text
        assert contestant.label in shown
    assert (tmp_path / "roofline.png").stat().st_size > 10_000


@pytest.mark.cuda
def test_report_of_a_tiny_run_on_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary, samples = run_tiny(tmp_path, monkeypatch, "cuda")
    assert all(float(sample["device_seconds"]) > 0.0 for sample in samples)
    contestants = summary["sizes"]["3x64"]["contestants"]
    assert {"yellowfin-exact", "yellowfin-exact@capturable", "yellowfin-exact@graph"} <= set(
        contestants
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "50M"], "Invalid size: '50M'"),
        (["--contestants", "adam"], "no contestant 'adam'"),
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
