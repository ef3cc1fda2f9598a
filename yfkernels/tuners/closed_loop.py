"""The closed loop: momentum corrected so that optimizer and workers together have the target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from yfkernels._checks import check_whole, is_count, require, require_number
from yfkernels.ops.memory import flatten, memory_order
from yfkernels.ops.rules import YELLOWFIN
from yfkernels.ops.sample import Sample
from yfkernels.ops.table import Column, TensorTable
from yfkernels.sharding.shards import Sharding
from yfkernels.tuners.delay import stability_limit
from yfkernels.tuners.total_momentum import RESOLVED, total_momentum

_ACTIVE, _MOMENTUM = YELLOWFIN.fields.index("active"), YELLOWFIN.fields.index("momentum")
_GAIN, _KEEP = YELLOWFIN.fields.index("velocity_gain"), YELLOWFIN.fields.index("param_keep")
_LR = YELLOWFIN.fields.index("lr")
_LEAST, _MOST = -0.95, 0.999  # of the momentum that is set
_SMOOTHING = 0.99  # of the mean staleness
SAVED, HISTORY = "closed_loop", "velocity_history"  # in the first parameter group


@dataclass(frozen=True)
class ClosedLoop:
    """How YellowFin closes the loop for asynchronous training.

    The total momentum mu_T is read from a sample of coordinates, and the momentum mu that is set
    goes to where mu_T is the target mu*: mu <- mu + gain (mu* - mu_T).

    Args:
        gain: of the feedback, for each step, in [0, 1].
        every: steps between two readings; the feedback is then so many times as strong.
        coordinates: how many to sample; all if there are fewer.
        seed: determines which.
        max_staleness: the largest staleness with which a reading is taken, >= 0. The history, which
            is saved, has two moves more: 9 MB for a large model.
        compensate: keep mu at mu* - q or below, q = tau / (tau + 1) being the momentum that workers
            with a mean staleness of tau make in theory. The feedback then only lowers it. In noisy
            gradients it reads too little of q, and alone it would let momentum rise to mu*.
        limit_lr: with `robust=False`, keep lr h_max below where a fixed delay makes training
            unstable.

    `ClosedLoop(every=1, compensate=False)` is the paper's.

    Raises:
        TypeError, ValueError: an argument out of its range.

    Source: Zhang, Mitliagkas, "YellowFin and the Art of Momentum Tuning", arXiv 1706.03471,
    section 4; q: Mitliagkas et al., "Asynchrony begets momentum", arXiv 1605.09774. That both
    work together is ours, as is `limit_lr`.
    """

    gain: float = 0.01
    every: int = 4
    coordinates: int = 65_536
    seed: int = 0
    max_staleness: int = 32
    compensate: bool = True
    limit_lr: bool = False

    def __post_init__(self) -> None:
        require_number("gain", self.gain)
        require(0.0 <= self.gain <= 1.0, "gain", self.gain, "in [0, 1]")
        require(is_count(self.every), "every", self.every, "an integer >= 1")
        require(is_count(self.coordinates), "coordinates", self.coordinates, "an integer >= 1")
        check_whole("max_staleness", self.max_staleness, least=0)

    @classmethod
    def of(cls, value: bool | ClosedLoop) -> ClosedLoop | None:
        """From what an optimizer's constructor takes; None for no loop.

        Raises:
            TypeError: something else.
        """
        if isinstance(value, bool):
            return cls() if value else None
        if not isinstance(value, ClosedLoop):
            raise TypeError(
                f"Invalid closed_loop type: {type(value).__name__}; give True, False or "
                "yfkernels.ClosedLoop(...)"
            )
        return value


class _Head(NamedTuple):
    """What is remembered beside the velocities.

    Attributes:
        momentum: of the last step.
        next: of the step that comes, once there was a reading.
        total: the last reading.
        target: of the last step.
        staleness: its running mean.
        power: of that mean's bias.
        readings: how many there were, up to a billion.
        moves: velocities that were recorded of this model.
        elements: of the model, whose coordinates the history is of.
    """

    momentum: float = 0.0
    next: float = 0.0
    total: float = math.nan
    target: float = math.nan
    staleness: float = 0.0
    power: float = 1.0
    readings: float = 0.0
    moves: float = 0.0
    elements: float = 0.0


class MomentumFeedback:
    """Sets the momentum of Polyak's form by what total momentum was read.

    The velocity v is the move, mu v' + own: so this step's own part is v - mu v', and the history
    of sampled velocities is all that a reading takes.

    Args:
        options: the user's.

    Attributes:
        staleness: of the gradient of the step that comes; set before it.
    """

    def __init__(self, options: ClosedLoop) -> None:
        self.options = options
        self.staleness = 0
        self._velocities: list[Tensor] = []  # as the sample has them
        self._sample: Sample | None = None
        self._saved = torch.zeros(len(_Head()), dtype=torch.float64, device="cpu")
        self._head, self._version = _Head(), -1  # of `_saved`
        self.clear()

    @property
    def momentum(self) -> Tensor:
        """Of the last step; always the same tensor."""
        return self._saved[_Head._fields.index("momentum")]

    @property
    def head(self) -> _Head:
        """The numbers of the last step, read again if something was loaded into their place."""
        if self._saved._version != self._version:
            self._head, self._version = _Head(*self._saved.tolist()), self._saved._version
        return self._head

    def _keep(self, head: _Head) -> None:
        self._saved.copy_(torch.tensor(head, dtype=torch.float64, device="cpu"))
        self._head, self._version = head, self._saved._version

    def clear(self) -> None:
        """Begins anew."""
        self._keep(_Head())
        self._history = torch.zeros(0, 0, device="cpu")  # a ring: velocity m is in row m % rows

    # ---- a set of tables

    def prepare(self, tables: Sequence[TensorTable]) -> None:
        """Chooses the coordinates; the history goes on if the model is the same."""
        rows = sorted((row for table in tables for row in table.rows), key=lambda row: row.index)
        states = [row.columns[Column.STATE] for row in rows]
        flats = [flatten(state, memory_order(state)) for state in states]
        self._sample = None
        if not flats:
            return
        self._sample = Sample(flats, self.options.coordinates, self.options.seed)
        self._velocities = self._sample.views(flats)
        like, head = self._sample.resolution, self.head
        shape = (self.options.max_staleness + 2, len(like))
        elements = float(sum(len(each) for each in flats))
        if self._history.shape == shape and elements == head.elements:
            self._history = self._history.to(like)  # a loaded one may be elsewhere
        else:
            self._history = like.new_zeros(shape)
            self._keep(head._replace(elements=elements, moves=0.0))

    # ---- every step

    def adjust(self, coefficients: Tensor, target: float, h_max: float | None) -> bool:
        """Puts the momentum, and a smaller step size if the delay asks for it, in their places.

        Args:
            coefficients: of the step that comes, on the host.
            target: mu*.
            h_max: the upper end of the curvature range; None where the step size has another.

        Returns:
            Whether the step size may have changed.
        """
        if not bool(coefficients[0, _ACTIVE]):
            return False
        head = self.head
        power = head.power * _SMOOTHING
        sum_of_all = head.staleness * (1.0 - head.power) * _SMOOTHING
        staleness = (sum_of_all + self.staleness * (1.0 - _SMOOTHING)) / (1.0 - power)
        momentum = head.next if head.readings and self.options.gain else target
        if self.options.compensate:
            momentum = min(momentum, target - staleness / (staleness + 1.0))
        momentum = min(max(momentum, _LEAST), _MOST)
        new = {"momentum": momentum, "target": target, "staleness": staleness, "power": power}
        self._head = head._replace(**new)  # kept by `read`
        moving = coefficients[:, _LR] != 0.0
        coefficients[:, _MOMENTUM] = torch.where(moving, momentum, 0.0)
        if not self.options.limit_lr or h_max is None:
            return False
        limit = stability_limit(round(staleness), round(momentum, 3))
        factor = (limit / (coefficients[:, _LR] * h_max)).nan_to_num(1.0).clamp_(max=1.0)
        coefficients[:, _LR] *= factor
        coefficients[:, _GAIN] *= factor
        coefficients[:, _KEEP] = 1.0 - (1.0 - coefficients[:, _KEEP]) * factor
        return True

    def read(self, coefficients: Tensor) -> None:
        """After the update: reads the total momentum, and sets the next step's momentum by it."""
        if self._sample is None or not bool(coefficients[0, _ACTIVE]):
            return
        head = self.head
        moves = int(head.moves)
        self._sample.gathered(self._velocities, self._history[moves % len(self._history)])
        head = head._replace(moves=moves + 1.0)
        total = None if head.moves % self.options.every else self._reading(head)
        if total is not None and math.isfinite(total):
            gain = self.options.gain * self.options.every
            following = head.momentum + gain * (head.target - total)
            readings = min(head.readings + 1.0, 1e9)
            head = head._replace(next=following, total=total, readings=readings)
        self._keep(head)

    def _reading(self, head: _Head) -> float | None:
        assert self._sample is not None
        moves, rows = int(head.moves), len(self._history)
        if self.staleness + 2 > min(moves, rows):
            return None
        now, last, move, before = (
            self._history[(moves - 1 - back) % rows]
            for back in (0, 1, self.staleness, self.staleness + 1)
        )
        own = now.sub(last, alpha=head.momentum)
        smallest = torch.maximum(now.abs(), last.abs()).mul_(self._sample.resolution)
        return total_momentum(before, move, own, smallest.mul_(RESOLVED))

    # ---- what is saved and shown

    def diagnostics(self) -> dict[str, float]:
        """momentum, target_momentum, total_momentum and staleness of the last step."""
        head = self.head
        shown = {"momentum": head.momentum, "target_momentum": head.target}
        return shown | {"total_momentum": head.total, "staleness": head.staleness}

    def publish(self, group: dict[str, Any]) -> None:
        """Puts what is to be saved into a parameter group, or takes over what was loaded."""
        saved, history = group.get(SAVED), group.get(HISTORY)
        if saved is not self._saved:
            if isinstance(saved, Tensor) and isinstance(history, Tensor):
                self._saved.copy_(saved)
                self._history = history.clone()
            else:
                self.clear()
        group[SAVED], group[HISTORY] = self._saved, self._history

    def check(self, group: dict[str, Any]) -> None:
        """Raises RuntimeError if a group that is to be loaded has something else there."""
        saved, history = group.get(SAVED), group.get(HISTORY)
        if saved is None:  # of an open loop
            return
        fits = isinstance(saved, Tensor) and saved.shape == self._saved.shape
        if not fits or not isinstance(history, Tensor) or history.dim() != 2:
            raise RuntimeError(
                f"{SAVED!r} and {HISTORY!r} in the first parameter group of the state_dict are not "
                "those of this version's closed loop; drop both to begin it anew"
            )

    def withdraw(self, group: dict[str, Any]) -> None:
        """Takes out of a group what `publish` would take for loaded."""
        if SAVED in group:
            group[SAVED], group[HISTORY] = self._saved, self._history

    def is_published(self, group: dict[str, Any]) -> bool:
        """Whether it still is there."""
        return group.get(SAVED) is self._saved and group.get(HISTORY) is self._history

    def __getstate__(self) -> dict[str, Any]:
        # `prepare` chooses coordinates of a copy's own tensors
        return {**vars(self), "_velocities": [], "_sample": None, "_version": -1}


def require_whole(sharding: Sharding) -> None:
    """Raises RuntimeError for sharded parameters."""
    if sharding:
        raise RuntimeError(
            "closed_loop takes whole parameters: each process would read another momentum from its "
            "shard; give the asynchronous server a model that is not sharded"
        )
