"""Whether `lr`, a multiplier in YellowFin, is used as the learning rate it is elsewhere."""

from __future__ import annotations

from yfkernels._warn import warn

HARDLY_MOVES = 0.1  # as a multiplier; as a learning rate, the largest that is common
_STEPS = 3  # without a rise: a warm-up's lr rises


class LearningRateWatch:
    """Frameworks always pass a learning rate, and with one of 1e-3 YellowFin does not train.

    Judged while training, since a scheduler may set 1.0 after construction, or 1e-3.
    """

    def __init__(self) -> None:
        self._largest = 0.0
        self._steps = 0

    def sees(self, lrs: list[float]) -> bool:
        """Takes the lr of each group in a step; whether all is said.

        Warns when the largest has not risen for a while and never was above 0.1.
        """
        largest = max(lrs, default=0.0)
        if largest > HARDLY_MOVES:
            return True
        if largest > self._largest or largest == 0.0:
            self._largest, self._steps = max(largest, self._largest), 0
        self._steps += largest > 0.0
        if self._steps < _STEPS:
            return False
        warn(
            f"lr={largest:g} is not a learning rate but a multiplier on the step size that "
            f"YellowFin tunes: at {HARDLY_MOVES:g} or less training hardly moves. Leave lr out, "
            "or set 1.0 where a framework passes its own: lr=1.0 (skorch, fastai), --lr 1.0 "
            "(timm), learning_rate=1.0 (Trainer); and do without lr_find"
        )
        return True
