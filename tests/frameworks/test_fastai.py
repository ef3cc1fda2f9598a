"""fastai: a learner that is saved and loaded fits on bit for bit, though it writes into groups."""

from __future__ import annotations

import warnings
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from support.resume import (
    BATCH,
    CUT,
    EPOCH,
    EQUALS,
    IN_FRAMEWORKS,
    OURS,
    STEPS,
    Build,
    Snapshot,
    assert_close,
    assert_resumes,
    make_model,
    samples,
    snapshot,
)
from torch import nn

import yfkernels
from yfkernels.integrations import log_dict

learner = pytest.importorskip(
    "fastai.learner", reason="fastai is not installed; `make test-frameworks` installs it"
)

import_module("fastai.callback.schedule")  # adds methods to learners

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")


def make_learner(build: Build, folder: Path) -> Any:
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.optimizer import OptimWrapper

    data = DataLoader(list(zip(*samples(EPOCH))), bs=BATCH, shuffle=False)
    return learner.Learner(
        DataLoaders(data, data),
        make_model(),
        loss_func=nn.MSELoss(),
        opt_func=partial(OptimWrapper, opt=build),
        path=folder,
    )


def own_lr(build: Any) -> float:
    return build.keywords.get("lr", 1.0)


def run(
    build: Any, *, until: int = STEPS, save: Path | None = None, load: Path | None = None
) -> Snapshot:
    """One fit an epoch, as in a notebook: each writes its learning rate into the groups."""
    learn = make_learner(build, save or load or Path())
    if load is not None:
        learn.load("last", with_opt=True)
    with learn.no_bar(), learn.no_logging():
        for _ in range(0 if load is None else CUT, until, EPOCH):
            learn.fit(1, lr=own_lr(build))
    if save is not None:
        learn.save("last", with_opt=True)
    return snapshot(learn.model, learn.opt.opt)


@pytest.mark.parametrize("name", IN_FRAMEWORKS)
def test_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    assert_resumes(run, IN_FRAMEWORKS[name], tmp_path)


def test_equals_torch() -> None:
    """Not SGD: fastai writes one learning rate into both, and QHM's is in another unit."""
    ours, theirs = map(run, EQUALS["Adam"])
    assert_close(ours, theirs)


@pytest.mark.parametrize("name", IN_FRAMEWORKS)
def test_schedules_run(name: str, tmp_path: Path) -> None:
    """One that sets the learning rate and, where there is a momentum to set, one for both."""
    learn = make_learner(IN_FRAMEWORKS[name], tmp_path)
    with learn.no_bar(), learn.no_logging():
        learn.fit_flat_cos(2, lr=own_lr(IN_FRAMEWORKS[name]))
        if "mom" in learn.opt.hypers[0]:
            learn.fit_one_cycle(2, lr_max=own_lr(IN_FRAMEWORKS[name]))


@pytest.mark.parametrize("name", ["SGD", "YellowFin", "LAMB", "QHM", "QHAdam"])
def test_cleared_state_starts_again(name: str, tmp_path: Path) -> None:
    """After `clear_state` come the first steps of a new optimizer."""
    build = IN_FRAMEWORKS[name]
    learn, other = make_learner(build, tmp_path), make_learner(build, tmp_path)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, lr=own_lr(build))
        learn.opt.clear_state()
        other.model.load_state_dict(learn.model.state_dict())
        learn.fit(1, lr=own_lr(build))
    with other.no_bar(), other.no_logging():
        other.fit(1, lr=own_lr(build))
    assert_close(snapshot(learn.model, learn.opt.opt), snapshot(other.model, other.opt.opt))


@pytest.mark.parametrize("name", OURS)
def test_is_logged(name: str, tmp_path: Path) -> None:
    """From inside what fastai has put around it."""
    learn = make_learner(OURS[name], tmp_path)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, lr=own_lr(OURS[name]))
    assert log_dict(learn.opt) == log_dict(learn.opt.opt) != {}


def test_default_lr_gets_a_warning(tmp_path: Path) -> None:
    """0.001, which is what fastai writes unless it is told otherwise."""
    learn = make_learner(yfkernels.YellowFin, tmp_path)
    with learn.no_bar(), learn.no_logging(), pytest.warns(UserWarning, match="lr=0.001"):
        learn.fit(2)


def test_lr_of_one_gets_none(tmp_path: Path) -> None:
    learn = make_learner(yfkernels.YellowFin, tmp_path)
    with learn.no_bar(), learn.no_logging(), warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*lr")
        learn.fit(2, lr=1.0)
