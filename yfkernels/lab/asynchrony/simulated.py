"""A run on the simulator: one process, and the same course to the bit every time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from yfkernels._saving import save_whole
from yfkernels.asynchronous import Record, Simulator
from yfkernels.asynchronous.engines.simulator import in_order
from yfkernels.lab.asynchrony.options import NO_RULE, Options
from yfkernels.lab.asynchrony.training import Training
from yfkernels.lab.interruption import interruption


def simulate(
    training: Training, file: Path, watch: Callable[[Record], None], state: dict[str, Any] | None
) -> None:
    """Trains to the end, or until Ctrl-C.

    Args:
        training: new.
        file: of the checkpoint, which is written after every epoch and at the end.
        watch: called with the record of each push.
        state: a checkpoint to go on from; None to begin.
    """
    simulator = Simulator(training.server, training.loss)
    if state is not None:
        simulator.load_state_dict(state)
        training.load_state_dict(state["also"]["training"])

    def save() -> None:
        also = {"training": training.state_dict()}
        save_whole(file, {**simulator.state_dict(), "workers": {}, "also": also})

    order = workers_in_turn(training.options, training.total_pushes)
    with interruption() as asked:
        for record in simulator.steps(in_order(order), start=simulator.pushes):
            worker = order[simulator.pushes - 1]
            training.record(record._replace(worker=f"worker {worker + 1}"))
            watch(record)
            if record.applied and record.step % training.pushes_per_epoch == 0:
                save()
            if training.finished or asked():
                break
        save()


def workers_in_turn(options: Options, applied: int) -> list[int]:
    """Which worker makes each push, enough for so many to be applied.

    Where stale pushes are refused, at least one of as many pushes as there are workers is applied:
    a worker whose push was refused pulls, and is fresh if no other is applied until its next.
    Memoryless workers have that in the mean.
    """
    may_refuse = options.max_staleness is not None or options.rule != NO_RULE
    pushes = 2 * applied * (options.workers if may_refuse else 1)
    if options.staleness == "round-robin":
        return [push % options.workers for push in range(pushes)]
    generator = torch.Generator("cpu").manual_seed(options.seed)
    order: list[int] = torch.randint(
        options.workers, (pushes,), generator=generator, device="cpu"
    ).tolist()
    return order
