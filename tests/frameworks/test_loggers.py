"""TensorBoard, W&B without a network and MLflow take `log_dict` in the one line that docs give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.resume import STEPS, decaying, make_model, train

import yfkernels
from yfkernels.integrations import log_dict

TOO_MUCH = "{} is not installed; it brings too much for `make test-frameworks`"


@pytest.fixture
def optimizer() -> Any:
    model = make_model()
    optimizer = yfkernels.YellowFin(model.parameters())
    train(model, optimizer, range(3))
    return optimizer


def test_tensorboard(optimizer: Any, tmp_path: Path) -> None:
    pytest.importorskip(
        "tensorboard", reason="tensorboard is not installed; `make test-frameworks` installs it"
    )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        for name, value in log_dict(optimizer).items():
            writer.add_scalar(name, value, 3)
    written = EventAccumulator(str(tmp_path)).Reload()
    for name, value in log_dict(optimizer).items():
        (event,) = written.Scalars(name)
        assert event.step == 3
        assert event.value == pytest.approx(value, rel=1e-6)


def test_wandb(optimizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason=TOO_MUCH.format("wandb"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    with wandb.init(project="yfkernels", dir=tmp_path) as run:
        run.log(log_dict(optimizer, "train/"))
        assert run.summary["train/lr"] == log_dict(optimizer)["lr"]


def mlflow_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow with its store of files, all that mlflow-skinny has without a server."""
    mlflow = pytest.importorskip("mlflow", reason=TOO_MUCH.format("mlflow"))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((folder / "runs").as_uri())
    return mlflow


def test_mlflow(optimizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = mlflow_in(tmp_path, monkeypatch)
    with mlflow.start_run() as run:
        mlflow.log_metrics(log_dict(optimizer), 3)
    assert mlflow.get_run(run.info.run_id).data.metrics == pytest.approx(log_dict(optimizer))


def test_mlflow_with_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its store of files cannot hold both lr and lr/0."""
    mlflow = mlflow_in(tmp_path, monkeypatch)
    model = make_model()
    optimizer = yfkernels.YellowFin(decaying(model), tune="group")
    with mlflow.start_run() as run:
        for step in range(STEPS):
            train(model, optimizer, range(step, step + 1))
            mlflow.log_metrics(log_dict(optimizer), step)
    assert mlflow.get_run(run.info.run_id).data.metrics == pytest.approx(log_dict(optimizer))
