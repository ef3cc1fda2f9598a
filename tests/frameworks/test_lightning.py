"""Lightning: fit resumes from a checkpoint bit for bit, clips in every precision, logs momentum."""

from __future__ import annotations

import csv
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support.resume import (
    BATCH,
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
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

lightning = pytest.importorskip(
    "lightning.pytorch", reason="lightning is not installed; `make test-frameworks` installs it"
)

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and devices

PRECISIONS = ("32-true", "bf16-mixed")
CLIP = 1.0


class Module(lightning.LightningModule):
    """Regression with a schedule that steps after every batch."""

    def __init__(self, build: Build) -> None:
        super().__init__()
        self.build = build
        self.net = make_model()

    def configure_optimizers(self) -> Any:
        optimizer = self.build(self.net.parameters())
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 1.0 / (1.0 + 0.1 * step)
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return nn.functional.mse_loss(self.net(x.to(self.dtype)).float(), y)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        return self.loss(batch)


class ManualModule(Module):
    """The same, and the module calls backward, clip and step itself."""

    def __init__(self, build: Build) -> None:
        super().__init__(build)
        self.automatic_optimization = False

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = self.loss(batch)
        self.manual_backward(loss)
        self.clip_gradients(optimizer, gradient_clip_val=CLIP, gradient_clip_algorithm="norm")
        optimizer.step()
        self.lr_schedulers().step()
        return loss


def make_trainer(folder: Path, **options: Any) -> Any:
    chosen = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
        **options,
    }
    return lightning.Trainer(**chosen)


def batches() -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(*samples(EPOCH)), batch_size=BATCH)


def fit(
    folder: Path,
    build: Build,
    *,
    until: int = STEPS,
    save: Path | None = None,
    load: Path | None = None,
    make_module: type[Module] = Module,
    **options: Any,
) -> Snapshot:
    module = make_module(build)
    trainer = make_trainer(folder, max_epochs=until // EPOCH, **options)
    trainer.fit(module, batches(), ckpt_path=load and load / "last.ckpt")
    assert trainer.global_step == until
    if save is not None:
        trainer.save_checkpoint(save / "last.ckpt")
    return snapshot(module.net, trainer.optimizers[0])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", IN_FRAMEWORKS)
def test_resumes_bit_for_bit(name: str, precision: str, tmp_path: Path) -> None:
    train = partial(fit, tmp_path, precision=precision, gradient_clip_val=CLIP)
    assert_resumes(train, IN_FRAMEWORKS[name], tmp_path)


@pytest.mark.parametrize("name", ["SGD", "YellowFin", "YellowFin-robust", "LAMB", "QHM", "QHAdam"])
def test_resumes_parameters_in_half_precision(name: str, tmp_path: Path) -> None:
    assert_resumes(partial(fit, tmp_path, precision="bf16-true"), IN_FRAMEWORKS[name], tmp_path)


@pytest.mark.parametrize("name", ["AdamW", "YellowFin", "LAMB", "QHM", "QHAdam"])
def test_resumes_under_manual_optimization(name: str, tmp_path: Path) -> None:
    train = partial(fit, tmp_path, precision="bf16-mixed", make_module=ManualModule)
    assert_resumes(train, IN_FRAMEWORKS[name], tmp_path)


@pytest.mark.parametrize("clip", [0.05, None], ids=["clipped", "unclipped"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", EQUALS)
def test_equals_torch(name: str, precision: str, clip: float | None, tmp_path: Path) -> None:
    """With a clip that bites, too: the gradients that arrive are those that torch's get."""
    ours, theirs = (
        fit(tmp_path, build, precision=precision, gradient_clip_val=clip) for build in EQUALS[name]
    )
    assert_close(ours, theirs)


@pytest.mark.parametrize("name", OURS)
def test_monitor_logs_what_the_steps_use(name: str, tmp_path: Path) -> None:
    """QHM has an average and no momentum: there Lightning logs 0."""
    monitor = lightning.callbacks.LearningRateMonitor("step", log_momentum=True)
    logger = lightning.loggers.CSVLogger(tmp_path)
    fit(tmp_path, OURS[name], callbacks=[monitor], logger=logger, log_every_n_steps=1)
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    column = next(title for title in rows[0] if title.endswith("momentum"))
    logged = [float(row[column]) for row in rows if row[column]]
    assert len(logged) == STEPS
    assert all(0.0 < momentum < 1.0 for momentum in logged[4:]) != name.startswith("QHM")


@pytest.mark.parametrize("name", OURS)
def test_clips_without_a_warning(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="yfkernels")
        fit(tmp_path, OURS[name], precision="bf16-mixed", gradient_clip_val=CLIP)


def test_the_log_tells_what_the_optimizers_did(tmp_path: Path) -> None:
    from yfkernels.integrations import log_dict
    from yfkernels.integrations.lightning import LogOptimizers

    seen: list[dict[str, float]] = []

    class Watched(Module):
        def log_dict(self, values: Any, *rest: Any, **options: Any) -> None:
            seen.append(dict(values))
            super().log_dict(values, *rest, **options)

    module = Watched(OURS["YellowFin"])
    trainer = make_trainer(
        tmp_path, max_epochs=1, callbacks=[LogOptimizers("opt/")], log_every_n_steps=2
    )
    trainer.fit(module, batches())
    assert len(seen) == EPOCH // 2
    assert seen[-1].keys() == log_dict(trainer.optimizers[0], "opt/").keys()
    assert seen[-1]["opt/lr"] > 0.0
    assert float(trainer.callback_metrics["opt/lr"]) == pytest.approx(seen[-1]["opt/lr"])


@pytest.mark.parametrize("every", [0, 1, 2])
def test_a_logger_writes_what_the_optimizers_did(every: int, tmp_path: Path) -> None:
    """In the steps in which the Trainer logs: never, every, every second."""
    from yfkernels.integrations.lightning import LogOptimizers

    logger = lightning.loggers.CSVLogger(tmp_path)
    options = {"callbacks": [LogOptimizers()], "logger": logger, "log_every_n_steps": every}
    fit(tmp_path, OURS["YellowFin"], **options)
    written = Path(logger.log_dir) / "metrics.csv"
    steps = []
    if written.exists():
        with written.open() as file:
            rows = list(csv.DictReader(file))
        steps = [int(row["step"]) for row in rows if row["optimizer/lr"]]
    assert steps == (list(range(every - 1, STEPS, every)) if every else [])


class TwoOptimizers(ManualModule):
    """The optimizer of another package for the last layer."""

    def configure_optimizers(self) -> Any:
        ours = self.build(self.net[:2].parameters())
        return [torch.optim.AdamW(self.net[2].parameters()), ours]

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        loss = self.loss(batch)
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
        return loss


def test_an_optimizer_of_another_package_is_left_out_of_the_log(tmp_path: Path) -> None:
    from yfkernels.integrations.lightning import LogOptimizers

    options = {"max_epochs": 1, "callbacks": [LogOptimizers()], "log_every_n_steps": 1}
    trainer = make_trainer(tmp_path, **options)
    trainer.fit(TwoOptimizers(OURS["YellowFin"]), batches())
    logged = {key for key in trainer.callback_metrics if key.startswith("optimizer/")}
    assert "optimizer/1/lr" in logged
    assert all(key.startswith("optimizer/1/") for key in logged)
    with pytest.raises(TypeError, match="Invalid optimizers for LogOptimizers: SGD; return"):
        make_trainer(tmp_path, **options).fit(Module(IN_FRAMEWORKS["SGD"]), batches())
