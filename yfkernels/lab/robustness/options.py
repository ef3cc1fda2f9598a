"""What `yfkernels robustness` is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from yfkernels.lab.options import OptionError
from yfkernels.lab.robustness.contestants import CONTESTANTS
from yfkernels.lab.workloads.convex import quadratic
from yfkernels.lab.workloads.digits import digits_mlp
from yfkernels.lab.workloads.text import text_lstm
from yfkernels.lab.workloads.training import Task


@dataclass(frozen=True)
class Workload:
    """What is trained.

    Attributes:
        label: a short name for people.
        build: makes the task.
        steps: of a training, unless the user says otherwise.
        unit: of its loss.
    """

    label: str
    build: Callable[[], Task]
    steps: int
    unit: str = "cross entropy [nats]"


# Steps so that a training takes about a second.
WORKLOADS = {
    "quadratic": Workload("Quadratic", quadratic, 1000, unit="loss"),
    "digits-mlp": Workload("Digits, MLP", digits_mlp, 500),
    "text-lstm": Workload("Text, LSTM", lambda: text_lstm().with_batch_size(4), 150),
}


@dataclass(frozen=True)
class Options:
    """What is measured.

    Attributes:
        workload: names, of `WORKLOADS`; none for all of them.
        optimizer: names, of `CONTESTANTS`; the same.
        steps: of every training; None for what suits the workload.
        seeds: number of trainings at each wrong setting.
        threads: CPU threads for torch, on which the rounding of sums depends.

    Raises:
        OptionError: no such workload or optimizer.
    """

    workload: tuple[str, ...] = ()
    optimizer: tuple[str, ...] = ()
    steps: int | None = None
    seeds: int = 3
    threads: int = 1

    def __post_init__(self) -> None:
        for option, choices in (("workload", WORKLOADS), ("optimizer", CONTESTANTS)):
            for name in getattr(self, option):
                if name not in choices:
                    raise OptionError(option, name, f"choose from {', '.join(choices)}")

    @property
    def workloads(self) -> list[str]:
        """Those that are meant, each once, in the order of `WORKLOADS`."""
        return [name for name in WORKLOADS if name in (self.workload or WORKLOADS)]

    @property
    def optimizers(self) -> list[str]:
        """The same of the optimizers."""
        return [name for name in CONTESTANTS if name in (self.optimizer or CONTESTANTS)]

    def steps_of(self, workload: str) -> int:
        """Length of a training."""
        return self.steps or WORKLOADS[workload].steps
