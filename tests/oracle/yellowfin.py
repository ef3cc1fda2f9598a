"""YellowFin in plain float64 NumPy: the slow, obvious optimizer that every backend has to equal.

It follows the specification line by line and shares no code with the package. Nothing is fused,
rearranged or streamed. Numbered comments are the steps of the specification; k is the 0-based
iteration.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from oracle.elements import BUCKETS, mixed, origins
from oracle.vectors import Array, is_finite, norm_of

EPS = 1e-6


def cubic_root(p: float) -> float:
    """Root in [0, 1] of (1-x)³ = p x, by bisection down to neighbouring floats."""
    low, high = 0.0, 1.0
    while low < (middle := 0.5 * (low + high)) < high:
        if (1.0 - middle) ** 3 > p * middle:
            low = middle
        else:
            high = middle
    return high


def single_step(
    distance: float, variance: float, h_min: float, h_max: float, e: float = EPS
) -> tuple[float, float]:
    """(lr, momentum) that minimise mu D² + alpha² C; step 7 without the slow start."""
    p = (distance + e) ** 2 * (h_min + e) ** 2 / (2.0 * (variance + e))
    ratio = max((h_max + e) / (h_min + e), 1.0 + EPS)
    sqrt_mu = max(cubic_root(p), (math.sqrt(ratio) - 1.0) / (math.sqrt(ratio) + 1.0))
    return (1.0 - sqrt_mu) ** 2 / (h_min + e), sqrt_mu**2


def sketch_sign(element: NDArray[np.uint64]) -> Array:
    """+1 or -1 per global element e: bit (e mod 32) of a hash of the block number e div 32."""
    block = element // np.uint64(32)
    x = mixed((block ^ (block >> np.uint64(32))).astype(np.uint32))
    bit = (x >> (element % np.uint64(32)).astype(np.uint32)) & np.uint32(1)
    return 1.0 - 2.0 * bit


def sketch(gradients: Sequence[Array | None], sizes: Sequence[int]) -> Array:
    """Signed bucket sums of the gradient."""
    buckets = np.zeros(BUCKETS)
    for gradient, size, origin in zip(gradients, sizes, origins(sizes), strict=True):
        if gradient is not None:
            element = np.arange(origin, origin + size, dtype=np.uint64)
            signed = sketch_sign(element) * gradient
            bucket = (element % np.uint64(BUCKETS)).astype(np.int64)
            buckets += np.bincount(bucket, signed, BUCKETS)
    return buckets


@dataclass
class OracleGroup:
    """One parameter group: flat float64 parameters in memory order, and its settings."""

    params: list[Array]
    lr: float = 1.0
    weight_decay: float = 0.0
    decoupled_weight_decay: bool = False
    maximize: bool = False
    buffers: list[Array] = field(init=False)
    grad_avgs: list[Array] = field(init=False)
    path: list[Array] = field(init=False)

    def __post_init__(self) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in self.params]
        self.buffers = [np.zeros_like(p) for p in self.params]
        self.grad_avgs = [np.zeros_like(p) for p in self.params]
        # How far each element has travelled, counting every gradient with its later effect through
        # the momentum: what an error of the tuned lr and momentum is relative to.
        self.path = [np.zeros_like(p) for p in self.params]
        # With trust_ratio: the sum in the buffer without cancellation, and its slope in momentum.
        self.magnitudes = [np.zeros_like(p) for p in self.params]
        self.slopes = [np.zeros_like(p) for p in self.params]
        self.trust_ratios = [math.nan] * len(self.params)


@dataclass
class Trace:
    """What one taken step saw and decided."""

    lr: float
    momentum: float
    h_min: float
    h_max: float
    variance: float
    distance: float
    distance_traveled: float
    grad_norm: float
    clip_coefficient: float
    step: int
    skipped_steps: int
    variance_scale: float  # S/z: the size of the two terms whose difference the variance is
    group_lrs: list[float]


class YellowFinOracle:
    """The optimizer. `step` takes one gradient (or None) per parameter, group after group."""

    def __init__(
        self,
        groups: Sequence[OracleGroup],
        *,
        beta: float | None = None,
        window: int = 20,
        clip: str | None = "adaptive",
        max_norm: float | None = None,
        variance: str | None = None,
        momentum_form: str | None = None,
        log_smooth: bool = True,
        sparsity_debias: bool = False,
        initial_lr: float = 1e-4,
        initial_momentum: float = 0.0,
        trust_ratio: bool = False,
        robust: bool = True,
    ) -> None:
        self.groups = list(groups)
        self.robust = robust
        self.e = 1e-30 if robust else EPS
        self.beta = 0.99 if robust and beta is None else 0.999 if beta is None else beta
        self.window = window
        self.adaptive = clip == "adaptive"
        self.max_norm = max_norm
        self.sketched = variance == "sketch"
        self.polyak = robust if momentum_form is None else momentum_form == "polyak"
        self.log_smooth = log_smooth
        self.sparsity_debias = sparsity_debias
        self.initial_lr = initial_lr
        self.initial_momentum = initial_momentum
        self.trust_ratio = trust_ratio

        self.k = 0
        self.skipped_steps = 0
        self.recent: list[float] = []  # the last `window` values of h
        self.smooth_lo = self.smooth_hi = 0.0  # L, U
        self.h_max = 0.0  # of the step before
        self.square_avg = 0.0  # S
        self.norm_avg = 0.0  # G
        self.distance_avg = 0.0  # Da
        self.density_avg = 0.0
        self.sketch_avg = np.zeros(BUCKETS)
        self.started: set[int] = set()  # positions of the parameters that have had a gradient
        self.growth = np.longdouble(0.0)  # q = ‖x‖² - ‖x_0‖²
        self.growth_scale = 0.0  # Σ |change of an element's square|: what rounding is relative to
        self.radius = 0.0  # r
        self.square_sum = 0.0  # Gs
        self.recent_avg = 0.0  # of h over ten steps or so
        self.last: Trace | None = None

    def add_group(self, group: OracleGroup) -> None:
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
        # 0. Unscale.
        grads = [None if g is None else np.asarray(g, np.float64) / grad_scale for g in gradients]
        self.started |= {i for i, g in enumerate(grads) if g is not None}
        if found_inf or not all(is_finite(g, product_dtype) for g in grads if g is not None):
            self.skipped_steps += 1
            if self.last is not None:
                self.last.skipped_steps = self.skipped_steps
            return self.last

        k, b, e = self.k, self.beta, self.e
        z = 1.0 - b ** (k + 1)
        grad_norm = norm = norm_of(grads)
        if self.robust and norm == 0.0:
            return self.last  # nothing to learn from

        # 1. Manual clip.
        clip = 1.0
        if self.max_norm is not None:
            clip *= min(1.0, self.max_norm / (norm + EPS))
        # 2. Statistics guard.
        envelope = self.h_max
        if self.adaptive and k >= 2:
            clip *= min(1.0, (10.0 * math.sqrt(envelope) + e) / (clip * norm + e))
        grads = [None if g is None else clip * g for g in grads]

        # 3. The squared norm and its average.
        norm = norm_of(grads)
        h = norm**2
        exploding = k >= 1 and h >= envelope
        self.square_avg = b * self.square_avg + (1.0 - b) * h

        # 4. Curvature range.
        h_min, h_max = self._curvature_range(h, z)

        # 5. Variance.
        variance = self.square_avg / z
        if not self.robust:
            variance = max(variance - self._update_grad_avg(grads) / z**2, EPS)

        # 6. Distance.
        self.norm_avg = b * self.norm_avg + (1.0 - b) * norm
        ratio = self.norm_avg / (self.square_avg + e)
        self.distance_avg = b * self.distance_avg + (1.0 - b) * ratio
        distance = self.distance_avg / z

        if self.sparsity_debias:
            density = self._update_density(grads, z)
            h_min, h_max, variance = h_min * density, h_max * density, variance * density
            distance /= math.sqrt(density) + e
        if self.robust:
            h_min = max(h_min, h_max / 30.0)
        self.h_max = h_max

        # 7. SingleStep, with the slow start.
        if k == 0:
            lr, momentum = self.initial_lr, self.initial_momentum
        else:
            lr, momentum = single_step(distance, variance, h_min, h_max, e)
            lr *= min(1.0, (k + 1) / (10.0 * self.window))

        # 9 (before 8, as the robust step size depends on it). Exploding clip: for the update alone.
        explosion = 1.0
        if self.adaptive and exploding:
            explosion = min(1.0, (math.sqrt(envelope) + e) / (norm + e))
        if self.robust:
            if self.adaptive and k >= 10:
                recent = self.recent_avg / (1.0 - 0.9**k)
                explosion = min(explosion, 2.0 * math.sqrt(recent) / (norm + e))
            self.recent_avg = 0.9 * self.recent_avg + 0.1 * h
            lr = self._robust_lr(momentum, explosion**2 * h)

        # 8. The step size really used in each group.
        group_lrs = [lr * group.lr for group in self.groups]
        if self.adaptive:
            cap = 100.0 / math.sqrt(h + EPS)
            group_lrs = [cap if a * norm >= 100.0 else a for a in group_lrs]
        if self.robust:  # lr / (1 - mu) times the decay is at most 1
            bounds = [(1.0 - momentum) / (group.weight_decay or 1e-300) for group in self.groups]
            group_lrs = [min(pair) for pair in zip(group_lrs, bounds, strict=True)]

        # 10. The move.
        todo = iter(grads)
        for group, group_lr in zip(self.groups, group_lrs, strict=True):
            for i in range(len(group.params)):
                g = next(todo)
                if g is not None:
                    before = group.params[i].astype(np.longdouble)
                    self._move(group, i, explosion * g, group_lr, momentum)
                    grown = group.params[i].astype(np.longdouble) ** 2 - before**2
                    self.growth += grown.sum()
                    self.growth_scale += float(np.abs(grown).sum())

        self.k += 1
        self.last = Trace(
            lr=group_lrs[0],
            momentum=momentum,
            h_min=h_min,
            h_max=h_max,
            variance=variance,
            distance=distance,
            distance_traveled=self.radius,
            grad_norm=grad_norm,
            clip_coefficient=clip * explosion,
            step=self.k,
            skipped_steps=self.skipped_steps,
            variance_scale=self.square_avg / z,
            group_lrs=group_lrs,
        )
        return self.last

    def _robust_lr(self, momentum: float, used: float) -> float:
        """Distance over gradients; used: the squared norm of the gradient that makes the move."""
        if self.k == 0:
            params = [p for group in self.groups for p in group.params]
            self.radius = 1e-3 * (1.0 + norm_of([params[i] for i in self.started]))
        self.radius = max(self.radius, math.sqrt(abs(float(self.growth))))
        self.square_sum += used
        if self.square_sum == 0.0:
            return 0.0  # nothing but zero gradients so far
        return (1.0 - momentum) * self.radius / math.sqrt(self.square_sum)

    def _curvature_range(self, h: float, z: float) -> tuple[float, float]:
        """(h_min, h_max): smoothed ends of the window of recent squared norms."""
        self.recent = [*self.recent, h][-self.window :]
        lo, hi = min(self.recent), max(self.recent)
        if self.log_smooth:
            lo, hi = math.log(lo + self.e), math.log(hi + self.e)
        self.smooth_lo = self.beta * self.smooth_lo + (1.0 - self.beta) * lo
        self.smooth_hi = self.beta * self.smooth_hi + (1.0 - self.beta) * hi
        h_min, h_max = self.smooth_lo / z, self.smooth_hi / z
        return (math.exp(h_min), math.exp(h_max)) if self.log_smooth else (h_min, h_max)

    def _update_grad_avg(self, grads: Sequence[Array | None]) -> float:
        """Update gbar (or its sketch's average); return its squared norm before debiasing."""
        b = self.beta
        if self.sketched:
            sizes = [p.size for group in self.groups for p in group.params]
            self.sketch_avg = b * self.sketch_avg + (1.0 - b) * sketch(grads, sizes)
            return float(self.sketch_avg @ self.sketch_avg)
        total = 0.0
        todo = iter(grads)
        for group in self.groups:
            for i in range(len(group.params)):
                g = next(todo)
                if g is not None:
                    group.grad_avgs[i] = b * group.grad_avgs[i] + (1.0 - b) * g
                    total += float(group.grad_avgs[i] @ group.grad_avgs[i])
        return total

    def _update_density(self, grads: Sequence[Array | None], z: float) -> float:
        """Zero-debiased average of the fraction of non-zero gradient entries."""
        present = [g for g in grads if g is not None]
        fraction = sum(np.count_nonzero(g) for g in present) / sum(g.size for g in present)
        self.density_avg = self.beta * self.density_avg + (1.0 - self.beta) * fraction
        return self.density_avg / z

    def _move(self, group: OracleGroup, i: int, g: Array, lr: float, momentum: float) -> None:
        """Step 10 for one parameter."""
        p, d = group.params[i], -g if group.maximize else g
        magnitude = np.abs(d) + group.weight_decay * np.abs(p)
        if not group.decoupled_weight_decay:
            d = d + group.weight_decay * p
        if self.trust_ratio:
            self._move_by_trust(group, i, d, magnitude, lr, momentum)
            return
        group.path[i] += lr * magnitude / (1.0 - min(momentum, 0.999))
        if group.decoupled_weight_decay:
            p = p * (1.0 - lr * group.weight_decay)
        if self.polyak and group.lr == 0.0:
            group.buffers[i] = np.zeros_like(p)  # told to stand still
            group.params[i] = p
        elif self.polyak:
            group.buffers[i] = momentum * group.buffers[i] - lr * d
            group.params[i] = p + group.buffers[i]
        elif momentum == 0.0:
            group.params[i] = p - lr * d  # the reference has no buffer before there is momentum
        else:
            group.buffers[i] = momentum * group.buffers[i] + d
            group.params[i] = p - lr * group.buffers[i]

    def _move_by_trust(
        self, group: OracleGroup, i: int, d: Array, magnitude: Array, lr: float, momentum: float
    ) -> None:
        """p - lr ‖p‖/‖u‖ u, u the sum of gradients; decoupled decay is outside the ratio."""
        p = group.params[i]
        if self.polyak:
            group.buffers[i] = momentum * group.buffers[i] - lr * d
            u = -group.buffers[i] / lr if lr > 0.0 else np.zeros_like(p)
        else:
            u = group.buffers[i] = momentum * group.buffers[i] + d  # from the first step on
        p_norm, u_norm = norm_of([p]), norm_of([u])
        ratio = p_norm / u_norm if p_norm > 0.0 and u_norm > 0.0 else 1.0
        group.trust_ratios[i] = ratio
        decay = lr * group.weight_decay if group.decoupled_weight_decay else 0.0

        # An error of momentum turns u, and stretches ‖u‖ for all elements alike.
        before = group.magnitudes[i]
        group.slopes[i] = momentum * group.slopes[i] + (1.0 - momentum) * before
        group.magnitudes[i] = momentum * before + magnitude
        reach = group.magnitudes[i] + group.slopes[i]
        stretch = norm_of([reach]) / u_norm if u_norm > 0.0 else 0.0
        group.path[i] += lr * ratio * (reach + stretch * np.abs(u)) + decay * np.abs(p)

        group.params[i] = p * (1.0 - decay) - lr * ratio * u
