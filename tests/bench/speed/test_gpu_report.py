"""What can be seen of the GPU benchmarks without one: the order of a sample, and the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench.speed import page, report
from bench.speed.clocks import CudaClock, Sample
from bench.speed.contestants import CONTESTANTS
from bench.speed.footprint import Footprint
from bench.speed.result import COPY, Entrant, RaceResult
from bench.speed.sizes import parse_size
from bench.speed.tables import race_table
from bench.speed.targets import check

CUDA = torch.device("cuda")
FACTS = {
    "date": "today",
    "commit": "c0ffee",
    "torch": "2",
    "gpu": "a GPU",
    "cpu": "a CPU",
    "threads": 2,
}
COPY_GB_PER_S = 4000.0


def test_a_sample_is_enqueued_behind_a_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flush, spin, event, step, event: no gap of the host falls between the events."""
    calls: list[str] = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            calls.append("event")

        def synchronize(self) -> None:
            calls.append("wait")

        def elapsed_time(self, end: Event) -> float:
            return 0.25  # milliseconds

    class Properties:
        L2_cache_size = 64

    class Flushed:
        def zero_(self) -> None:
            calls.append("flush")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("synchronize"))
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: calls.append("spin"))
    clock = CudaClock(torch.device("cpu"))
    monkeypatch.setattr(clock, "_flushed", Flushed())
    sample = clock.sample(lambda: calls.append("step"), 1, lambda: calls.append("before"))
    host_pass = ["before", "flush", "synchronize", "step"]
    device_pass = ["before", "synchronize", "flush", "spin", "event", "step", "event", "wait"]
    assert calls == host_pass + device_pass
    assert sample.device == sample.seconds == 0.25e-3
    assert 0.0 < sample.host < 0.1


def fabricated(size_name: str, dtype: torch.dtype, names: tuple[str, ...]) -> RaceResult:
    """A run in which every step moves its bytes at 0.92 of the copy's speed; 0.1 ms on the host."""
    result = RaceResult(parse_size(size_name), 2**31, dtype, planned_rounds=4)
    result.samples[COPY] = [Sample(1e-5, 2**31 / COPY_GB_PER_S / 1e9)] * 4
    for name in names:
        for mode in ("eager", "capturable", "graph"):
            entrant = Entrant(CONTESTANTS[name], mode)
            if entrant.possible:
                result.entrants[entrant.key] = entrant
                seconds = result.bytes_per_step(entrant.key) / (0.92 * COPY_GB_PER_S * 1e9)
                result.samples[entrant.key] = [Sample(1e-4, seconds)] * 4
                # measure, tune and update, as long as 8 and 28 bytes take at the copy's speed
                second = result.size.numel / COPY_GB_PER_S / 1e9
                launched = {
                    "f_measure_kernel": 8 * second,
                    "tune": 1e-6,
                    "update_kernel<float>": 28 * second,
                }
                if name == "lamb-unclipped":
                    del launched["tune"]
                result.footprints[entrant.key] = Footprint(10, 0, len(launched), launched)
    return result


def test_report_of_a_gpu_run(tmp_path: Path) -> None:
    yellowfin = ("yellowfin-published", "yellowfin-sketch", "adamw-fused", "adamw-fused+clip")
    names = (
        *yellowfin,
        "yellowfin-compact",
        "lamb",
        "lamb-unclipped",
        "qhm",
        "apex-lamb",
        "sgd-fused",
    )
    results = [
        fabricated("1x1G", torch.float32, names),
        fabricated("resnet50", torch.float32, names),
        fabricated("400x64", torch.float32, names),
        fabricated("bert-large", torch.float32, names),
        fabricated("resnet50", torch.bfloat16, names),
    ]
    verdicts = check({result.name: result for result in results}, "cuda")
    measured = {(v.target.size, v.target.claim): v.measured for v in verdicts}
    assert measured["1x1G", "published, fraction of copy bandwidth"] == pytest.approx(0.92)
    assert measured["1x1G", "sketch / fused AdamW + clip_grad_norm_, time"] == pytest.approx(0.6)
    assert measured["1x1G", "published, update pass, fraction of copy bandwidth"] == pytest.approx(
        1.0
    )
    assert measured["1x1G", "sketch, measure pass, fraction of copy bandwidth"] == pytest.approx(
        0.5
    )
    assert measured["1x1G", "LAMB, fraction of copy bandwidth"] == pytest.approx(0.92)
    assert measured["bert-large", "LAMB / apex FusedLAMB, time"] == pytest.approx(44 / 52)
    assert measured["400x64", "LAMB, launches a step"] == 3
    assert measured["400x64", "LAMB without clip, launches a step"] == 2
    assert measured["resnet50", "published, host µs"] == pytest.approx(100.0)
    copied = 36 * 25_557_032 / COPY_GB_PER_S / 1e3  # µs
    device = measured["resnet50", "published in a graph, device µs"]
    above = measured["resnet50", "published in a graph, µs above its bytes' copy"]
    assert device == pytest.approx(copied / 0.92)
    assert above == pytest.approx(copied / 0.92 - copied)
    assert all(verdict.measured is not None for verdict in verdicts)

    report.write(tmp_path, CUDA, FACTS, results, verdicts)
    pictures = report.draw(tmp_path, CUDA, FACTS, results)
    assert [picture.name for picture in pictures] == ["roofline.png", "roofline-bf16.png"]
    (tmp_path / "tests.log").write_text("...\n\ndone in 90 s: 400 passed\n")
    text = page.write(tmp_path).read_text(encoding="utf-8")
    for line in (
        "| tests | done in 90 s: 400 passed |",
        "gpu a GPU · cpu a CPU · threads 2 · commit c0ffee",
        "### Targets: 22 of 26 met",
        "![time and bandwidth](roofline-bf16.png)",
        "### Each step called, fp32: time, and speed over the copy's",
        "### Each step replayed from a CUDA graph, bf16: time, and speed over the copy's",
        "|  | 1x1G | resnet50 | 400x64 | bert-large |",
        "| YellowFin (published) | 9.78 ms (92%) | 250 µs (92%) | 250 ns (92%) | 3.29 ms (92%) |",
        "### Host time, fp32",
        "| YellowFin (published) | update_kernel<float> | 7 ms |",
        "| LAMB | update_kernel<float> | 7 ms |",
        "| SGD-m fused | 100 µs | 100 µs | 100 µs | 100 µs |",
    ):
        assert line in text, text
    assert "| apex FusedLAMB | update_kernel<float> |" not in text
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["sizes"]["resnet50 bf16"]["copy_gb_per_s"] == pytest.approx(COPY_GB_PER_S)


def test_table_of_a_gpu_run_has_both_times() -> None:
    table = race_table(fabricated("400x64", torch.bfloat16, ("yellowfin-published",)), CUDA)
    assert "copy 4000 GB/s" in table.title
    assert "device time" in table.header
    assert "host time" in table.header
    rows = {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}
    assert rows["YellowFin (published) [graph]"]["launches"] == "3"
    assert rows["YellowFin (published)"]["host time"] == "100 µs"
