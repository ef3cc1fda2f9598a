"""A YellowFin tuner for each parameter group, and one decision on whether the step counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from yfkernels.ops.backend import Backend
from yfkernels.ops.constants import SUMS
from yfkernels.ops.options import YellowFinOptions
from yfkernels.ops.table import TensorTable
from yfkernels.sharding.shards import Sharding
from yfkernels.tuners.lr_watch import LearningRateWatch
from yfkernels.tuners.tuner import SavedTuner, Tuner
from yfkernels.tuners.yellowfin import Gathered, YellowFinTuner

_GRAD_SQ = SUMS.index("grad_sq")


class GroupwiseTuner(Tuner):
    """Statistics, distance, momentum and number of steps of each parameter group for itself.

    A gradient that is not finite in one group has the step refused in all of them. A group without
    a gradient, which the robust mode knows by its sum of 0, takes no step and keeps its state.

    Args:
        options: YellowFin's global options, of the robust mode.

    Attributes:
        tuners: of each group.
    """

    key = YellowFinTuner.key
    needed = True
    runs_on_host = True
    always_sums = True
    by_group = True

    def __init__(self, options: YellowFinOptions) -> None:
        self.options = options
        self.tuners: list[YellowFinTuner] = []
        self._lr_watch: LearningRateWatch | None = LearningRateWatch()  # until all is said

    def global_options(self) -> dict[str, Any]:
        return {**self.options.in_words(), "closed_loop": False, "tune": "group"}

    def _make_tuners(self, num_groups: int) -> None:
        while len(self.tuners) < num_groups:
            self.tuners.append(YellowFinTuner(self.options, watch_lr=False))

    # ---- a set of tables

    def prepare(
        self,
        tables: Sequence[TensorTable],
        sharding: Sharding,
        num_groups: int,
        device: torch.device,
        backend: Backend,
    ) -> None:
        self._make_tuners(num_groups)
        self.keep_groups(num_groups)
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
        self._make_tuners(len(groups))
        return [(tuner, [group]) for tuner, group in zip(self.tuners, groups)]

    def diagnostics(self, group: int = 0) -> dict[str, float]:
        return self.tuners[group].diagnostics()

    def lrs(self) -> list[float]:
        """The step size of the last step in each group; on CUDA this waits for the device."""
        return [lr for tuner in self.tuners for lr in tuner.lrs()]

    def publish(self, groups: list[dict[str, Any]]) -> None:
        self._make_tuners(len(groups))
        for tuner, group in zip(self.tuners, groups):
            tuner.publish([group])

    def is_published(self, groups: list[dict[str, Any]]) -> bool:
        return all(tuner.is_published([group]) for tuner, group in zip(self.tuners, groups))

    def keep_groups(self, num_groups: int) -> None:
        del self.tuners[num_groups:]

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.options, self.tuners, self._lr_watch)


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
    options: YellowFinOptions, tuners: list[YellowFinTuner], lr_watch: LearningRateWatch | None
) -> GroupwiseTuner:
    tuner = GroupwiseTuner(options)
    tuner.tuners, tuner._lr_watch = list(tuners), lr_watch
    return tuner
