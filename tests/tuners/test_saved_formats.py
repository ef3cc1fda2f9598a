"""Tuners of yfkernels 0.1.0, brought up to date: format_4.json has what they were, and did next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from yfkernels import YellowFin
from yfkernels.ops.backends import backend_of
from yfkernels.ops.constants import STATE_FIELDS, STRETCH, TILE
from yfkernels.ops.options import YellowFinOptions
from yfkernels.ops.rules import YELLOWFIN
from yfkernels.tuners.saved_formats import upgraded

SAVED = json.loads(Path(__file__).with_name("format_4.json").read_text())
FORMAT_4 = (
    *("format", "step", "skipped", "beta_power", "grad_sq_avg", "h_min_avg", "h_max_avg"),
    *("grad_norm_avg", "distance_avg", "sparsity_avg", "unread_growth", "growth", "radius"),
    *("grad_sq_sum", "recent_sq_avg", "recent_power", "unread_metric_sq", "envelope_avg"),
    *("envelope", "mean_sq_avg", "scale", "h_min", "h_max", "variance", "distance", "lr"),
    *("momentum", "grad_norm", "clip_coefficient"),
)


def numbers(values: list[Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def options_of(**arguments: Any) -> YellowFinOptions:
    optimizer = YellowFin([torch.nn.Parameter(torch.ones(1))], **arguments)
    return optimizer._tuner.options


@pytest.mark.parametrize("saved", SAVED["tuners"], ids=lambda saved: saved["name"])
class TestFormat4:
    def test_says_what_it_was_saved_with(self, saved: dict[str, Any]) -> None:
        options = options_of(**saved["arguments"])
        other = options_of(robust=not options.robust)  # of which a trained state tells nothing
        trained = saved["tuner"][FORMAT_4.index("step")] > 0.0
        state = upgraded(
            numbers(saved["tuner"]),
            numbers(saved["tuner_options"]),
            other if trained else options,
        )
        head = dict(zip(STATE_FIELDS, state.tolist()))
        assert head["format"] == 6.0
        for name in ("robust", "preconditioned", "polyak", "log_smooth"):
            assert head[name] == float(getattr(options, name)), name

    def test_tunes_as_it_did(self, saved: dict[str, Any]) -> None:
        options = options_of(**saved["arguments"])
        before = numbers(saved["tuner"])
        for backend in ("native", "torch"):
            if backend_of(backend, "cpu").unusable("cpu") is not None:
                continue
            state = upgraded(before, numbers(saved["tuner_options"]), options)
            backend_of(backend, "cpu").tune_yellowfin(
                options,
                numbers([SAVED["sums"]]),
                *(None, None, None),
                state,
                numbers([SAVED["group"]]),
                torch.zeros(1, len(YELLOWFIN.fields), dtype=torch.float64),
                torch.zeros(TILE + 1, dtype=torch.float64),
            )
            after = numbers(saved["after"])
            seen = dict(zip(STATE_FIELDS, state.tolist()))
            if options.preconditioned:  # there were no such factors
                assert seen["metric_scale"] > 0.0
                seen["lr"] /= STRETCH * (seen["metric_scale"] if seen["step"] > 1.0 else 1.0)
            for name, value in zip(FORMAT_4[1:], after.tolist()[1:]):
                assert seen[name] == pytest.approx(value, rel=1e-12, abs=1e-15), (backend, name)
            assert_allclose(state[len(STATE_FIELDS) :], after[len(FORMAT_4) :], rtol=1e-12)
        assert torch.equal(before, numbers(saved["tuner"])), "it was changed in place"


def test_options_that_were_not_saved_are_those_of_the_reader() -> None:
    saved = SAVED["tuners"][0]
    options = options_of(**saved["arguments"], log_smooth=False, momentum_form="polyak")
    state = upgraded(numbers(saved["tuner"]), None, options)
    head = dict(zip(STATE_FIELDS, state.tolist()))
    assert (head["log_smooth"], head["polyak"]) == (0.0, 1.0)


def test_the_sketch_goes_along() -> None:
    options = options_of(robust=False, variance="sketch", window=3)
    rest = torch.arange(3.0 + TILE, dtype=torch.float64)
    old = torch.cat([numbers([4.0, 7.0] + [0.5] * (len(FORMAT_4) - 2)), rest])
    state = upgraded(old, numbers([1.0, 0.0]), options)
    assert state.shape == (options.state_words,)
    assert torch.equal(state[len(STATE_FIELDS) :], rest)


@pytest.mark.parametrize("state", [[5.0] + [0.5] * 60, [3.0] * 60, [4.0], []], ids=len)
def test_what_is_no_such_state_is_left_alone(state: list[float]) -> None:
    given = numbers(state)
    assert upgraded(given, None, options_of()) is given


def trained_optimizer(**options: Any) -> YellowFin:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = YellowFin([p], **options)
    p.grad = torch.ones(3)
    optimizer.step()
    return optimizer


def test_a_state_may_lack_the_last_diagnostics() -> None:
    """As one does that was saved before they were added."""
    before = trained_optimizer(window=7)
    saved = before.state_dict()
    tuner = saved["param_groups"][0]["tuner"]
    end = len(STATE_FIELDS)
    saved["param_groups"][0]["tuner"] = torch.cat(
        [tuner[:1], numbers([end - 2]), tuner[2 : end - 2], tuner[end:]]
    )
    after = trained_optimizer(window=7)
    after.load_state_dict(saved)
    loaded = after.param_groups[0]["tuner"]
    assert torch.equal(loaded[: end - 2], tuner[: end - 2])  # with the number of words
    assert torch.equal(loaded[end:], tuner[end:])
    assert STATE_FIELDS[end - 2 : end] == ("clip_coefficient", "unit")
    assert loaded[end - 2] == 0.0
    assert loaded[end - 1] == pytest.approx(float(tuner[end - 1]), rel=1e-12)


@pytest.mark.parametrize("says_its_length", [True, False])
def test_format_5_had_no_scale_of_the_metric(says_its_length: bool) -> None:
    """And the first states of it did not say how long their head is."""
    before = trained_optimizer(window=7)
    saved = before.state_dict()
    tuner = saved["param_groups"][0]["tuner"]
    place, end = STATE_FIELDS.index("relative_sq_avg"), len(STATE_FIELDS)
    assert STATE_FIELDS[end - 1] == "unit"
    kept = (tuner[2:place], tuner[place + 4 : end - 1], tuner[end:])
    old = torch.cat([numbers([5.0, 34.0]), *kept])
    saved["param_groups"][0]["tuner"] = old if says_its_length else torch.cat([old[:1], old[2:]])
    after = trained_optimizer(window=7)
    after.load_state_dict(saved)
    loaded = after.param_groups[0]["tuner"]
    assert STATE_FIELDS[place + 3] == "unread_walk"
    assert loaded[place + 3] == 0.0  # of one step, which was not lengthened
    tuner[place + 3] = 0.0
    assert_allclose(loaded, tuner, rtol=1e-12)  # for the rest both are after one step as at first


def test_a_shorter_window_is_no_shorter_head() -> None:
    saved = trained_optimizer(window=7).state_dict()
    with pytest.raises(RuntimeError, match="window=8"):
        trained_optimizer(window=8).load_state_dict(saved)
