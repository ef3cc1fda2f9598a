"""The bars of a run that is committed."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from bench.speed import chart

ROOT = Path(__file__).resolve().parents[3]
RUN = ROOT / "bench/results/cpu-f42d27e-bytes"


def test_a_picture_is_written(tmp_path: Path) -> None:
    chart.main([str(RUN), str(RUN), "--out", str(tmp_path / "speed.png")])
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_the_ratio_is_that_of_the_tables() -> None:
    timed = {"time_ratio_to": "adamw-fused", "time_ratio": 0.97, "seconds": 1.0}
    assert chart._ratio(timed) == 0.97
