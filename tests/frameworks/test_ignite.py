"""ignite: what the optimizer did is among the metrics, and its loggers write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.resume import batch, make_model
from torch import nn

import yfkernels

ignite = pytest.importorskip(
    "ignite", reason="ignite is not installed; `make test-frameworks` installs it"
)

from ignite.engine import Engine, Events  # noqa: E402
from ignite.handlers.tensorboard_logger import TensorboardLogger  # noqa: E402

from yfkernels.integrations import log_dict  # noqa: E402
from yfkernels.integrations.ignite import log_to_metrics  # noqa: E402


def trainer_of(optimizer: torch.optim.Optimizer, model: nn.Module) -> Any:
    def update(engine: Any, step: int) -> float:
        x, y = batch(step)
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return Engine(update)


def test_metrics_are_those_of_the_last_look() -> None:
    model = make_model()
    optimizer = yfkernels.YellowFin(model.parameters())
    trainer = trainer_of(optimizer, model)
    log_to_metrics(trainer, optimizer, every=2)
    seen = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda engine: seen.append((dict(engine.state.metrics), log_dict(optimizer, "optimizer/"))),
    )
    trainer.run(range(5))
    assert not seen[0][0]
    for look in (1, 3):
        assert seen[look][0] == seen[look][1]
        assert seen[look + 1][0] == seen[look][1], "a look is kept until the next"


def test_a_logger_writes_them(tmp_path: Path) -> None:
    pytest.importorskip(
        "tensorboard", reason="tensorboard is not installed; `make test-frameworks` installs it"
    )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = make_model()
    optimizer = yfkernels.QHAdam(model.parameters(), lr=0.01)
    trainer = trainer_of(optimizer, model)
    log_to_metrics(trainer, optimizer, every=2)
    with TensorboardLogger(log_dir=str(tmp_path)) as logger:
        event = Events.ITERATION_COMPLETED(every=2)
        logger.attach_output_handler(trainer, event, tag="training", metric_names="all")
        trainer.run(range(4))
    written = EventAccumulator(str(tmp_path)).Reload()
    rates = [event.value for event in written.Scalars("training/optimizer/lr")]
    assert rates == pytest.approx([0.01, 0.01])


def test_what_is_refused() -> None:
    trainer, sgd = Engine(lambda *_: None), torch.optim.SGD(make_model().parameters(), lr=0.1)
    with pytest.raises(TypeError, match="Invalid optimizer type: SGD"):
        log_to_metrics(trainer, sgd)
    ours = yfkernels.YellowFin(make_model().parameters())
    with pytest.raises(ValueError, match="Invalid every value: 0"):
        log_to_metrics(trainer, ours, every=0)
    assert not trainer.run(range(100)).metrics
