"""A schedule that changes learning rate, momentum and batch size together, stage by stage."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import astuple
from itertools import accumulate
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from yfkernels._checks import finite, is_count, require, require_number
from yfkernels.schedules.batch_size_sampler import BatchSizeSampler
from yfkernels.schedules.stage import Stage, check_constants, check_stages

_PARTS = ("lr", "beta", "batch_size")


def _check_types(optimizer: Any, batch_sampler: Any) -> None:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"Invalid optimizer type: {type(optimizer).__name__}; give an Optimizer")
    if isinstance(batch_sampler, DataLoader):
        raise TypeError(
            "Invalid batch_sampler type: DataLoader; give the BatchSizeSampler, not the DataLoader"
        )


def _momentum_key(group: dict[str, Any]) -> str:
    for key in ("beta", "betas", "momentum"):
        if key in group and "tuned_lr" not in group:  # YellowFin's momentum is read-only
            return key
    raise ValueError(
        "Invalid stages: beta is to vary, but the optimizer's groups have no 'beta', 'betas' or "
        "'momentum'; leave beta out and schedule lr alone. (YellowFin tunes its momentum itself.)"
    )


def _beta_of(group: dict[str, Any]) -> float:
    value = group[_momentum_key(group)]
    return float(value[0] if isinstance(value, Sequence) else value)


def _set_beta(group: dict[str, Any], beta: float) -> None:
    key = _momentum_key(group)
    value = group[key]
    old = value[0] if isinstance(value, Sequence) else value
    if isinstance(old, Tensor):  # in place: the optimizer's kernels may hold its address
        old.fill_(beta)
    else:
        group[key] = (beta, *value[1:]) if isinstance(value, Sequence) else beta


class MultistageSchedule(LRScheduler):
    """Learning rate, momentum and batch size that change together, stage by stage.

    Works with any torch optimizer. Momentum is the groups' "beta", the first of "betas", or
    "momentum". Lengths count calls of `step()`, whether epochs or iterations; after the last stage
    its values stay in effect. Like torch's step schedules, it multiplies the current lr when a
    stage changes, so it can be chained with other schedules.

    The theory (Liu, Gao, Yin, NeurIPS 2020; Sun et al., doi 10.1145/3544782) keeps `lr * length`,
    `lr * beta / (1 - beta)` and `lr / batch_size` constant over the stages. Its lr is that of QHM;
    torch's SGD with dampening 0 steps `1 / (1 - momentum)` times as far.

    Args:
        optimizer: the optimizer whose groups are scheduled.
        stages: at least one stage. Either all of them or none have a beta; the same holds for the
            batch size.
        batch_sampler: receives the stages' batch sizes: a `BatchSizeSampler`, or any object with an
            attribute `batch_size`. Required if the stages have batch sizes.
        beta_ramp: number of steps over which beta moves linearly from one stage's value to the
            next, starting with the first step of the new stage. 0 changes it at once.
        total_steps: length of the run, which the stages must cover; None for no check.
        check_invariants: reject stages over which a constant of the theory changes by more than
            rounding: half a step, half a sample, and 1.5% of every other number.
        last_epoch: index of the last step when resuming without load_state_dict(); -1 to start
            from the beginning.

    Raises:
        ValueError: an argument out of its range; stages that are too short for the run or break an
            invariant; the optimizer has no momentum to vary, or the sampler is missing.
        TypeError: an argument of the wrong type.

    Example:
        >>> opt = torch.optim.SGD(torch.nn.Linear(4, 1).parameters(), lr=1.0, momentum=0.9)
        >>> stages = [Stage(length=5), Stage(length=10, lr_factor=0.5)]
        >>> schedule = MultistageSchedule(opt, stages, total_steps=15)
        >>> for epoch in range(5):
        ...     opt.step()
        ...     schedule.step()
        >>> schedule.get_last_lr()
        [0.5]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        stages: Sequence[Stage],
        *,
        batch_sampler: BatchSizeSampler | None = None,
        beta_ramp: int = 0,
        total_steps: int | None = None,
        check_invariants: bool = True,
        last_epoch: int = -1,
    ) -> None:
        _check_types(optimizer, batch_sampler)
        self._batch_sampler = batch_sampler
        self._check(optimizer, stages, beta_ramp)
        steps = sum(stage.length for stage in stages)
        if total_steps is not None and steps < total_steps:
            raise ValueError(
                f"Invalid stages: they last {steps} steps and the run {total_steps} (total_steps); "
                "lengthen the last stage or add one"
            )
        if check_invariants:
            check_constants(stages)
        self._set_stages(stages, beta_ramp)
        super().__init__(optimizer, last_epoch)

    @classmethod
    def from_first_stage(
        cls,
        optimizer: Optimizer,
        *,
        length: int,
        count: int,
        ratio: float = 2.0,
        vary: str | Collection[str] = ("lr", "beta"),
        lr_ratio: float | None = None,
        batch_sampler: BatchSizeSampler | None = None,
        beta_ramp: int = 0,
        total_steps: int | None = None,
    ) -> MultistageSchedule:
        """A schedule whose later stages follow from the first by the rule of the theory.

        Stage i lasts `length * ratio**i` steps with `lr * ratio**-i`. From each stage to the next,
        `beta / (1 - beta)` grows by the factor `ratio` and the batch size shrinks by it. The first
        stage uses the current values of the optimizer and the sampler.

        Args:
            optimizer: the optimizer whose groups are scheduled; to vary beta, all groups must have
                the same.
            length: number of steps of the first stage.
            count: number of stages.
            ratio: ratio between one stage and the next, > 0.
            vary: what follows the rule: one or several of "lr", "beta" and "batch_size". The rest
                stays unchanged.
            lr_ratio: a different ratio for lr only; more than `ratio` shrinks lr faster.
            batch_sampler: as for the class.
            beta_ramp: as for the class.
            total_steps: as for the class.

        Raises:
            ValueError: as for the class; an unknown name in `vary`; a batch size that would fall
                below 1.
            TypeError: as for the class.

        Example:
            >>> opt = torch.optim.Adam(torch.nn.Linear(4, 1).parameters(), lr=1.0)
            >>> schedule = MultistageSchedule.from_first_stage(opt, length=5, count=4)
            >>> [(s.length, s.lr_factor, round(s.beta, 3)) for s in schedule.stages]
            [(5, 1.0, 0.9), (10, 0.5, 0.947), (20, 0.25, 0.973), (40, 0.125, 0.986)]
        """
        _check_types(optimizer, batch_sampler)
        require(is_count(length), "length", length, "an integer >= 1")
        require(is_count(count), "count", count, "an integer >= 1")
        vary = (vary,) if isinstance(vary, str) else vary
        known = len(vary) > 0 and set(vary) <= set(_PARTS)
        require(known, "vary", vary, f"a non-empty selection of {_PARTS}")
        if lr_ratio is not None:
            require("lr" in vary, "lr_ratio", lr_ratio, "None unless vary has 'lr'")
        lr_ratio = ratio if lr_ratio is None else lr_ratio
        for name, value in (("ratio", ratio), ("lr_ratio", lr_ratio)):
            require_number(name, value)
            require(finite(value) and value > 0.0, name, value, "finite and > 0")
        odds = None
        if "beta" in vary:
            betas = {_beta_of(group) for group in optimizer.param_groups}
            if len(betas) > 1 or not 0.0 < min(betas) < 1.0:
                found = ", ".join(map(str, sorted(betas)))
                raise ValueError(
                    f"Invalid momentum of the groups: {found}; to vary beta it must be one number "
                    "in (0, 1); set it in the optimizer, or give stages"
                )
            beta = betas.pop()
            odds = beta / (1.0 - beta)
        batch_size = None
        if "batch_size" in vary:
            require(batch_sampler is not None, "batch_sampler", batch_sampler, "given to be varied")
            batch_size = batch_sampler.batch_size  # type: ignore[union-attr]
            ok = round(batch_size / ratio ** (count - 1)) >= 1
            require(ok, "count", count, f"smaller: batch size {batch_size} would fall below 1")
        stages = []
        for i in range(count):
            growth = ratio**i
            grown = None if odds is None else odds * growth
            stages.append(
                Stage(
                    length=round(length * growth),
                    lr_factor=lr_ratio**-i if "lr" in vary else 1.0,
                    beta=None if grown is None else grown / (1.0 + grown),
                    batch_size=None if batch_size is None else round(batch_size / growth),
                )
            )
        return cls(
            optimizer,
            stages,
            batch_sampler=batch_sampler,
            beta_ramp=beta_ramp,
            total_steps=total_steps,
            check_invariants=False,  # they hold as far as `vary` and `lr_ratio` allow
        )

    def _check(self, optimizer: Optimizer, stages: Sequence[Stage], beta_ramp: int) -> None:
        check_stages(stages)
        has_beta = stages[0].beta is not None
        if has_beta:
            for group in optimizer.param_groups:
                _momentum_key(group)
        sized = stages[0].batch_size is not None
        if sized:
            given = self._batch_sampler is not None
            require(given, "batch_sampler", None, "the DataLoader's BatchSizeSampler")
        elif self._batch_sampler is not None:
            raise ValueError(
                "Invalid batch_sampler: no stage has a batch size; leave it out or vary batch_size"
            )
        ok = beta_ramp == 0 or (has_beta and is_count(beta_ramp))
        require(ok, "beta_ramp", beta_ramp, "a number of steps >= 0, and 0 if no stage has a beta")
        for index, stage in enumerate(stages[1:], start=1):
            fix = f"at most the length of stage {index}, {stage.length}"
            require(beta_ramp <= stage.length, "beta_ramp", beta_ramp, fix)

    def _set_stages(self, stages: Sequence[Stage], beta_ramp: int) -> None:
        self._stages = tuple(stages)
        self._starts = [0, *accumulate(stage.length for stage in self._stages[:-1])]
        self._beta_ramp = beta_ramp

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages, in order."""
        return self._stages

    @property
    def stage(self) -> int:
        """Index of the current stage."""
        return self._stage_at(self.last_epoch)

    def _stage_at(self, step: int) -> int:
        return max(0, bisect_right(self._starts, step) - 1)

    def _beta(self) -> float | None:
        index = self.stage
        beta = self._stages[index].beta
        steps = self.last_epoch - self._starts[index]
        if beta is None or index == 0 or steps >= self._beta_ramp:
            return beta
        before = self._stages[index - 1].beta
        assert before is not None
        return before + (beta - before) * steps / self._beta_ramp

    def _apply(self) -> None:
        """Sets momentum and batch size whenever lr is computed, as torch's cyclic schedules do."""
        beta = self._beta()
        if beta is not None:
            for group in self.optimizer.param_groups:
                _set_beta(group, beta)
        batch_size = self._stages[self.stage].batch_size
        if self._batch_sampler is not None and batch_size is not None:
            self._batch_sampler.batch_size = batch_size

    def _lr_factor(self, step: int) -> float:
        return 1.0 if step < 0 else self._stages[self._stage_at(step)].lr_factor

    def get_lr(self) -> list[float | Tensor]:
        """The lr of each group at this step, from that of the last step; called by step()."""
        self._apply()
        change = self._lr_factor(self.last_epoch) / self._lr_factor(self.last_epoch - 1)
        return [group["lr"] * change for group in self.optimizer.param_groups]

    def _get_closed_form_lr(self) -> list[float | Tensor]:
        self._apply()
        return [base * self._lr_factor(self.last_epoch) for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """The schedule's state in plain types, stages included; save the sampler's separately."""
        left_out = ("_batch_sampler", "_starts")
        state = {k: value for k, value in super().state_dict().items() if k not in left_out}
        return state | {"_stages": [list(astuple(stage)) for stage in self._stages]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues where state_dict() was taken, with the stages saved there.

        Momentum and batch size are set immediately; lr is part of the optimizer's own state.

        Raises:
            ValueError: the saved stages vary something that this optimizer or sampler lacks.
        """
        stages = [Stage(*values) for values in state_dict["_stages"]]
        self._check(self.optimizer, stages, state_dict["_beta_ramp"])
        super().load_state_dict(state_dict)
        self._set_stages(stages, self._beta_ramp)
        self._apply()
