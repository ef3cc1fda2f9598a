"""The server's side of an asynchronous run: what is trained, its record, its whole state."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from yfkernels.asynchronous import Batches, FlatBuffers, Record, Refusal, Server
from yfkernels.lab.asynchrony.optimizers import read_optimizer
from yfkernels.lab.asynchrony.options import Options, Task
from yfkernels.lab.asynchrony.readings import NAMES, readings_of
from yfkernels.lab.options import check_same
from yfkernels.lab.workloads.training import Evaluation

_AT_ONCE = 1000  # examples, where BatchNorm is measured
_HOPELESS = 50  # gradients in a row that are not finite

Row = dict[str, Any]
Loss = Callable[[Sequence[int] | None], Tensor]


def build_worker(task: Task, seed: int) -> tuple[nn.Module, Loss]:
    """A model, and its loss on the training examples of some indices."""
    model = task.model(seed)

    def loss(indices: Sequence[int] | None) -> Tensor:
        assert indices is not None
        return task.loss(model, task.examples(indices))

    return model, loss


def _still() -> float:
    """The time of a simulation, in which no worker is ever late."""
    return 0.0


class Training:
    """One run of `yfkernels async`, wherever its workers are.

    Args:
        options: completed.

    Attributes:
        task: what is trained.
        recipe: the optimizer's.
        model, loss: the server's own; a simulation takes its gradients there.
        server: the server.
        pushes_per_epoch, total_pushes: applied ones.
        rows: the record, see `record`.
        seconds, timed: time between pushes, and how many of those times it is the sum of; the one
            from an interruption to a resume is left out.

    Raises:
        OptionError: an option does not fit.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.task = options.build_task()
        self.recipe = read_optimizer(options.optimizer)
        assert options.batch_size is not None
        self.model, self.loss = build_worker(self.task, options.seed)
        self.server = Server(
            self.model,
            self.recipe.build(self.model),
            batches=Batches(
                self.task.training_size,
                options.batch_size,
                epochs=options.epochs,
                seed=options.seed,
                clock=_still if options.engine == "simulator" else time.monotonic,
            ),
            max_staleness=options.max_staleness,
            staleness_rule=options.build_rule(),
        )
        self.pushes_per_epoch = math.ceil(self.task.training_size / options.batch_size)
        epochs = options.epochs or 0
        self.total_pushes = options.pushes or epochs * self.pushes_per_epoch
        self.rows: list[Row] = []
        self.seconds, self.timed = 0.0, 0
        self._readings = readings_of(self.server)
        self._last: float | None = None  # when a push came
        self._broken = 0  # gradients in a row that were not finite

    def record(self, record: Record) -> None:
        """Writes down a push.

        A row has `step` (the server's version after it), `epoch` (from 1), `worker`, `loss` (at the
        parameters of the gradient), `staleness`, `applied`, `refusal`, and, if it was applied, what
        `readings.NAMES` lists. What there is not is None.
        """
        now = time.perf_counter()
        if self._last is not None:
            self.seconds += now - self._last
            self.timed += 1
        self._last = now
        self._broken = self._broken + 1 if record.refusal is Refusal.NONFINITE else 0
        found = self._readings.read(record.staleness) if record.applied else dict.fromkeys(NAMES)
        self.rows.append(
            {
                "step": record.step,
                "epoch": None if record.epoch is None else record.epoch + 1,
                "worker": record.worker,
                "loss": record.loss,
                "staleness": record.staleness,
                "applied": record.applied,
                "refusal": None if record.refusal is None else record.refusal.name.lower(),
                **found,
            }
        )

    @property
    def hopeless(self) -> bool:
        """Whether no gradient is finite any more."""
        return self._broken >= _HOPELESS

    @property
    def finished(self) -> bool:
        """Whether it came to its end."""
        batches, pushes = self.server.batches, self.options.pushes
        assert batches is not None
        enough = pushes is not None and self.server.version.number >= pushes
        return self.hopeless or enough or batches.finished

    def evaluate(self) -> Evaluation:
        """Loss and accuracy on the test set.

        Of a model of its own, which has the server's parameters. Every worker has kept BatchNorm's
        statistics for itself, and the server has none: they are measured here, at these parameters,
        on the training examples.
        """
        model = self.task.model(self.options.seed)
        FlatBuffers(model).copy_from(self.server.buffers.parameters)
        size = self.task.training_size
        parts = torch.arange(size).tensor_split(math.ceil(size / _AT_ONCE))
        update_bn((self.task.examples(part.tolist()) for part in parts), model)
        return self.task.evaluate(model)

    # ---- checkpoint, beside the server

    def state_dict(self) -> dict[str, Any]:
        """Its options, and what has been recorded."""
        return {
            "options": asdict(self.options),
            "rows": self.rows,
            "readings": self._readings.state_dict(),
            "seconds": self.seconds,
            "timed": self.timed,
            "broken": self._broken,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on where a training with the same options stopped.

        Raises:
            OptionError: it had others.
        """
        check_same(asdict(self.options), state_dict["options"])
        self.rows = list(state_dict["rows"])
        self._readings.load_state_dict(state_dict["readings"])
        self.seconds, self.timed = state_dict["seconds"], state_dict["timed"]
        self._broken = state_dict["broken"]
