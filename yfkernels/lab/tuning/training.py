"""A training whose learning rate is tuned: its steps, its record, and its whole state."""

from __future__ import annotations

import math
from typing import Any

from yfkernels.lab.tuning.bases import build_base
from yfkernels.lab.tuning.checkpoint import random_states, seed_all, set_random_states
from yfkernels.lab.tuning.methods import build_method
from yfkernels.lab.tuning.options import Options
from yfkernels.lab.workloads.examples import ExamplesTask

ROWS = 1000  # about, besides one an epoch
EVALUATIONS = ("train_loss", "validation_loss", "validation_accuracy", "test_accuracy")

Row = dict[str, float | None]


class Training:
    """One run of `yfkernels tune`.

    Validation examples are split off the training examples; the test examples are looked at after
    every epoch, and nothing depends on what is seen there.

    Args:
        options: how to train.
        task: what to train, as `datasets.build_task` makes it.

    Attributes:
        task: trains on what is left, evaluates on the validation examples.
        tested: the task as it was, for its test examples.
        steps_per_epoch, total_steps: lengths.
        step: number of steps taken.
        rows: the record, see `take_step`.

    Raises:
        OptionError, ValueError: as `build_base` and `build_method` do; a batch too large.
    """

    def __init__(self, options: Options, task: ExamplesTask) -> None:
        self.options = options
        self.task, self.tested = task.held_out(), task
        self.steps_per_epoch = self.task.training_size // self.task.batch_size
        self.total_steps = options.num_epoch * self.steps_per_epoch
        self.model = task.model(options.seed)
        self.optimizer = build_base(
            options.optimizer,
            self.model,
            lr=options.lr,
            momentum=options.momentum,
            wd=options.wd,
        )
        self.method = build_method(
            options.method,
            self.optimizer,
            total_steps=self.total_steps,
            hyper_lr=options.hyper_lr,
            alpha=options.alpha,
            mu=options.mu,
            grad_clipping=options.grad_clipping,
        )
        self.step = 0
        self.rows: list[Row] = []
        self._record_every = math.ceil(self.total_steps / ROWS)
        self._loss_sum = 0.0  # of the epoch so far
        self._batches = self.task.batches(options.seed)
        self._validation_batches = self.task.test_batches(options.seed)

    def begin(self) -> None:
        """Seeds what the model draws in training."""
        seed_all(self.options.seed)

    def take_step(self) -> None:
        """Trains on one batch, and records a row where one is due.

        A row has `step`, `epoch` (from 1), `loss` (of the batch, before the step) and what the
        method has come to: `lr`, `mu`, `hyper_lr`. At the end of an epoch also `train_loss` (mean
        over its steps), `validation_loss`, `validation_accuracy` and `test_accuracy` (0 to 1).
        What there is not is None.
        """
        batch, validation = next(self._batches), next(self._validation_batches)
        loss = self.method.step(
            lambda: self.task.loss(self.model, batch),
            lambda: self.task.loss(self.model, validation),
        ).item()
        self.step += 1
        self._loss_sum += loss
        if self.epoch_ended or self.step % self._record_every == 0:
            self.rows.append(self._row(loss))
        if self.epoch_ended:
            self._loss_sum = 0.0

    @property
    def epoch_ended(self) -> bool:
        """Whether the last step was the last of its epoch."""
        return self.step > 0 and self.step % self.steps_per_epoch == 0

    def _row(self, loss: float) -> Row:
        found = self.method.diagnostics()
        row: Row = {
            "step": self.step,
            "epoch": math.ceil(self.step / self.steps_per_epoch),
            "loss": loss,
            **{name: None if math.isnan(value) else value for name, value in found.items()},
            **dict.fromkeys(EVALUATIONS),
        }
        if self.epoch_ended:
            validation = self.task.evaluate(self.model)
            row["train_loss"] = self._loss_sum / self.steps_per_epoch
            row["validation_loss"] = validation.loss
            row["validation_accuracy"] = validation.accuracy
            row["test_accuracy"] = self.tested.evaluate(self.model).accuracy
        return row

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on, the random states of the process included."""
        return {
            "model": self.model.state_dict(),
            "method": self.method.state_dict(),
            "batches": self._batches.state_dict(),
            "validation_batches": self._validation_batches.state_dict(),
            "random": random_states(),
            "step": self.step,
            "loss_sum": self._loss_sum,
            "rows": self.rows,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where a training with the same options stopped, bit for bit."""
        self.model.load_state_dict(state_dict["model"])
        self.method.load_state_dict(state_dict["method"])
        self._batches.load_state_dict(state_dict["batches"])
        self._validation_batches.load_state_dict(state_dict["validation_batches"])
        set_random_states(state_dict["random"])
        self.step, self._loss_sum = state_dict["step"], state_dict["loss_sum"]
        self.rows = state_dict["rows"]
