"""YellowFin with a preconditioner in plain float64 NumPy: what every backend has to equal.

Two clocks. The raw gradient, of this step, drives the clips, which guard against explosions, and
the scale t, its root mean square. d is the gradient in units of t, and u = d / q what is left of it
in the metric q. YellowFin's measurement h = t² <d, u> is known when the update has been made: what
step j has summed is digested in step j + 1. All that is measured is measured in the metric over its
own size c, the root mean square that q would have without rounding and floor. Numbered comments are
the steps of the specification; k is the 0-based iteration.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from oracle.codes import VALUES, coded, in_float8, numbers_of_float8, random_words
from oracle.elements import Words, origins
from oracle.vectors import Array, is_finite, norm_of
from oracle.yellowfin import OracleGroup, Trace, single_step

E = 1e-30
B2 = 0.999  # of the squares, and of the scale
FLOOR = 2.0**-16  # of the metric
KAPPA = 30.0  # the most that h_max / h_min may be
START = 1e-2  # first travel, relative to 1 + ‖x_0‖
STRETCH = 2.0  # how many times as long as the distance says a step is
MOMENTUM_MIN = 0.5
OF_A_STEP = ("advanced", "uphill", "metric", "directions", "uphill_terms", "velocity_terms")


def clip_factor(target: float, norm: float, e: float = E) -> float:
    return min(1.0, target / (norm + e))


@dataclass
class PreconditionedGroup(OracleGroup):
    """A parameter group with the squares behind its metric: preconditioner="diagonal"."""

    unit: float = field(init=False, default=0.0)  # of velocities in float8
    squares: list[Array] = field(init=False)  # s, as it is kept from step to step
    steps: list[int] = field(init=False)  # m: each parameter counts its own
    # Of the last step: s, d, q and u, and how large the terms of d and of v are that may cancel.
    advanced: list[Array] = field(init=False)
    uphill: list[Array] = field(init=False)
    metric: list[Array] = field(init=False)
    directions: list[Array] = field(init=False)
    uphill_terms: list[Array] = field(init=False)
    velocity_terms: list[Array] = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.steps = [0] * len(self.params)
        self.squares = [np.full_like(p, self.first_square()) for p in self.params]
        for kept in OF_A_STEP:
            setattr(self, kept, [np.zeros_like(p) for p in self.params])

    def first_square(self) -> float:
        return 0.0

    def keep(self, i: int, origin: int) -> None:
        """Takes in s of the last step; origin: of the parameter's elements in the model."""
        self.squares[i] = self.advanced[i]

    def rest(self, i: int, growth: float) -> None:
        """Of a parameter that takes no part in a step; growth: of the unit of velocities."""


@dataclass
class CompactGroup(PreconditionedGroup):
    """preconditioner="compact": the squares are kept in 8-bit codes."""

    words: list[Words] = field(init=False)  # random bits of each parameter's last step

    def __post_init__(self) -> None:
        super().__post_init__()
        self.words = [np.zeros(p.shape, np.uint32) for p in self.params]

    def first_square(self) -> float:
        return float(VALUES[0])

    def keep(self, i: int, origin: int) -> None:
        s = self.advanced[i]
        self.words[i] = random_words(origin, s.size, self.steps[i])
        self.squares[i] = VALUES[coded(s, self.words[i])]


@dataclass
class Float8Group(CompactGroup):
    """momentum_dtype=torch.float8_e4m3fn: the velocities are kept in float8, in units."""

    velocities: list[Array] = field(init=False)  # of the last step, before they were rounded

    def __post_init__(self) -> None:
        super().__post_init__()
        self.velocities = [np.zeros_like(p) for p in self.params]

    def keep(self, i: int, origin: int) -> None:
        super().keep(i, origin)
        self.velocities[i] = self.buffers[i]
        bits = in_float8(self.buffers[i] / self.unit, self.words[i])
        self.buffers[i] = numbers_of_float8(bits) * self.unit

    def rest(self, i: int, growth: float) -> None:
        self.buffers[i] = growth * self.buffers[i]


