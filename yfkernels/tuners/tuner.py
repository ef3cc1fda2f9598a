"""What an optimizer asks of the part that decides its scalars in every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from yfkernels.ops.backend import Backend
from yfkernels.ops.table import TensorTable
from yfkernels.sharding.shards import Sharding


class SavedTuner(Protocol):
    """What has a state to be saved.

    Attributes:
        state: float64. Always the same tensor, but when `Tuner.prepare` has to move it to another
            device.
    """

    state: Tensor

    def clear(self) -> None:
        """Puts the state back to how it begins, in place."""

    def unit(self, saved: Tensor) -> float:
        """Of velocities in float8 beside an accepted state; 1.0 for a tuner that knows of none."""

    def accepted(self, saved: Tensor, group: dict[str, Any]) -> Tensor:
        """A saved state, of any version, as this version keeps it; nothing has changed yet.

        Args:
            saved: the state.
            group: the parameter group it was in.

        Raises:
            RuntimeError: it does not fit.
        """

    def withdraw(self, groups: list[dict[str, Any]]) -> None:
        """Takes out of the groups what `publish` would otherwise take for a loaded number."""


class Tuner(Protocol):
    """Decides on a step: whether it is taken, and with which coefficients.

    Attributes:
        key: under which the first parameter group has `state`.
        needed: whether the state of parameters says nothing without it.
        runs_on_host: whether it does, as long as the optimizer is not capturable.
        always_sums: whether every step takes sums over all parameters, whatever the groups say.
        by_group: whether each parameter group is tuned for itself, and has tables of its own.
    """

    key: str
    needed: bool
    runs_on_host: bool
    always_sums: bool
    by_group: bool

    def global_options(self) -> dict[str, Any]:
        """The options that only the constructor takes, by their names there."""

    # ---- a set of tables

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
            device: where scalars are to be computed.
            backend: which backend does it there.
        """

    def buffers(self) -> list[Tensor]:
        """What was made here and kernels read or write."""

    def write_again(self) -> None:
        """Has the next step write everything, whatever the device has of it."""

    def start(self) -> Callable[[Sequence[Tensor]], None]:
        """What looks again at where the parameters begin, for the tables of the last `prepare`.

        It is called with the parameters as backends see them, by index.
        """

    # ---- every step

    def set_groups(self, values: list[list[float]], device_lrs: dict[int, Tensor]) -> None:
        """Takes the user's settings; see `GroupRows.set`."""

    def decide(self, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        """Measures this step's gradients and works out the coefficients.

        Args:
            grad_scale: GradScaler's loss scale if the gradients still carry it.
            found_inf: GradScaler's verdict, non-zero to skip the step.
        """

    def coefficients_on(self, device: torch.device, group: int = 0) -> Tensor:
        """The coefficients of this step on a device: [groups, fields of the rule].

        Args:
            device: where.
            group: of the tables that they are for, if groups are tuned for themselves; those are
                [1, fields of the rule].
        """

    def collect(self) -> None:
        """After the update: takes its sums of the move into the state.

        All processes that share parameters take part.
        """

    # ---- what is saved and shown

    @property
    def in_place(self) -> bool:
        """Whether the last look at the groups has found each where `prepare` had it."""

    def parts(self, groups: list[dict[str, Any]]) -> list[tuple[SavedTuner, list[dict[str, Any]]]]:
        """What has a state to be saved, with the parameter groups that it is for."""

    def diagnostics(self, groups: list[dict[str, Any]], group: int = 0) -> dict[str, float]:
        """What the last step that was taken measured and used in a group; on CUDA this waits.

        Args:
            groups: all of them.
            group: the place of one.
        """

    def lrs(self, groups: list[dict[str, Any]]) -> list[float]:
        """The step size that each group used in the last step; on CUDA this waits."""

    def publish(self, groups: list[dict[str, Any]]) -> None:
        """Puts into the groups what is there to be read, not set."""

    def is_published(self, groups: list[dict[str, Any]]) -> bool:
        """Whether it still is there, and nothing else in its place."""

    def keep_groups(self, num_groups: int) -> None:
        """Forgets what further groups have shown; `prepare` or `publish` follows."""
