"""Hugging Face's Trainer: resume_from_checkpoint goes on bit for bit, with every optimizer."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support.cases import assert_same_bits
from support.resume import (
    BATCH,
    CUT,
    EQUALS,
    IN_FRAMEWORKS,
    OURS,
    STEPS,
    Build,
    Snapshot,
    assert_close,
    assert_resumes,
    decaying,
    make_model,
    samples,
    snapshot,
    train,
)
from torch import Tensor, nn

import yfkernels

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed; `make test-frameworks` installs it"
)
pytest.importorskip(
    "accelerate", reason="accelerate is not installed; `make test-frameworks` installs it"
)


class Model(nn.Module):
    """Returns its loss, as the Trainer wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = make_model()

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        outputs = self.net(inputs)
        return {"loss": nn.functional.mse_loss(outputs, labels), "logits": outputs}


class StopAt(transformers.TrainerCallback):
    """Cuts the training as a crash would: the schedule is still that of the whole run."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        control.should_training_stop |= state.global_step >= self.step


def make_trainer(folder: Path, model: nn.Module, **options: Any) -> Any:
    names = ("optimizers", "optimizer_cls_and_kwargs", "callbacks")
    handed_in = {name: options.pop(name) for name in names if name in options}
    chosen = {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "save_strategy": "no",
        **options,
    }
    dataset = [{"inputs": x, "labels": y} for x, y in zip(*samples())]
    arguments = transformers.TrainingArguments(**chosen)
    return transformers.Trainer(model, arguments, train_dataset=dataset, **handed_in)


def constant(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


def run(
    build: Build,
    *,
    until: int = STEPS,
    save: Path | None = None,
    load: Path | None = None,
    folder: Path,
    schedule: Any = None,
    **options: Any,
) -> Snapshot:
    """Trains; without a schedule handed in, the Trainer decays the learning rate linearly."""
    model = Model()
    optimizer = build(model.parameters())
    trainer = make_trainer(
        save or load or folder,
        model,
        optimizers=(optimizer, schedule and schedule(optimizer)),
        callbacks=[StopAt(until)],
        **({"save_strategy": "steps", "save_steps": until} if save else {}),
        **options,
    )
    trainer.train(resume_from_checkpoint=load is not None)
    assert trainer.state.global_step == until
    return snapshot(model, optimizer)


@pytest.mark.parametrize("schedule", [None, constant], ids=["linear", "constant"])
@pytest.mark.parametrize("name", IN_FRAMEWORKS)
def test_resumes_bit_for_bit(name: str, schedule: Any, tmp_path: Path) -> None:
    train = partial(run, folder=tmp_path / "whole", schedule=schedule)
    assert_resumes(train, IN_FRAMEWORKS[name], tmp_path / "cut")


@pytest.mark.parametrize("name", ["AdamW", "YellowFin", "LAMB", "QHM", "QHAdam"])
def test_resumes_in_mixed_precision_with_accumulation(name: str, tmp_path: Path) -> None:
    options = {"bf16": True, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}
    train = partial(run, folder=tmp_path / "whole", **options)
    assert_resumes(train, IN_FRAMEWORKS[name], tmp_path / "cut")


@pytest.mark.parametrize("max_norm", [None, 0.05])
def test_arguments_leave_schedule_and_clip_to_yellowfin(
    max_norm: float | None, tmp_path: Path
) -> None:
    """With TRAINING_ARGUMENTS the Trainer takes the very steps of a plain loop."""
    from yfkernels.integrations.transformers import TRAINING_ARGUMENTS

    options = {"max_norm": max_norm}
    model, alone = Model(), Model()
    trainer = make_trainer(
        tmp_path,
        model,
        optimizer_cls_and_kwargs=(yfkernels.YellowFin, options),
        train_sampling_strategy="sequential",
        **TRAINING_ARGUMENTS,
    )
    trainer.train()
    optimizer = yfkernels.YellowFin(decaying(alone.net), **options)
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0  # as the Trainer has it
    train(alone.net, optimizer, range(STEPS))
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {1.0}
    ours, theirs = snapshot(alone.net, optimizer), snapshot(model.net, trainer.optimizer.optimizer)
    for what in ("parameters", "diagnostics"):
        assert_same_bits(theirs[what], ours[what])


@pytest.mark.parametrize("name", EQUALS)
def test_equals_torch(name: str, tmp_path: Path) -> None:
    """The Trainer clips gradients to a norm of one; here it bites."""
    train = partial(run, folder=tmp_path, max_grad_norm=0.05)
    ours, theirs = map(train, EQUALS[name])
    assert_close(ours, theirs)


@pytest.mark.parametrize("name", OURS)
def test_is_built_by_the_trainer(name: str, tmp_path: Path) -> None:
    """The Trainer makes the groups, and sorts out what decays."""
    model = Model()
    before = [p.detach().clone() for p in model.parameters()]
    handed_in = (OURS[name].func, OURS[name].keywords)
    make_trainer(tmp_path, model, optimizer_cls_and_kwargs=handed_in, weight_decay=0.1).train()
    assert not any(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lamb_adapts_or_says_that_it_does_not(weight_decay: float, tmp_path: Path) -> None:
    """The Trainer writes its own weight_decay, 0 by default, into every group."""
    model = Model()
    handed_in = (yfkernels.LAMB, {"lr": 0.01})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = make_trainer(
            tmp_path, model, optimizer_cls_and_kwargs=handed_in, weight_decay=weight_decay
        )
        trainer.train()
    ratios = trainer.optimizer.optimizer.trust_ratios()
    adapts = any(ratio != 1.0 for ratio in ratios.values())
    warned = any("adapt" in str(warning.message) for warning in caught)
    assert adapts or (warned and not weight_decay)


@pytest.mark.parametrize("name", OURS)
def test_saves_what_torch_loads_as_weights_only(name: str, tmp_path: Path) -> None:
    run(OURS[name], until=CUT, save=tmp_path, folder=tmp_path)
    saved = torch.load(tmp_path / f"checkpoint-{CUT}" / "optimizer.pt", weights_only=True)
    assert saved.keys() == {"state", "param_groups"}


def test_the_log_tells_what_the_optimizer_did(tmp_path: Path) -> None:
    """Beside the loss, in the history and for every reporter."""
    from yfkernels.integrations.transformers import TRAINING_ARGUMENTS, log_with

    reported: list[dict[str, Any]] = []

    class Reporter(transformers.TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **rest: Any) -> None:
            reported.append(dict(logs))

    trainer = make_trainer(
        tmp_path,
        Model(),
        optimizer_cls_and_kwargs=(yfkernels.YellowFin, {}),
        callbacks=[Reporter()],
        logging_steps=2,
        **TRAINING_ARGUMENTS,
    )
    log_with(trainer)
    trainer.train()
    told = [logs for logs in reported if "loss" in logs]
    assert len(told) == STEPS // 2
    known = yfkernels.integrations.log_dict(trainer.optimizer, "optimizer/")
    assert {key: told[-1][key] for key in known} == known
    assert known["optimizer/lr"] > 0.0
    in_history = [logs for logs in trainer.state.log_history if "loss" in logs]
    assert all(known.keys() <= logs.keys() for logs in in_history)
    assert not any("optimizer/lr" in logs for logs in reported if "loss" not in logs)


def test_evaluates_with_the_average(tmp_path: Path) -> None:
    """As docs/guides/frameworks.md has it, through Accelerate's wrapper; it is taken out again."""
    from yfkernels.integrations import unwrapped
    from yfkernels.integrations.transformers import TRAINING_ARGUMENTS

    options = {"average": yfkernels.WeightAverage(power=1.0, every=1)}
    trainer = make_trainer(
        tmp_path,
        Model(),
        optimizer_cls_and_kwargs=(yfkernels.YellowFin, options),
        **TRAINING_ARGUMENTS,
    )
    trainer.train()
    raw = trainer.evaluate(trainer.train_dataset)["eval_loss"]
    optimizer = unwrapped(trainer.optimizer)
    assert optimizer.explain().startswith(f"YellowFin, {STEPS} steps taken")
    with optimizer.averaged():
        averaged = trainer.evaluate(trainer.train_dataset)["eval_loss"]
    assert averaged != raw
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] == raw
