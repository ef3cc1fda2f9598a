"""The YellowFin tuner: what it remembers, and one tuning step over the tables of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from yfkernels.ops.backend import Backend, backend_of
from yfkernels.ops.constants import (
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
from yfkernels.tuners.exchange import Exchange, is_remote
from yfkernels.tuners.measurement import Measurement
from yfkernels.tuners.move_sums import MoveSums
from yfkernels.tuners.saved_formats import upgraded
from yfkernels.tuners.settings import Settings, scalar_on

_UNREAD = slice(STATE_FIELDS.index(MOVE_SUMS[0]), STATE_FIELDS.index(MOVE_SUMS[0]) + len(MOVE_SUMS))
_LR = YELLOWFIN.fields.index("lr")


class YellowFinTuner:
    """Keeps the tuner's state and turns measurements into coefficients for the apply pass.

    Args:
        options: YellowFin's global options.

    Attributes:
        state: float64 vector: STATE_FIELDS, the window and, with the sketch, its average. All that
            there is to save, after every step. Always the same tensor, but when `prepare` has to
            move it to another device.
        coefficients: float64 [groups, len(YELLOWFIN.fields)], where SingleStep runs; the same
            tensor while neither that nor the number of groups changes.
    """

    def __init__(self, options: YellowFinOptions) -> None:
        self.options = options
        self.state = torch.empty(options.state_words, dtype=torch.float64, device="cpu")
        self.coefficients = _coefficients(0, torch.device("cpu"))
        self.clear()
        self._measurement: Measurement | None = None  # while there are tables
        self._move_sums: MoveSums | None = None  # while there are tables, and the rule has any
        self._exchange: Exchange | None = None  # where the host tunes for tables on devices
        self._backend = backend_of("torch", "cpu")
        self._settings = Settings(len(GROUP_FIELDS))

    def prepare(
        self,
        tables: Sequence[TensorTable],
        sharding: Sharding,
        num_groups: int,
        device: torch.device,
        backend: Backend,
    ) -> None:
        """Makes room for a set of tables and moves the state to where it belongs.

        Args:
            tables: every table of the optimizer on this process.
            sharding: the processes that share the parameters.
            num_groups: parameter groups.
            device: where SingleStep is to run.
            backend: which backend runs it there.
        """
        self._backend = backend
        move_sums = self.options.rule.move_sums > 0
        remote: list[torch.device] = []
        if device.type == "cpu":
            remote = [each for each in dict.fromkeys(t.device for t in tables) if is_remote(each)]
        home = remote[0] if remote else device
        # the updates write there: a state on the host would wait for them in every step
        self.state = self.state.to(home if move_sums else device)
        self._settings.prepare(num_groups, device, backend)
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
        if move_sums:
            active = self.coefficients_on(home)[0, 0]
            self._move_sums = MoveSums(tables, sharding, self.state[_UNREAD], active)

    def set_groups(self, values: list[list[float]], device_lrs: dict[int, Tensor]) -> None:
        """Takes the user's settings; see `Settings.set`."""
        self._settings.set(values, device_lrs)

    def write_again(self) -> None:
        """Has the next step write the settings, whatever the device has of them."""
        self._settings.write_again()

    def buffers(self) -> list[Tensor]:
        """What was made here and kernels read or write."""
        assert self._measurement is not None, "prepare() comes first"
        made = [self.state, self.coefficients, self._settings.rows, self._scratch]
        made += self._measurement.buffers()
        return made if self._exchange is None else made + self._exchange.buffers()

    def decide(self, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        """Measures this step's gradients and turns what was measured into coefficients.

        Args:
            grad_scale: GradScaler's loss scale if the gradients still carry it.
            found_inf: GradScaler's verdict, non-zero to skip the step.
        """
        assert self._measurement is not None, "prepare() comes first"
        self._measurement.run()
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
        self._backend.tune_yellowfin(
            self.options,
            partials,
            sketches,
            scale,
            verdict,
            state,
            self._settings.rows,
            self.coefficients,
            self._scratch,
        )
        if self._exchange is not None:
            self._exchange.send(self.coefficients, state)

    def collect(self) -> None:
        """Takes what the update has gauged into the state; all processes that share parameters."""
        if self._move_sums is not None:
            self._move_sums.collect()

    def coefficients_on(self, device: torch.device) -> Tensor:
        """The coefficients of this step on a device."""
        if self._exchange is not None and is_remote(device):
            return self._exchange.coefficients_on(device)
        return self.coefficients.to(device)

    def clear(self) -> None:
        """Puts the state back to how it begins, in place.

        Where the parameters begin, which the robust mode wants to know, `prepare` looks.
        """
        head = dict.fromkeys(STATE_FIELDS, 0.0) | {"format": STATE_FORMAT, "beta_power": 1.0}
        head |= {name: float(getattr(self.options, name)) for name in OPTIONS_IN_STATE}
        begin = torch.tensor(list(head.values()), dtype=torch.float64, device="cpu")
        self.state.zero_()
        self.state[: len(head)].copy_(begin)
        self.coefficients.zero_()

    def load(self, state: Tensor) -> None:
        """Takes a state saved before, in place; its layout must have been checked."""
        self.state.copy_(state)

    def _make_room(self, num_groups: int, device: torch.device) -> None:
        if len(self.coefficients) != num_groups or self.coefficients.device != device:
            known = self.coefficients[:num_groups]  # of the last step, which lrs() tells
            self.coefficients = _coefficients(num_groups, device)
            self.coefficients[: len(known)] = known

    def keep_groups(self, num_groups: int) -> None:
        """Leaves the readouts of further groups to those that were taken out; `prepare` follows."""
        if len(self.coefficients) > num_groups:
            self.coefficients = self.coefficients[:num_groups].clone()

    def readouts(self, num_groups: int) -> list[tuple[Tensor, Tensor]]:
        """(step size, momentum) of the last step in each group: views that live."""
        self._make_room(num_groups, self.coefficients.device)
        momentum = self.state[STATE_FIELDS.index("momentum")]
        return [(row[_LR], momentum) for row in self.coefficients]

    def lrs(self) -> list[float]:
        """The step size of the last step in each group; on CUDA this waits for the device."""
        lrs: list[float] = self.coefficients[:, _LR].tolist()
        return lrs

    def __reduce__(self) -> tuple[Any, ...]:
        # copies and pickles keep what was learnt; the tables' buffers are made again
        return _restore, (self.options, self.state)

    def values(self) -> dict[str, float]:
        """STATE_FIELDS by name; on CUDA this waits for the device."""
        return dict(zip(STATE_FIELDS, self.state[: len(STATE_FIELDS)].tolist()))


def _coefficients(num_groups: int, device: torch.device) -> Tensor:
    return torch.zeros(num_groups, len(YELLOWFIN.fields), dtype=torch.float64, device=device)


def _restore(options: YellowFinOptions, state: Tensor) -> YellowFinTuner:
    tuner = YellowFinTuner(options)
    tuner.state = upgraded(state, None, options)
    return tuner
