"""A YellowFin tuner for each parameter group, and one decision on whether the step counts."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from yfkernels.ops.backend import Backend
from yfkernels.ops.constants import SUMS
from yfkernels.ops.options import YellowFinOptions
from yfkernels.ops.table import TensorTable
from yfkernels.sharding.shards import ShardGroup, Sharding
from yfkernels.tuners.lr_watch import LearningRateWatch
from yfkernels.tuners.tuner import SavedTuner, Tuner
from yfkernels.tuners.yellowfin import Gathered, YellowFinTuner

_GRAD_SQ = SUMS.index("grad_sq")


class GroupwiseTuner(Tuner):
    """Statistics, distance, momentum and number of steps of each parameter group for itself.

    A gradient that is not finite in one group has the step refused in all of them. A group without
    a gradient, which the robust mode knows by its sum of 0, takes no step and keeps its state.

    Groups may be taken out, put back and moved: a group is known by the state that is in it.

    Args:
        options: YellowFin's global options, of the robust mode.

    Attributes:
        tuners: of each group, in the order of the last look at them.
    """

    key = YellowFinTuner.key
    needed = True
    runs_on_host = True
    always_sums = True
    by_group = True

    def __init__(self, options: YellowFinOptions) -> None:
        self.options = options
        self.tuners: list[YellowFinTuner] = []
        self._prepared: list[YellowFinTuner] = []  # in the order of the tables
        self._lr_watch: LearningRateWatch | None = LearningRateWatch()  # until all is said
        self._counted = False  # whether all processes have been found to have as many groups

    def global_options(self) -> dict[str, Any]:
        return {**self.options.in_words(), "closed_loop": False}

    @property
    def in_place(self) -> bool:
        return len(self.tuners) == len(self._prepared) and all(
            map(operator.is_, self.tuners, self._prepared)
        )

    def _arrange(self, groups: list[dict[str, Any]]) -> None:
        """Brings the tuners into the order of the groups, and makes those that are missing.

        Where no group is known and there are as many as before, as after a load_state_dict, they
        are the same ones.
        """
        left = list(self.tuners)
        known = [self._taken(left, group) for group in groups]
        if left == self.tuners and len(left) == len(groups):
            return
        for tuner, group in zip(known, groups):
            if tuner is None and any(self._shares(group, other) for other in groups):
                # a copy of another group's dictionary, with new parameters
                for name in (self.key, "tuned_lr", "momentum"):
                    group.pop(name, None)
        pairs = zip(known, groups)
        self.tuners = [self._new(group) if tuner is None else tuner for tuner, group in pairs]

    def _new(self, group: dict[str, Any]) -> YellowFinTuner:
        """A tuner that shows what the group has, until that is looked at and taken over."""
        tuner, state = YellowFinTuner(self.options, watch_lr=False), group.get(self.key)
        if isinstance(state, Tensor) and state.shape == tuner.state.shape:
            tuner.state.copy_(state)
        return tuner

    def _taken(self, left: list[YellowFinTuner], group: dict[str, Any]) -> YellowFinTuner | None:
        """That of `left` which the group is known to have; it is taken out."""
        state = group.get(self.key)  # which it has from the first step on
        for index, tuner in enumerate(left):
            if state is None:
                known = tuner.is_published([group])
            else:
                known = state is tuner.state or state is tuner.former
            if known:
                return left.pop(index)
        return None

    def _shares(self, group: dict[str, Any], other: dict[str, Any]) -> bool:
        """Whether two groups show the same tensors."""
        names = [name for name in (self.key, "momentum") if group.get(name) is not None]
        return group is not other and any(group[name] is other.get(name) for name in names)

    # ---- a set of tables

    def prepare(
        self,
        tables: Sequence[TensorTable],
        sharding: Sharding,
        num_groups: int,
        device: torch.device,
        backend: Backend,
    ) -> None:
        self._prepared = list(self.tuners)
        self._sharding = sharding
        for group, tuner in enumerate(self.tuners):
            own = [table for table in tables if table.group == group]
            tuner.prepare(own, sharding, 1, device, backend)

    def buffers(self) -> list[Tensor]:
        return [buffer for tuner in self.tuners for buffer in tuner.buffers()]

    def write_again(self) -> None:
        for tuner in self.tuners:
            tuner.write_again()

    def start(self) -> Callable[[Sequence[Tensor]], None]:
        starts = [tuner.start() for tuner in self.tuners]

        def look(views: Sequence[Tensor]) -> None:
            for start in starts:
                start(views)

        return look

    # ---- every step

    def set_groups(self, values: list[list[float]], device_lrs: dict[int, Tensor]) -> None:
        if self._lr_watch is not None and self._lr_watch.sees([row[0] for row in values]):
            self._lr_watch = None
        for group, (tuner, row) in enumerate(zip(self.tuners, values)):
            tuner.set_groups([row], {0: device_lrs[group]} if group in device_lrs else {})

    def decide(self, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        if not self._counted:
            _require_as_many(len(self.tuners), self._sharding.between)
            self._counted = True
        for tuner in self.tuners:
            tuner.measure()  # all of them before the host waits for the first
        gathered = [tuner.gathered(grad_scale, found_inf) for tuner in self.tuners]
        found_inf = _found_inf(gathered)
        for tuner, own in zip(self.tuners, gathered):
            tuner.tune(own._replace(found_inf=found_inf))

    def collect(self) -> None:
        for tuner in self.tuners:
            tuner.collect()

    def coefficients_on(self, device: torch.device, group: int = 0) -> Tensor:
        return self.tuners[group].coefficients_on(device)

    # ---- what is saved and shown

    def parts(self, groups: list[dict[str, Any]]) -> list[tuple[SavedTuner, list[dict[str, Any]]]]:
        self._arrange(groups)
        return [(tuner, [group]) for tuner, group in zip(self.tuners, groups)]

    def diagnostics(self, groups: list[dict[str, Any]], group: int = 0) -> dict[str, float]:
        self._arrange(groups)
        return self.tuners[group].diagnostics([groups[group]])

    def lrs(self, groups: list[dict[str, Any]]) -> list[float]:
        self._arrange(groups)
        return [lr for tuner, group in zip(self.tuners, groups) for lr in tuner.lrs([group])]

    def publish(self, groups: list[dict[str, Any]]) -> None:
        self._arrange(groups)
        for tuner, group in zip(self.tuners, groups):
            tuner.publish([group])

    def is_published(self, groups: list[dict[str, Any]]) -> bool:
        return all(tuner.is_published([group]) for tuner, group in zip(self.tuners, groups))

    def keep_groups(self, num_groups: int) -> None:
        """Nothing: groups are known by what is in them."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.options, self.tuners, self._lr_watch, self._counted)


