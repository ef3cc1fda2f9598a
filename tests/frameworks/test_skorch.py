"""skorch: a net that is saved and loaded fits on bit for bit, and its own lr gets a warning."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from support.resume import (
    BATCH,
    EPOCH,
    EQUALS,
    IN_FRAMEWORKS,
    STEPS,
    Build,
    Snapshot,
    assert_close,
    assert_resumes,
    make_model,
    samples,
    snapshot,
)

import yfkernels

skorch = pytest.importorskip(
    "skorch", reason="skorch is not installed; `make test-frameworks` installs it"
)


def make_net(build: Any, **options: Any) -> Any:
    chosen = {
        "batch_size": BATCH,
        "train_split": None,
        "iterator_train__shuffle": False,
        "verbose": 0,
        **options,
    }
    return skorch.NeuralNetRegressor(make_model, optimizer=build, **chosen)


def files(folder: Path) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    names = ("f_params", "f_optimizer", "f_history")
    return {name: str(folder / name) for name in names}


def run(
    build: Build, *, until: int = STEPS, save: Path | None = None, load: Path | None = None
) -> Snapshot:
    """skorch hands an optimizer an lr whatever happens: `build` has one of its own."""
    net = make_net(lambda params, lr: build(params)).initialize()
    if load is not None:
        net.load_params(**files(load))
    x, y = samples(EPOCH)
    net.partial_fit(x.numpy(), y.numpy(), epochs=until // EPOCH - len(net.history))
    if save is not None:
        net.save_params(**files(save))
    return snapshot(net.module_, net.optimizer_)


@pytest.mark.parametrize("name", IN_FRAMEWORKS)
def test_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    assert_resumes(run, IN_FRAMEWORKS[name], tmp_path)


@pytest.mark.parametrize("name", EQUALS)
def test_equals_torch(name: str) -> None:
    ours, theirs = map(run, EQUALS[name])
    assert_close(ours, theirs)


def fit(**options: Any) -> Any:
    x, y = samples(EPOCH)
    net = make_net(yfkernels.YellowFin, max_epochs=2, **options)
    return net.fit(x.numpy(), y.numpy())


def test_default_lr_gets_a_warning() -> None:
    """0.01, which is what skorch passes unless it is told otherwise."""
    with pytest.warns(UserWarning, match="lr=0.01"):
        fit()


def test_lr_of_one_gets_none() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*lr")
        assert fit(lr=1.0).optimizer_.diagnostics()["step"] == 2 * EPOCH
