"""Servers and workers that the tests of the Ray engine start, and what goes wrong in them."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from asynchronous.counting import Tally, server_of
from torch import Tensor, nn

from yfkernels.asynchronous import Record, Server, Service

SAMPLES = 30
PADDING = 5_000_000  # 20 MB: a push of them takes long enough to be killed in


def claim(path: Path) -> bool:
    """Whether this is the first process, and call, to ask for it."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60.0
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


def kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class MakeServer:
    """SGD that counts samples.

    Args:
        padding: as of Tally.
        checkpoint: its file; resumed if it is there.
        dies_at: the step after which the process is killed, the first time.
        options: of `server_of`.
    """

    padding: int = 0
    checkpoint: Path | None = None
    dies_at: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self) -> Service:
        server = server_of(Tally(SAMPLES, self.padding), **self.options)
        options: dict[str, Any] = {}
        if self.checkpoint is not None:
            options = {"checkpoint": self.checkpoint, "checkpoint_every": 4}
        service = Service(server, on_push=self.look, **options)
        if self.checkpoint is not None and self.checkpoint.exists():
            service.resume()
        return service

    def look(self, record: Record) -> None:
        if record.step == self.dies_at and self.checkpoint is not None:
            died = self.checkpoint.with_name("died")
            if claim(died):
                kill_this_process()


class BrokenStep(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        raise ZeroDivisionError("the step is broken")


def make_broken_server() -> Server:
    model = Tally(SAMPLES)
    return Server(model, BrokenStep(model.parameters(), lr=1.0))


Loss = Callable[[list[int] | None], Tensor]


@dataclass(frozen=True)
class MakeWorker:
    """Workers of which the first to come has a fault; the others wait for it to show.

    Args:
        folder: where they tell each other.
        fault: a method's name; empty for none.
        padding: as of Tally.
    """

    folder: Path
    fault: str = ""
    padding: int = 0

    def __call__(self) -> tuple[nn.Module, Loss]:
        model = Tally(SAMPLES, self.padding)
        if not self.fault:
            return model, model.loss
        if claim(self.folder / "first"):
            if self.fault == "another_model":
                self.show()
                return Tally(SAMPLES, padding=4), model.loss
            faulty = getattr(self, self.fault)
            return model, lambda indices: faulty(model, indices)
        return model, lambda indices: self.after_the_fault(model, indices)

    def show(self) -> None:
        (self.folder / "shown").touch()

    def after_the_fault(self, model: Tally, indices: Sequence[int] | None) -> Tensor:
        wait_for(self.folder / "shown")
        if not claim(self.folder / "other began"):
            (self.folder / "other pushed").touch()
        return model.loss(indices)

    # ---- faults

    def killed(self, model: Tally, indices: Sequence[int] | None) -> Tensor:
        """While the gradient that comes of this is on its way."""
        self.show()
        threading.Timer(random.uniform(0.0, 0.05), kill_this_process).start()
        return model.loss(indices)

    def sleeps(self, model: Tally, indices: Sequence[int] | None) -> Tensor:
        """Once, longer than the batches' patience."""
        if claim(self.folder / "slept"):
            self.show()
            time.sleep(3.0)
        return model.loss(indices)

    def is_overtaken(self, model: Tally, indices: Sequence[int] | None) -> Tensor:
        """Once, by a push of the other one."""
        self.show()
        wait_for(self.folder / "other pushed")
        return model.loss(indices)

    def sleeps_for_ever(self, model: Tally, indices: Sequence[int] | None) -> Tensor:
        self.show()
        time.sleep(600.0)
        return model.loss(indices)

    def makes_nan(self, model: Tally, indices: Sequence[int] | None) -> Tensor:
        """Twice."""
        if any(claim(self.folder / f"nan-{k}") for k in range(2)):
            return model.loss(indices) * torch.nan
        self.show()
        return model.loss(indices)

    def raises(self, model: Tally, indices: Sequence[int] | None) -> Tensor:
        self.show()
        raise ValueError("no data")

    def without_batches(self, model: Tally, indices: Sequence[int] | None) -> Tensor:
        self.show()
        return model.loss(range(SAMPLES))

    def joins(self, model: Tally, indices: Sequence[int] | None) -> Tensor:
        """The first waits, at its second batch, for somebody else to come."""
        if not claim(self.folder / "began"):
            wait_for(self.folder / "joined")
        self.show()
        return model.loss(indices)
