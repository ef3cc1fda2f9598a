"""The rungs: a language model of some size, a batch size and a number of steps; cheapest first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from yfkernels.lab.workloads.text import TextTask, text_lstm, text_transformer


@dataclass(frozen=True)
class Model:
    """A size.

    Attributes:
        build: makes the task.
        millions: of parameters, about.
        seconds: of a step with AdamW on one core, by the windows in a batch.
    """

    build: Callable[[], TextTask]
    millions: float
    seconds: Mapping[int, float]


def _transformer(width: int) -> Callable[[], TextTask]:
    """Four layers: twice the width is four times the parameters."""
    return partial(text_transformer, width, 4)


MODELS: dict[str, Model] = {
    "lstm-0.12M": Model(text_lstm, 0.12, {8: 0.007, 32: 0.021, 128: 0.078}),
    "lstm-0.8M": Model(partial(text_lstm, 400), 0.8, {8: 0.044, 32: 0.123, 128: 0.554}),
    "transformer-0.2M": Model(_transformer(64), 0.2, {8: 0.014, 32: 0.048, 128: 0.20}),
    "transformer-0.8M": Model(_transformer(128), 0.8, {8: 0.044, 32: 0.126, 128: 0.618}),
    "transformer-3.2M": Model(_transformer(256), 3.2, {8: 0.105, 32: 0.40, 128: 1.98}),
    "transformer-12.8M": Model(_transformer(512), 12.8, {8: 0.35, 32: 1.47, 128: 6.3}),
}
STEPS = (1000, 4000)


@dataclass(frozen=True)
class Rung:
    """A training that every contestant does.

    Attributes:
        model: one of `MODELS`.
        batch_size: windows a step.
        steps: of the training.
    """

    model: str
    batch_size: int
    steps: int

    @property
    def name(self) -> str:
        """Of the task."""
        return f"ladder-{self.model}-b{self.batch_size}-{self.steps}"

    @property
    def seconds(self) -> float:
        """Of the steps of one training with AdamW, on one core."""
        return self.steps * MODELS[self.model].seconds[self.batch_size]

    def build(self) -> TextTask:
        """The task."""
        return MODELS[self.model].build().with_batch_size(self.batch_size)


# In this order, so that a campaign that is stopped has whole rungs.
RUNGS = sorted(
    (
        Rung(name, batch_size, steps)
        for name, model in MODELS.items()
        for batch_size in model.seconds
        for steps in STEPS
    ),
    key=lambda rung: rung.seconds,
)
