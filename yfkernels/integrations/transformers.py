"""For the Trainer of transformers: what the optimizer did, in its logs.

Call `log_with` between construction and training:

    trainer = Trainer(model, TrainingArguments(..., **TRAINING_ARGUMENTS), train_dataset=data,
                      optimizer_cls_and_kwargs=(YellowFin, {}))
    log_with(trainer)
    trainer.train()
"""

from __future__ import annotations

from typing import Any

from yfkernels.integrations._optional import required
from yfkernels.integrations.log_dict import log_dict

transformers = required("transformers")

TRAINING_ARGUMENTS = {"lr_scheduler_type": "constant", "max_grad_norm": 0.0}
"""What suits YellowFin: no schedule, and no clip but its own, ``max_norm=1.0`` say."""


class LogCallback(transformers.TrainerCallback):  # type: ignore[misc,name-defined]
    """Puts `log_dict` of the Trainer's optimizer into each of its training logs.

    Callbacks see a log one after the other; `log_with` gives this one the first place.

    Args:
        prefix: of every key; not ``train_`` or ``eval_``, which the Trainer sorts by.
    """

    def __init__(self, prefix: str = "optimizer/") -> None:
        self.prefix = prefix

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: dict[str, Any] | None = None,
        optimizer: Any = None,
        **rest: Any,
    ) -> None:
        """Called by the Trainer. Logs without a training loss, of an evaluation say, stay."""
        if logs is None or "loss" not in logs or optimizer is None:
            return
        seen = log_dict(optimizer, self.prefix)
        logs.update(seen)
        state.log_history[-1].update(seen)  # it has a copy


def log_with(trainer: Any, prefix: str = "optimizer/") -> None:
    """Adds a `LogCallback` to a Trainer, before those that report to TensorBoard and others."""
    trainer.callback_handler.callbacks.insert(0, LogCallback(prefix))
