"""TensorBoard, W&B without a network and MLflow take `log_dict` in the one line that docs give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.resume import batch, make_model
from torch import nn

import yfkernels
from yfkernels.integrations import log_dict


@pytest.fixture
def optimizer() -> Any:
    model = make_model()
    optimizer = yfkernels.YellowFin(model.parameters())
    for step in range(3):
        x, y = batch(step)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
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
    reason = "wandb is not installed; it brings too much for `make test-frameworks`"
    wandb = pytest.importorskip("wandb", reason=reason)
    monkeypatch.setenv("WANDB_MODE", "offline")
    with wandb.init(project="yfkernels", dir=tmp_path) as run:
        run.log(log_dict(optimizer, "train/"))
        assert run.summary["train/lr"] == log_dict(optimizer)["lr"]


def test_mlflow(optimizer: Any, tmp_path: Path) -> None:
    reason = "mlflow is not installed; it brings too much for `make test-frameworks`"
    mlflow = pytest.importorskip("mlflow", reason=reason)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'runs.db'}")
    with mlflow.start_run() as run:
        mlflow.log_metrics(log_dict(optimizer), 3)
    assert mlflow.get_run(run.info.run_id).data.metrics == pytest.approx(log_dict(optimizer))
