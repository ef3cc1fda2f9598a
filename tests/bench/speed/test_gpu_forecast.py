"""The plan of `make gpu`, and its rehearsal where there is no device."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.speed.contestants import CONTESTANTS
from bench.speed.gpu import command, forecast, parts
from bench.speed.sizes import parse_size


def test_the_plan_names_commands_limits_and_times() -> None:
    text = forecast.text(list(parts.PARTS))
    for name, part in parts.PARTS.items():
        assert f"- {name}: limit {part.limit:.0f} s, about " in text
    for words in ("pytest -m cuda", "bench.speed", "--tool racecheck", "1x1G,gpt2,400x64"):
        assert words in text
    assert "DOES NOT FIT" not in text
    total = re.search(r"All of it ends within (\d+) s", forecast.text(["tests", "bench"]))
    assert total
    assert int(total[1]) == 265


def test_the_guesses_stay_below_the_limits() -> None:
    """Else the last of a part would be left out by plan, and not by bad luck."""
    for name, part in parts.PARTS.items():
        if part.default:
            seconds, _ = forecast._GUESSES[name]()
            assert seconds < part.limit, name


def test_all_contestants_at_once_would_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for name, row in CONTESTANTS.items() if row.package is None]
    size = parse_size("1x1G")
    assert forecast.race_memory(size, "fp32", names) < 60e9
    monkeypatch.setattr(forecast.RaceSettings, "one_by_one", lambda settings, size: False)
    assert forecast.race_memory(size, "fp32", names) > 80e9


def test_a_dry_run_of_the_quick_parts(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Of the tests a dry run collects those of a device: tests/ops does that."""
    assert command.main(["--dry-run", "bench", "sanitize", "--out", str(tmp_path)]) == 0
    shown = capfd.readouterr().out
    assert "Plan for one H100" in shown
    assert "40 optimizers took 4 steps each" in shown
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| bench | done in" in text
    assert "| sanitize | done in" in text
    assert (tmp_path / "samples.csv").stat().st_size > 0
