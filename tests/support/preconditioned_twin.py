"""The preconditioned YellowFin and its oracle side by side: every step from where the last one led.

u = d / q makes a move of order 1 of the sign of a gradient, so what a parameter is off may come
back through the coupled decay as a whole move, and lr depends on all of them. The oracle therefore
goes on from the optimizer's own parameters and state, which it has just compared.

Tolerances. As in twin.py a sum of squares is good to 2e-6 relative (1e-13 in double precision): so
are ‖g‖² and ‖x_0‖², and clips and t, which depend on their roots and quotients. A term of d rounds
relative to itself, so d may be off by more than that where its terms cancel. s, q and u follow by
intervals, as if d and q were independent; but q² >= d² (1 - b2) / (1 - b2^m) bounds |u| whatever
the rounding. An error of t comes on top and is the same for all elements: it makes d and q smaller
or larger together, q by less, so that u = d / q and t² d u each are off by no more than t is. The
metric's own size c is off as ‖g‖² is. G = Σ d u inherits what its terms are off, and is a sum
itself. h = c t² G is off by what all are, and any average of h by the most that any h was; the
digest goes on as in twin.py. W is told to the oracle like the growth in twin.py, and is off
relative to the magnitudes it sums. What random steps add to it is off as G and the squares of lr
are.

A code has to be one that a number between the ends of the interval of s becomes with the random
bits of the element in this step. That is a single one but where those bits leave it open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.testing import assert_allclose
from oracle.codes import VALUES, coded, in_float8, numbers_of_float8
from oracle.preconditioned import (
    B2,
    CompactGroup,
    Float8Group,
    PreconditionedGroup,
    PreconditionedOracle,
)
from oracle.yellowfin import Trace

from support.cases import Group, Site, memory_order
from support.roundings import assert_between, assert_near
from support.twin import Twin
from yfkernels.ops.constants import STATE_FIELDS

Array = np.ndarray
NOT_FOR_THE_ORACLE = ("robust", "variance", "momentum_form", "initial_lr")
SMALLEST = 2.0**-126  # below it kernels may flush to zero
DOUBLE_ROUNDS = 2.0**-46  # the tuner's own arithmetic is in double precision


class PreconditionedTwin(Twin):
    """YellowFin with preconditioner="diagonal" and its oracle."""

    oracle_type = PreconditionedOracle
    group_type = PreconditionedGroup
    not_for_the_oracle = (*Twin.not_for_the_oracle, *NOT_FOR_THE_ORACLE)
    chosen: ClassVar = {"preconditioner": "diagonal"}
    assumed: ClassVar = {"decoupled_weight_decay": True}

    def __init__(
        self, site: Site, groups: Sequence[Group], rng: np.random.Generator, **options: Any
    ) -> None:
        super().__init__(site, groups, rng, **options)
        self.compared = 0  # steps
        self.h_off = 0.0  # relative, the most of any h
        self.growth_off = 0.0  # of Q
        # What the last step has summed is off by this: G relatively, W.
        self.summed_off = self.summed_growth_off = 0.0

    def rows(self) -> Iterator[tuple[torch.nn.Parameter, PreconditionedGroup, int, float]]:
        """Every parameter with its group in the oracle, its place there and the group's lr."""
        todo = iter(self.params)
        for group, lr in zip(self.oracle.groups, self.oracle.last.group_lrs, strict=True):
            for i in range(len(group.params)):
                yield next(todo), group, i, lr

    def compare(self, trace: Trace) -> None:
        """Diagnostics, step sizes, state and parameters, within the tolerances derived above."""
        taken, self.compared = trace.step > self.compared, trace.step
        if taken and trace.step > 1:
            # that of t² d u, and that of c
            self.h_off = max(self.h_off, self.summed_off + 2.0 * self.statistic)
            self.growth_off += self.summed_growth_off
        error, h_off = self.statistic, self.h_off
        tuned = 6.0 * h_off if trace.step > 2 else 0.0  # before, momentum is given
        radius = error + h_off + self.growth_off / self.oracle.radius**2
        rtol = {
            "lr": tuned + 2.0 * error + h_off + radius,
            "momentum": tuned,
            "h_min": 2.0 * h_off,
            "h_max": 2.0 * h_off,
            "variance": 2.0 * h_off,
            "distance": 2.0 * h_off,
            "distance_traveled": radius,
            "grad_norm": error,
            "clip_coefficient": 4.0 * error,
            "step": 0.0,
            "skipped_steps": 0.0,
        }
        rtol = {name: tolerance + DOUBLE_ROUNDS for name, tolerance in rtol.items()}
        self.compare_scalars(trace, rtol)
        if taken:
            self.compare_elements(trace, rtol["lr"], rtol["momentum"])
            self.go_on_from_the_optimizer()
        else:
            self.assert_near([np.zeros_like(g.params[i]) for _, g, i, _ in self.rows()], trace.step)

    def compare_elements(self, trace: Trace, lr_off: float, momentum_off: float) -> None:
        """State and parameters; and what they are off tells for their sums of the move."""
        error, eps = self.statistic, self.rounding
        clip_off = error if trace.clip_coefficient < 1.0 else 0.0
        summed = summed_off = growth_off = 0.0
        growth = np.longdouble(0.0)
        allowed = []
        for (p, group, i, lr), before in zip(self.rows(), self.before, strict=True):
            if p.grad is None:
                allowed.append(np.zeros_like(group.params[i]))
                self.compare_state(p, group, i, 0.0, None)
                continue
            s, q = group.advanced[i], group.metric[i]
            d, u = np.abs(group.uphill[i]), np.abs(group.directions[i])
            fresh = 1.0 - B2 ** group.steps[i]
            d_off = (clip_off + 3.0 * eps) * group.uphill_terms[i]
            s_off = (1.0 - B2) * (2.0 * d + d_off) * d_off + 4.0 * eps * s + SMALLEST
            root = np.sqrt(s / fresh)
            low, high = np.maximum(s - s_off, 0.0), s + s_off
            q_off = np.maximum(np.sqrt(high / fresh) - root, root - np.sqrt(low / fresh))
            q_off += 4.0 * eps * q
            with np.errstate(divide="ignore"):
                u_off = (d_off + u * q_off) / np.maximum(q - q_off, 0.0)
            u_off = np.minimum(u_off, u + np.sqrt(fresh / (1.0 - B2)))
            summed += float(d @ u)
            summed_off += float(d_off @ (u + u_off) + d @ u_off)

            s_off += 2.0 * error * (1.0 - B2) * d**2
            u_off += error * u
            v_off = (lr_off + momentum_off + error + 3.0 * eps) * group.velocity_terms[i]
            v_off += lr * self.oracle.update_clip * u_off + SMALLEST
            self.compare_state(p, group, i, v_off, (s - s_off, s + s_off))
            x = np.abs(before.astype(np.float64))
            x_off = v_off + 2.0 * eps * (x + group.velocity_terms[i])
            if group.decoupled_weight_decay:
                decay = lr * group.weight_decay / (1.0 - trace.momentum)
                x_off += decay * (lr_off + momentum_off) * x
            allowed.append(x_off)

            reached = self.newest(p)
            grown = (reached - before) * (reached + before)
            growth += (grown * q).sum()
            growth_off += float(np.abs(grown) @ (q_off + (2.0 * error + 4.0 * eps) * q))
        self.assert_near(allowed, trace.step)
        self.summed_off = error + (summed_off / summed if summed else 0.0)
        rest = 1.0 - trace.momentum
        walk_off = self.summed_off + 2.0 * (lr_off + momentum_off / rest) + 2.0 * error + 4.0 * eps
        growth_off += (self.oracle.shortfall_scale + self.oracle.summed_walk) * walk_off
        self.summed_growth_off = growth_off / self.oracle.metric_size
        self.oracle.summed_growth = growth

    def compare_state(
        self,
        p: torch.nn.Parameter,
        group: PreconditionedGroup,
        i: int,
        v_off: Any,
        s_ends: tuple[Array, Array] | None,
    ) -> None:
        """s_ends: what s may be, None if the parameter took no part in the step."""
        state = self.optimizer.state.get(p)
        if not state:
            assert group.steps[i] == 0
            return
        assert state["step"].dtype is torch.float32
        assert state["step"].shape == ()
        assert int(state["step"]) == group.steps[i]
        if p.numel():
            self.compare_velocity(p, group, i, v_off, rests=s_ends is None)
            if s_ends is None:
                assert np.array_equal(self.squares(p), group.squares[i])
            else:
                self.compare_squares(p, group, i, *s_ends)

    def velocity(self, p: torch.nn.Parameter) -> Array:
        """v as the optimizer keeps it."""
        return in_memory(self.optimizer.state[p]["momentum_buffer"], p)

    def compare_velocity(
        self, p: torch.nn.Parameter, group: Any, i: int, off: Any, *, rests: bool
    ) -> None:
        """rests: whether the parameter took no part in the step."""
        assert_near(self.velocity(p), group.buffers[i], off, "v")

    def squares(self, p: torch.nn.Parameter) -> Array:
        """s as the optimizer keeps it."""
        return in_memory(self.optimizer.state[p]["exp_avg_sq"], p)

    def compare_squares(
        self, p: torch.nn.Parameter, group: Any, i: int, low: Array, high: Array
    ) -> None:
        off = np.maximum(high - group.squares[i], group.squares[i] - low)
        assert_near(self.squares(p), group.squares[i], off, "s")

    def go_on_from_the_optimizer(self) -> None:
        for p, group, i, _ in self.rows():
            group.params[i] = self.newest(p).astype(np.float64)
            if self.optimizer.state.get(p):
                group.buffers[i] = self.velocity(p)
                group.squares[i] = self.squares(p)


