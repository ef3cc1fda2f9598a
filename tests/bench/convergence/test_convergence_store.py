"""Trainings on disk: what comes back, and what a kill may leave."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from made_up import result

from bench.convergence.result import Key, TrainingResult
from bench.convergence.store import Store

KEY = Key("tiny", 60, "text 1", "adamw", "lr 0.001, beta1 0.9", 0)


def keys(count: int) -> list[Key]:
    return [replace(KEY, seed=seed) for seed in range(count)]


def test_what_is_stored_comes_back(tmp_path: Path) -> None:
    stored = result(KEY, 0.125, trace=(0.5, 0.25))
    Store(tmp_path / "new").add(stored)
    again = Store(tmp_path / "new")
    assert KEY in again
    assert list(again) == [stored]


def test_numbers_keep_four_digits() -> None:
    row = json.loads(result(KEY, 0.1234567, trace=(1 / 3,)).line())
    assert row["final_loss"] == 0.1235
    assert row["trace"] == [0.3333]


def test_what_is_not_finite_comes_back_infinite() -> None:
    broken = result(KEY, 1.0, train_loss=math.nan, test_loss=math.inf, diverged=True)
    assert "NaN" not in broken.line()
    assert "Infinity" not in broken.line()
    again = TrainingResult.parse(broken.line())
    assert math.isinf(again.train_loss)
    assert math.isinf(again.test_loss)
    assert again.diverged is True


def test_a_line_that_a_kill_cut_is_ignored_and_overwritten(tmp_path: Path) -> None:
    first, second, third = keys(3)
    store = Store(tmp_path)
    store.add(result(first))
    path = tmp_path / "tiny.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + result(second).line().encode()[:100])

    store = Store(tmp_path)
    assert first in store
    assert second not in store
    store.add(result(third))
    assert path.read_bytes().startswith(whole)
    assert [one.key for one in Store(tmp_path)] == [first, third]


def test_a_run_goes_by_the_rounded_numbers_that_a_later_one_finds(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(result(KEY, 1 / 3))
    assert store[KEY] == Store(tmp_path)[KEY]


def test_adding_leaves_what_is_there(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for key in keys(3):
        before = b"".join(path.read_bytes() for path in tmp_path.glob("*"))
        store.add(result(key))
        assert (tmp_path / "tiny.jsonl").read_bytes().startswith(before)


def test_a_line_that_says_something_else_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tiny.jsonl").write_text('{"task": "tiny"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="not a stored training"):
        Store(tmp_path)


def test_the_later_of_two_counts(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(result(KEY, 0.5))
    store.add(result(KEY, 0.25))
    assert Store(tmp_path)[KEY].final_loss == 0.25
    assert len(Store(tmp_path)) == 1


def test_tidy_sorts_and_loses_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for key in reversed(keys(4)):
        store.add(result(key))
    store.add(result(replace(KEY, task="other")))
    store.tidy(["tiny", "other", "absent"])
    again = Store(tmp_path)
    assert [one.key.seed for one in again if one.key.task == "tiny"] == [0, 1, 2, 3]
    assert len(again) == 5
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.jsonl", "other.jsonl"}


def test_drop_takes_one_optimizer_of_some_tasks(tmp_path: Path) -> None:
    store = Store(tmp_path)
    kept = [replace(KEY, task="other"), replace(KEY, optimizer="sgd")]
    for key in (*keys(2), *kept):
        store.add(result(key))
    assert store.drop(["tiny"], ["adamw"]) == 2
    assert {one.key for one in Store(tmp_path)} == set(kept)


def test_data_and_steps_tell_trainings_apart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(result(KEY))
    assert replace(KEY, data="text 2") not in store
    assert replace(KEY, steps=61) not in store
