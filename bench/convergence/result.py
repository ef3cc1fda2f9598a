"""What is kept of one training, and the identity it is found by."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

DIGITS = 4  # significant, of every number that is stored


@dataclass(frozen=True, order=True)
class Key:
    """What makes a training what it is. Two with the same key would give the same losses.

    Attributes:
        task: name of the task.
        steps: of the training.
        data: which data, where that depends on the machine.
        optimizer: name of the recipe.
        setting: its options in words.
        seed: of the weights and the batch order.
    """

    task: str
    steps: int
    data: str
    optimizer: str
    setting: str
    seed: int


@dataclass(frozen=True)
class TrainingResult:
    """How one training went. A number that is not finite is infinite here and null in the file.

    Attributes:
        key: what was trained.
        final_loss: mean batch loss over the last 5% of the steps.
        train_loss: on the training set as a whole, in evaluation mode.
        test_loss: on the test set, in evaluation mode.
        test_accuracy: fraction of correct predictions there; infinite where there are no classes.
        spikes: times the running loss rose above twice its minimum so far.
        long_spikes: those of them that lasted more than 50 steps.
        longest_spike: in steps.
        highest_spike: the running loss over its minimum so far, at most.
        diverged: the loss was not finite, or the running loss ten times the first.
        optimizer_us: median time of ``optimizer.step()``, in microseconds.
        seconds: processor time of the training, its average of the weights included.
        versions: of the packages, and the commit.
        trace: the running loss at the steps of `measures.sampled_steps`; empty in tuning.
        average_train_loss: as `train_loss`, with the average of the weights; this and the next two
            are None, and absent in the file, where none was kept.
        average_test_loss: as `test_loss`.
        average_test_accuracy: as `test_accuracy`.
    """

    key: Key
    final_loss: float
    train_loss: float
    test_loss: float
    test_accuracy: float
    spikes: int
    long_spikes: int
    longest_spike: int
    highest_spike: float
    diverged: bool
    optimizer_us: float
    seconds: float
    versions: str
    trace: tuple[float, ...] = ()
    average_train_loss: float | None = None
    average_test_loss: float | None = None
    average_test_accuracy: float | None = None

    @property
    def has_average(self) -> bool:
        """Whether an average of the weights was kept and measured."""
        return self.average_train_loss is not None

    def averaged(self) -> TrainingResult:
        """The same training, ending with the average of its weights.

        Its final loss is the one on the training set, for an average has no running loss. The
        course (trace, spikes, times) is still that of the training.

        Raises:
            ValueError: no average was measured.
        """
        loss, test, accuracy = (
            self.average_train_loss,
            self.average_test_loss,
            self.average_test_accuracy,
        )
        if loss is None or test is None or accuracy is None:
            raise ValueError(f"no average of the weights was measured for {self.key}")
        return replace(
            self, final_loss=loss, train_loss=loss, test_loss=test, test_accuracy=accuracy
        )

    def line(self) -> str:
        """One line of JSON, without its end."""
        row = {**asdict(self.key), **asdict(self)}
        del row["key"]
        known = {name: _short(value) for name, value in row.items() if value is not None}
        return json.dumps(known, allow_nan=False)

    @classmethod
    def parse(cls, line: str) -> TrainingResult:
        """Reads what `line` wrote.

        Raises:
            ValueError: it is no such line.
        """
        row = json.loads(line)
        try:
            key = Key(**{field.name: row.pop(field.name) for field in fields(Key)})
            row["trace"] = tuple(_number(value) for value in row["trace"])
            return cls(key, **{name: _number(value) for name, value in row.items()})
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a stored training: {line[:60]}... ({error})") from None


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return [_short(one) for one in value] if isinstance(value, tuple) else value


def _number(value: Any) -> Any:
    return math.inf if value is None else value