def _require_as_many(groups: int, between: ShardGroup | None) -> None:
    """Raises RuntimeError on all processes unless they have as many groups; all take part."""
    if between is None:
        return
    counted = torch.tensor([1, groups, groups**2], dtype=torch.float64, device="cpu")
    counted = counted.to(between.place_for(counted.device))
    between.all_reduce(counted)
    processes, total, squares = counted.tolist()
    if processes * squares != total**2:
        raise RuntimeError(
            f"tune='group': this process has {groups} parameter groups, and others have more or "
            "fewer; give every process as many, in the same order, empty ones where it has no "
            "parameters of a group"
        )


def _found_inf(gathered: Sequence[Gathered]) -> Tensor | None:
    """GradScaler's verdict and that of all groups' gradients: non-zero to skip the step."""
    if len(gathered) == 1:
        return gathered[0].found_inf  # whose own gradient its tuner looks at itself
    _, _, scale, verdict, _ = gathered[0]
    squares = torch.stack([own.partials[:, _GRAD_SQ].sum() for own in gathered])
    if scale is not None:
        squares = squares / scale.double().square()
    refused = squares.isfinite().all().logical_not()
    if verdict is not None:
        refused = refused | (verdict != 0.0)
    return refused.float()


def _restore(
    options: YellowFinOptions,
    tuners: list[YellowFinTuner],
    lr_watch: LearningRateWatch | None,
    counted: bool,
) -> GroupwiseTuner:
    tuner = GroupwiseTuner(options)
    tuner.tuners, tuner._lr_watch, tuner._counted = list(tuners), lr_watch, counted
    return tuner