class Extremes:
    """Smoothed ends of a window of recent values; both need at least one value."""

    def __init__(self, window: int, beta: float, log_smooth: bool) -> None:
        self.window, self.beta, self.log_smooth = window, beta, log_smooth
        self.recent: list[float] = []
        self.lowest = self.highest = 0.0  # averages, not debiased
        self.low = self.high = 0.0

    def update(self, value: float, z: float) -> None:
        """z: 1 - beta^n, n values with this one."""
        self.recent = [*self.recent, value][-self.window :]
        low, high = min(self.recent), max(self.recent)
        if self.log_smooth:
            low, high = math.log(low + E), math.log(high + E)
        self.lowest = self.beta * self.lowest + (1.0 - self.beta) * low
        self.highest = self.beta * self.highest + (1.0 - self.beta) * high
        self.low, self.high = self.lowest / z, self.highest / z
        if self.log_smooth:
            self.low, self.high = math.exp(self.low), math.exp(self.high)


class PreconditionedOracle:
    """The optimizer. `step` takes one gradient (or None) per parameter, group after group."""

    robust = True
    trust_ratio = False

    def __init__(
        self,
        groups: Sequence[PreconditionedGroup],
        *,
        beta: float | None = None,
        window: int = 20,
        clip: str | None = "adaptive",
        max_norm: float | None = None,
        log_smooth: bool = True,
        initial_momentum: float = 0.0,
    ) -> None:
        self.groups = list(groups)
        self.beta = 0.99 if beta is None else beta
        self.adaptive = clip == "adaptive"
        self.max_norm = max_norm
        self.first_momentum = max(MOMENTUM_MIN, initial_momentum)

        self.k = 0
        self.skipped_steps = 0
        self.started: set[int] = set()  # positions of the parameters that have had a gradient
        self.clipped = Extremes(window, self.beta, log_smooth)  # of the squared norms: E
        self.curvature = Extremes(window, self.beta, log_smooth)  # of h
        self.recent_avg = 0.0  # of the squared norms over ten steps or so
        self.mean_square_avg = 0.0  # M
        self.scale = 0.0  # t
        self.relative_avg = 0.0  # of the squares of d
        self.metric_size = 1.0  # c
        self.update_clip = 1.0
        self.unit = 0.0  # of velocities in float8
        self.start_norm = 0.0  # ‖x_0‖
        self.start_size = 0  # n_0
        self.start_scale = 0.0  # t_0
        self.summed = 0.0  # G of the step before
        self.summed_growth = np.longdouble(0.0)  # W of the step before
        self.summed_shortfall = 0.0  # what W would be larger by, had each group the longest steps
        self.shortfall_scale = 0.0  # how large the terms of that are, which may cancel
        self.summed_walk = 0.0  # of W, what random steps make too much
        self.walk = 0.0  # of Q
        self.growth = np.longdouble(0.0)  # Q
        self.radius = 0.0  # r
        self.square_sum = 0.0  # A
        self.square_avg = 0.0  # S
        self.norm_avg = 0.0  # G_a
        self.distance_avg = 0.0  # Da
        self.h_min = self.h_max = self.variance = self.distance = 0.0
        self.last: Trace | None = None

    def add_group(self, group: PreconditionedGroup) -> None:
        self.groups.append(group)

    def step(
        self,
        gradients: Sequence[Array | None],
        *,
        grad_scale: float = 1.0,
        found_inf: bool = False,
        product_dtype: type[np.floating] = np.float32,
    ) -> Trace | None:
        """Take one step. A gradient whose square is not finite in `product_dtype` is skipped."""
        grads = [None if g is None else np.asarray(g, np.float64) / grad_scale for g in gradients]
        self.started |= {i for i, g in enumerate(grads) if g is not None}
        if found_inf or not all(is_finite(g, product_dtype) for g in grads if g is not None):
            self.skipped_steps += 1
            if self.last is not None:
                self.last.skipped_steps = self.skipped_steps
            return self.last
        norm = norm_of(grads)
        if norm == 0.0:
            return self.last  # nothing to learn from
        size = sum(g.size for g in grads if g is not None)

        clip, self.update_clip = self._clips(norm)  # 1, 2, 3

        # 4. The scale.
        digested = self.scale  # t of the step that has summed
        self.mean_square_avg = B2 * self.mean_square_avg + (1.0 - B2) * clip**2 * norm**2 / size
        self.scale = math.sqrt(self.mean_square_avg / (1.0 - B2 ** (self.k + 1)))
        size_before = self.metric_size
        squared_d = clip**2 * norm**2 / (size * self.scale**2)
        self.relative_avg = B2 * self.relative_avg + (1.0 - B2) * squared_d
        self.metric_size = math.sqrt(self.relative_avg / (1.0 - B2 ** (self.k + 1)))

        # 5. Momentum, from what the last update has summed. 6. The step size.
        if self.k == 0:
            self._start(size)
            momentum = self.first_momentum
            lr = (1.0 - momentum) * START * (1.0 + self.start_norm) / math.sqrt(size)
        else:
            momentum = self._digest(digested, size_before)
            lr = 0.0
            if self.square_sum > 0.0:
                # the step in the metric over c is along u c
                travel = self.scale * self.radius / math.sqrt(self.square_sum)
                lr = (1.0 - momentum) * travel * self.metric_size
        group_lrs = [STRETCH * lr * group.lr for group in self.groups]
        longest = STRETCH * lr * max(1.0, *(group.lr for group in self.groups))
        for i, group in enumerate(self.groups):
            if group.decoupled_weight_decay and group.weight_decay > 0.0:
                group_lrs[i] = min(group_lrs[i], (1.0 - momentum) / group.weight_decay)

        # 7. The move, and its sums for the next step.
        self.summed, self.summed_growth = 0.0, np.longdouble(0.0)
        self.summed_shortfall = self.shortfall_scale = 0.0
        todo = iter(zip(grads, self._origins(), strict=True))
        whole = longest / (1.0 - momentum) * 16.0
        unit = max(self.update_clip * whole, min(whole, self.unit), E)
        growth = unit / self.unit if self.unit else 0.0
        self.unit = unit
        for group, group_lr in zip(self.groups, group_lrs, strict=True):
            group.unit = unit
            for i in range(len(group.params)):
                g, origin = next(todo)
                if g is None:
                    group.rest(i, growth)
                else:
                    before = self.summed
                    self._move(group, i, clip * g / self.scale, group_lr, momentum)
                    # a random walk's squares: of the longest step, in place of the one taken
                    squared = (self.summed - before) * (self.update_clip / (1.0 - momentum)) ** 2
                    self.summed_shortfall += (longest**2 - group_lr**2) * squared
                    self.shortfall_scale += (longest**2 + group_lr**2) * squared
                    group.keep(i, origin)
        # and with that of the distance in place of the longest
        squared = self.summed * (self.update_clip / (1.0 - momentum)) ** 2
        self.summed_walk = (longest**2 - lr**2) * squared

        self.k += 1
        self.last = Trace(
            lr=group_lrs[0],
            momentum=momentum,
            h_min=self.h_min,
            h_max=self.h_max,
            variance=self.variance,
            distance=self.distance,
            distance_traveled=self.radius,
            grad_norm=norm,
            clip_coefficient=clip * self.update_clip,
            step=self.k,
            skipped_steps=self.skipped_steps,
            variance_scale=self.variance,
            group_lrs=group_lrs,
        )
        return self.last

    def _origins(self) -> list[int]:
        return origins([p.size for group in self.groups for p in group.params])

    def _clips(self, norm: float) -> tuple[float, float]:
        """(c1, update_clip): the factor on the gradient, and the one on the update alone."""
        k, envelope = self.k, self.clipped.high
        # 1. What the gradient is clipped to.
        clip = 1.0
        if self.max_norm is not None:
            clip *= clip_factor(self.max_norm, norm, 1e-6)
        if self.adaptive and k >= 2:
            clip *= clip_factor(10.0 * math.sqrt(envelope) + E, clip * norm)
        squared = clip**2 * norm**2
        exploding = k >= 1 and squared >= envelope
        # 2. The envelope.
        self.clipped.update(squared, 1.0 - self.beta ** (k + 1))
        # 3. How far the update is calmed.
        update_clip = 1.0
        if self.adaptive and exploding:
            update_clip = clip_factor(math.sqrt(envelope) + E, math.sqrt(squared))
        if self.adaptive and k >= 10:
            recent = self.recent_avg / (1.0 - 0.9**k)
            update_clip = min(update_clip, clip_factor(2.0 * math.sqrt(recent), math.sqrt(squared)))
        self.recent_avg = 0.9 * self.recent_avg + 0.1 * squared
        return clip, update_clip

    def _start(self, size: int) -> None:
        """What the first radius is made of."""
        params = [p for group in self.groups for p in group.params]
        self.start_norm = norm_of([params[i] for i in self.started])
        self.start_size, self.start_scale = size, self.scale
        self.radius = START * (1.0 + self.start_norm) / (math.sqrt(size) * self.scale)

    def _digest(self, scale: float, metric_size: float) -> float:
        """Momentum, from what the update of the step before has summed; with its t and c."""
        b, first = self.beta, self.k == 1
        h = scale**2 * metric_size * self.summed
        if first:
            relative = math.sqrt(h) / (math.sqrt(self.start_size) * self.start_scale)
            self.radius = START * (1.0 + self.start_norm) * relative
        self.growth += (self.summed_growth + self.summed_shortfall) / metric_size
        growth, walk = float(self.growth), self.walk + self.summed_walk / metric_size
        self.walk = min(walk, max(growth, 0.0))
        self.radius = max(self.radius, math.sqrt(abs(growth) - self.walk))
        self.square_sum += h

        z = 1.0 - b**self.k
        self.curvature.update(h, z)
        self.square_avg = b * self.square_avg + (1.0 - b) * h
        self.norm_avg = b * self.norm_avg + (1.0 - b) * math.sqrt(h)
        ratio = self.norm_avg / (self.square_avg + E)
        self.distance_avg = b * self.distance_avg + (1.0 - b) * ratio
        self.distance = self.distance_avg / z
        self.variance = max(self.square_avg / z, E)
        self.h_max = self.curvature.high
        self.h_min = max(self.curvature.low, self.h_max / KAPPA)
        if first:
            return self.first_momentum
        _, momentum = single_step(self.distance, self.variance, self.h_min, self.h_max, E)
        return max(MOMENTUM_MIN, momentum)

    def _move(
        self,
        group: PreconditionedGroup,
        i: int,
        g: Array,
        lr: float,
        momentum: float,
    ) -> None:
        """Step 7 for one parameter; g: its gradient after the clips, in units of t."""
        x, wd = group.params[i], group.weight_decay
        d, terms, keep = -g if group.maximize else g, np.abs(g), 1.0
        if group.decoupled_weight_decay:
            keep -= lr * wd / (1.0 - momentum)
        else:
            pull = wd * x / self.scale
            d, terms = d + pull, terms + np.abs(pull)

        group.steps[i] += 1
        s = group.advanced[i] = B2 * group.squares[i] + (1.0 - B2) * d**2
        q = np.sqrt(s / (1.0 - B2 ** group.steps[i])) + FLOOR
        u = d / q
        if group.lr == 0.0:
            momentum = 0.0  # told to stand still
        group.velocity_terms[i] = momentum * np.abs(
            group.buffers[i]
        ) + lr * self.update_clip * np.abs(u)
        v = group.buffers[i] = momentum * group.buffers[i] - lr * self.update_clip * u
        group.params[i] = keep * x + v

        self.summed += float(d @ u)
        new, old = group.params[i].astype(np.longdouble), x.astype(np.longdouble)
        self.summed_growth += ((new - old) * (new + old) * q).sum()
        group.uphill[i], group.uphill_terms[i] = d, terms
        group.metric[i], group.directions[i] = q, u