class CompactTwin(PreconditionedTwin):
    """The default YellowFin, with preconditioner="compact", and its oracle."""

    group_type = CompactGroup
    chosen: ClassVar = {}

    def squares(self, p: torch.nn.Parameter) -> Array:
        values: Array = VALUES[self.codes(p)]
        return values

    def codes(self, p: torch.nn.Parameter) -> Array:
        state = self.optimizer.state[p]["exp_avg_sq_codes"]
        assert state.dtype is torch.uint8
        return in_memory(state, p).astype(int)

    def compare_squares(
        self, p: torch.nn.Parameter, group: Any, i: int, low: Array, high: Array
    ) -> None:
        codes, words = self.codes(p), group.words[i]
        least, most = coded(np.maximum(low, 0.0), words), coded(high, words)
        assert_between(codes, least, most)


class Float8Twin(CompactTwin):
    """YellowFin with momentum_dtype=torch.float8_e4m3fn, and its oracle.

    What a velocity becomes in float8 has to be between those that the ends of its interval become
    with the element's random bits. Its unit is off as lr and momentum are; from step to step the
    oracle takes the optimizer's.
    """

    group_type = Float8Group
    not_for_the_oracle = (*CompactTwin.not_for_the_oracle, "momentum_dtype")
    chosen: ClassVar = {"momentum_dtype": torch.float8_e4m3fn}

    @property
    def unit(self) -> float:
        return float(self.optimizer.param_groups[0]["tuner"][STATE_FIELDS.index("unit")])

    def bits(self, p: torch.nn.Parameter) -> Array:
        state = self.optimizer.state[p]["momentum_codes"]
        assert state.dtype is torch.uint8
        return in_memory(state, p).astype(np.uint8)

    def velocity(self, p: torch.nn.Parameter) -> Array:
        return self.unit * numbers_of_float8(self.bits(p))

    def step(self, *args: Any, **kwargs: Any) -> None:
        state = self.optimizer.state
        self.bits_before = {p: self.bits(p) for p in self.params if p in state}
        super().step(*args, **kwargs)

    def compare_velocity(
        self, p: torch.nn.Parameter, group: Any, i: int, off: Any, *, rests: bool
    ) -> None:
        if rests:
            assert np.array_equal(self.bits(p), self.bits_before[p])
            return
        off = off + 4.0 * self.rounding * group.velocity_terms[i]  # to units, and with their change
        v, words = group.velocities[i], group.words[i]
        seen = numbers_of_float8(self.bits(p))
        least, most = (
            numbers_of_float8(in_float8(end / self.unit, words)) for end in (v - off, v + off)
        )
        assert_between(seen, least, most)

    def compare_scalars(
        self, trace: Trace, rtol: dict[str, float], variance_error: float = 0.0
    ) -> None:
        super().compare_scalars(trace, rtol, variance_error)
        if trace.step:
            off = rtol["lr"] + rtol["momentum"] / (1.0 - trace.momentum)
            assert_allclose(self.unit, self.oracle.unit, rtol=off)

    def go_on_from_the_optimizer(self) -> None:
        super().go_on_from_the_optimizer()
        self.oracle.unit = self.unit


def in_memory(state: torch.Tensor, p: torch.nn.Parameter) -> Array:
    """State of a complex parameter has pairs of reals."""
    like = p.detach()
    return memory_order(state, torch.view_as_real(like) if like.is_complex() else like).copy()


_TWINS = {None: Twin, "diagonal": PreconditionedTwin, "compact": CompactTwin}


def twin_for(options: Mapping[str, Any], preconditioner: str | None = None) -> type[Twin]:
    """What runs YellowFin with these options beside their oracle."""
    if options.get("momentum_dtype") is torch.float8_e4m3fn:
        return Float8Twin
    return _TWINS[options.get("preconditioner", preconditioner)]


def yellowfin_beside(
    site: Site, groups: Sequence[Group], rng: np.random.Generator, **options: Any
) -> Twin:
    """YellowFin beside the oracle that its options ask for."""
    return twin_for(options)(site, groups, rng, **options)
