"""The YellowFin tuner: what it remembers, and one tuning step over the tables of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from yfkernels.ops.backend import Backend
from yfkernels.ops.backends import backend_of
from yfkernels.ops.constants import (
    DIAGNOSTICS,
    GROUP_FIELDS,
    MOVE_SUMS,
    OPTIONS_IN_STATE,
    STATE_FIELDS,
    STATE_FORMAT,
    TILE,
)
from yfkernels.ops.options import YellowFinOptions
from yfkernels.ops.rules import YELLOWFIN, Measure
from yfkernels.ops.table import TensorTable
from yfkernels.sharding.shards import Sharding
from yfkernels.tuners.closed_loop import ClosedLoop, MomentumFeedback, require_whole
from yfkernels.tuners.exchange import Exchange, is_remote
from yfkernels.tuners.group_rows import GroupRows, scalar_on
from yfkernels.tuners.lr_watch import LearningRateWatch
from yfkernels.tuners.measurement import Measurement
from yfkernels.tuners.move_sums import MoveSums
from yfkernels.tuners.saved_formats import accepted, upgraded
from yfkernels.tuners.tuner import SavedTuner, Tuner

_UNREAD = slice(STATE_FIELDS.index(MOVE_SUMS[0]), STATE_FIELDS.index(MOVE_SUMS[0]) + len(MOVE_SUMS))
_LR = YELLOWFIN.fields.index("lr")
_SHOWN_LR = STATE_FIELDS.index("lr")
_MOMENTUM, _H_MAX = STATE_FIELDS.index("momentum"), STATE_FIELDS.index("h_max")
_UNIT = STATE_FIELDS.index("unit")
_SHOWN = {
    **{name: name for name in (*DIAGNOSTICS, "step")},
    "distance_traveled": "radius",
    "skipped_steps": "skipped",
}


class Gathered(NamedTuple):
    """What a tuning step reads, where it runs.

    Attributes:
        partials, sketches: sums over the gradients.
        grad_scale, found_inf: GradScaler's numbers, or None.
        state: the tuner's.
    """

    partials: Tensor
    sketches: Tensor | None
    grad_scale: Tensor | None
    found_inf: Tensor | None
    state: Tensor


class YellowFinTuner(Tuner, SavedTuner):
    """Keeps the tuner's state and turns measurements into coefficients for the apply pass.

    Args:
        options: YellowFin's global options.
        loop: how momentum is corrected for asynchronous training; None for not at all.
        watch_lr: whether to warn of an lr that looks like a learning rate, in the robust mode.

    Attributes:
        feedback: what corrects it.
        state: float64 vector: STATE_FIELDS, the window and, with the sketch, its average. All that
            there is to save, after every step.
        former: what `state` was before it was moved to another device, which the groups may still
            have.
        coefficients: float64 [groups, len(YELLOWFIN.fields)], where SingleStep runs; the same
            tensor while neither that nor the number of groups changes.
    """

    key = "tuner"
    needed = True
    runs_on_host = True
    always_sums = True
    by_group = False
    in_place = True

    def __init__(
        self,
        options: YellowFinOptions,
        loop: ClosedLoop | None = None,
        *,
        watch_lr: bool = True,
    ) -> None:
        self.options = options
        self.feedback = None if loop is None else MomentumFeedback(loop)
        self.state = torch.empty(options.state_words, dtype=torch.float64, device="cpu")
        self.former: Tensor | None = None
        self.coefficients = _coefficients(0, torch.device("cpu"))
        self.clear()
        self._measurement: Measurement | None = None  # while there are tables
        self._move_sums: MoveSums | None = None  # while there are tables, and the rule has any
        self._exchange: Exchange | None = None  # where the host tunes for tables on devices
        self._backend = backend_of("torch", "cpu")
        watch_lr &= options.robust
        self._lr_watch = LearningRateWatch() if watch_lr else None  # until all is said
        self._readouts: list[tuple[Tensor, Tensor]] = []  # of each group, as published
        self._rows = GroupRows(len(GROUP_FIELDS))

    def global_options(self) -> dict[str, Any]:
        loop = None if self.feedback is None else self.feedback.options
        return {**self.options.in_words(), "closed_loop": loop or False}

    def prepare(
        self,
        tables: Sequence[TensorTable],
        sharding: Sharding,
        num_groups: int,
        device: torch.device,
        backend: Backend,
    ) -> None:
        self._backend = backend
        move_sums = self.options.rule.move_sums > 0
        remote: list[torch.device] = []
        if device.type == "cpu":
            remote = [each for each in dict.fromkeys(t.device for t in tables) if is_remote(each)]
        home = remote[0] if remote else device
        # the updates write there: a state on the host would wait for them in every step
        self._move(home if move_sums else device)
        self._rows.prepare(num_groups, device, backend)
        self._make_room(num_groups, device)
        # the native kernel's: a sum for each bucket of the sketch, and a ticket
        self._scratch = torch.zeros(TILE + 1, dtype=torch.float64, device=device)
        what = Measure.SKETCH if self.options.sketch else Measure.AVERAGE
        what = Measure.NORM if self.options.robust else what
        wanted = (what, self.options.sparsity_debias, move_sums)
        self._measurement = Measurement(tables, sharding, *wanted)
        self._exchange = None
        if remote:
            kept = self.state if move_sums else None
            self._exchange = Exchange(home, remote, self.coefficients, kept)
        if self.feedback is not None:
            require_whole(sharding)
            self.feedback.prepare(tables)
        if move_sums:
            active = self.coefficients_on(home)[0, 0]
            self._move_sums = MoveSums(tables, sharding, self.state[_UNREAD], active)

    def _move(self, device: torch.device) -> None:
        moved = self.state.to(device)
        if moved is not self.state:
            self.former, self.state = self.state, moved

    def set_groups(self, values: list[list[float]], device_lrs: dict[int, Tensor]) -> None:
        if self._lr_watch is not None and self._lr_watch.sees([row[0] for row in values]):
            self._lr_watch = None
        self._rows.set(values, device_lrs)

    def write_again(self) -> None:
        self._rows.write_again()

    def start(self) -> Callable[[Sequence[Tensor]], None]:
        assert self._measurement is not None, "prepare() comes first"
        return self._measurement.measure_start

    def buffers(self) -> list[Tensor]:
        assert self._measurement is not None, "prepare() comes first"
        made = [self.state, self.coefficients, self._rows.rows, self._scratch]
        made += self._measurement.buffers()
        return made if self._exchange is None else made + self._exchange.buffers()

    def decide(self, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        self.measure()
        self.tune(self.gathered(grad_scale, found_inf))

    def measure(self) -> None:
        """Sums over this step's gradients."""
        assert self._measurement is not None, "prepare() comes first"
        self._measurement.run()

    def gathered(self, grad_scale: Tensor | None, found_inf: Tensor | None) -> Gathered:
        """What was measured, where it is to be read; all processes take part."""
        assert self._measurement is not None, "prepare() comes first"
        device = self.coefficients.device if self._exchange is None else self._exchange.device
        partials, sketches = self._measurement.sums(device)
        scale, verdict = scalar_on(device, grad_scale), scalar_on(device, found_inf)
        state = self.state
        if self._exchange is not None:
            if sketches is not None:
                sketches = sketches.sum(0, keepdim=True, dtype=torch.float64)
            travelling = None if self._move_sums is None else state  # else it is on the host
            parts = self._exchange.fetch(partials, sketches, scale, verdict, travelling)
            partials, sketches, scale, verdict, travelling = parts
            state = state if travelling is None else travelling
        if sketches is not None and self._backend.fused:
            sketches = sketches.float()
        return Gathered(partials, sketches, scale, verdict, state)

    def tune(self, gathered: Gathered) -> None:
        """Works out the coefficients from what was measured."""
        state = gathered.state
        self._backend.tune_yellowfin(
            self.options,
            *gathered,
            self._rows.rows,
            self.coefficients,
            self._scratch,
        )
        if self.feedback is not None:
            target, h_max = state[_MOMENTUM].item(), state[_H_MAX].item()
            curvature = None if self.options.robust else h_max
            if self.feedback.adjust(self.coefficients, target, curvature):
                state[_SHOWN_LR] = self.coefficients[0, _LR]
        if self._exchange is not None:
            self._exchange.send(self.coefficients, state)

    def collect(self) -> None:
        if self._move_sums is not None:
            self._move_sums.collect()
        if self.feedback is not None:
            self.feedback.read(self.coefficients)

    def coefficients_on(self, device: torch.device, group: int = 0) -> Tensor:
        if self._exchange is not None and is_remote(device):
            return self._exchange.coefficients_on(device)
        return self.coefficients.to(device)

    def clear(self) -> None:
        """Puts the state back to how it begins, in place.

        Where the parameters begin, which the robust mode wants to know, `prepare` looks.
        """
        head = dict.fromkeys(STATE_FIELDS, 0.0) | {"format": STATE_FORMAT, "beta_power": 1.0}
        head["words"] = float(len(head))
        head |= {name: float(getattr(self.options, name)) for name in OPTIONS_IN_STATE}
        begin = torch.tensor(list(head.values()), dtype=torch.float64, device="cpu")
        self.state.zero_()
        self.state[: len(head)].copy_(begin)
        self.coefficients.zero_()
        if self.feedback is not None:
            self.feedback.clear()

    def _make_room(self, num_groups: int, device: torch.device) -> None:
        if len(self.coefficients) != num_groups or self.coefficients.device != device:
            known = self.coefficients[:num_groups]  # of the last step, which lrs() tells
            self.coefficients = _coefficients(num_groups, device)
            self.coefficients[: len(known)] = known

    # ---- what is saved and shown

    def parts(self, groups: list[dict[str, Any]]) -> list[tuple[SavedTuner, list[dict[str, Any]]]]:
        return [(self, groups)]

    def accepted(self, saved: Tensor, group: dict[str, Any]) -> Tensor:
        if self.feedback is not None:
            self.feedback.check(group)
        return accepted(saved, group.pop("tuner_options", None), self.options)

    def unit(self, saved: Tensor) -> float:
        return float(saved[_UNIT])

    def diagnostics(self, groups: list[dict[str, Any]], group: int = 0) -> dict[str, float]:
        values = dict(zip(STATE_FIELDS, self.state[: len(STATE_FIELDS)].tolist()))
        loop = {} if self.feedback is None else self.feedback.diagnostics()
        shown = {name: values[own] for name, own in _SHOWN.items()}
        if group:
            shown["lr"] = self.lrs(groups)[group]
        return shown | loop

    def lrs(self, groups: list[dict[str, Any]]) -> list[float]:
        """The step size of the last step in each group; on CUDA this waits for the device."""
        lrs: list[float] = self.coefficients[:, _LR].tolist()
        new = len(groups) - len(lrs)
        return lrs[: len(groups)] + [0.0] * new

    def publish(self, groups: list[dict[str, Any]]) -> None:
        """Step size and momentum of the last step: tensors that live."""
        self._make_readouts(len(groups))
        loaded = [group.get("tuned_lr") for group in groups]
        # groups that have changed places have each other's
        loaded = [each.clone() if isinstance(each, Tensor) else None for each in loaded]
        for group, value, (lr, momentum) in zip(groups, loaded, self._readouts):
            if value is not None and value.numel() == 1 and group["tuned_lr"] is not lr:
                lr.copy_(value.reshape(()))
            group["tuned_lr"], group["momentum"] = lr, momentum
        if self.feedback is not None:
            self.feedback.publish(groups[0])

    def _make_readouts(self, num_groups: int) -> None:
        self._make_room(num_groups, self.coefficients.device)
        momentum = self.state[_MOMENTUM] if self.feedback is None else self.feedback.momentum
        self._readouts = [(row[_LR], momentum) for row in self.coefficients]

    def is_published(self, groups: list[dict[str, Any]]) -> bool:
        if self.feedback is not None and not self.feedback.is_published(groups[0]):
            return False
        return all(
            group.get("momentum") is momentum and group.get("tuned_lr") is lr
            for group, (lr, momentum) in zip(groups, self._readouts)
        )

    def withdraw(self, groups: list[dict[str, Any]]) -> None:
        self._make_readouts(len(groups))
        for group, (lr, momentum) in zip(groups, self._readouts):
            if "tuned_lr" in group:
                group["tuned_lr"], group["momentum"] = lr, momentum
        if self.feedback is not None:
            self.feedback.withdraw(groups[0])

    def keep_groups(self, num_groups: int) -> None:
        if len(self.coefficients) > num_groups:
            self.coefficients = self.coefficients[:num_groups].clone()

    def __reduce__(self) -> tuple[Any, ...]:
        # copies and pickles keep what was learnt; the tables' buffers are made again
        return _restore, (self.options, self.state, self._lr_watch, self.feedback)


def _coefficients(num_groups: int, device: torch.device) -> Tensor:
    return torch.zeros(num_groups, len(YELLOWFIN.fields), dtype=torch.float64, device=device)


def _restore(
    options: YellowFinOptions,
    state: Tensor,
    lr_watch: LearningRateWatch | None,
    feedback: MomentumFeedback | None,
) -> YellowFinTuner:
    tuner = YellowFinTuner(options)
    tuner.feedback = feedback
    tuner.state = upgraded(state, None, options)
    tuner._lr_watch = lr_watch
    return tuner
