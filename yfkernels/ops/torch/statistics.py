"""What the tuners have in common, in tensor operations.

The steps are those of clips.h, statistics.h and distance.h in csrc/tuner, by the same names.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from yfkernels.ops.constants import (
    ENVELOPE_GUARD,
    EPSILON,
    GROUP_FIELDS,
    RECENT,
    SPIKE,
    SPIKE_STEPS,
    STATE_FIELDS,
    TINY,
    WIDEST_RANGE,
)
from yfkernels.ops.options import YellowFinOptions
from yfkernels.ops.rules import YELLOWFIN
from yfkernels.ops.torch.single_step import clip_factor


class Clipped(NamedTuple):
    """A step's gradient after the clips; `norm` is the one before them."""

    norm: Tensor
    clip: Tensor
    norm_sq: Tensor
    root: Tensor
    exploding: Tensor


class Curvature(NamedTuple):
    """What SingleStep wants to know; variance: before a signal is subtracted."""

    h_min: Tensor
    h_max: Tensor
    variance: Tensor
    distance: Tensor


class TuningStep:
    """One step of a tuner: what it is given, and what it has computed so far.

    Attributes:
        inv_scale: one over the loss scale.
        grad_sq: ‖g‖², unscaled.
        active: whether the step counts.
        k: steps taken before it.
        old, new: STATE_FIELDS by name, before the step and after it.
        group: GROUP_FIELDS by name, one number a group.
        e: what keeps a quotient finite.
    """

    def __init__(
        self,
        options: YellowFinOptions,
        grad_sq: Tensor,
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
        state: Tensor,
        groups: Tensor,
    ) -> None:
        self.options = options
        self.one = torch.ones_like(grad_sq)
        self.inv_scale = self.one if grad_scale is None else self.one / grad_scale.double()
        self.grad_sq = grad_sq * self.inv_scale * self.inv_scale
        self._finite = torch.isfinite(self.grad_sq)
        if found_inf is not None:
            self._finite = self._finite & (found_inf == 0)
        self.active = self._finite
        if options.robust:
            self.active = self.active & (self.grad_sq > 0.0)  # silence has nothing to learn from
        self.old = dict(zip(STATE_FIELDS, state[: len(STATE_FIELDS)].unbind()))
        self.new = dict(self.old)
        self.k = self.old["step"]
        self.group = dict(zip(GROUP_FIELDS, groups.unbind(1)))
        self.e = TINY if options.robust else EPSILON
        self._state = state

    def window(self, number: int = 0) -> Tensor:
        """The first or the second window, as it was before the step."""
        first = len(STATE_FIELDS) + number * self.options.window
        return self._state[first : first + self.options.window]

    def average(self, name: str, value: Tensor) -> Tensor:
        """The running average after `value`."""
        beta = self.options.beta
        self.new[name] = beta * self.old[name] + (1.0 - beta) * value
        return self.new[name]

    def clip_gradient(self, envelope_sq: Tensor) -> Clipped:
        """The user's clip, then the guard that caps how fast the statistics can grow."""
        norm = self.grad_sq.sqrt()
        clip = clip_factor(self.one * self.options.max_norm, norm)
        if self.options.adaptive_clip:
            bound = ENVELOPE_GUARD * envelope_sq.sqrt() + self.e
            clip = torch.where(self.k >= 2, clip * clip_factor(bound, clip * norm, self.e), clip)
        norm_sq = clip * clip * self.grad_sq
        exploding = (self.k >= 1) & (norm_sq >= envelope_sq)
        return Clipped(norm, clip, norm_sq, norm_sq.sqrt(), exploding)

    def clip_update(self, g: Clipped, envelope_sq: Tensor) -> Tensor:
        """What the update alone is clipped by: explosions, and in the robust mode spikes."""
        old, update_clip = self.old, self.one
        if self.options.adaptive_clip:
            explosion_clip = clip_factor(envelope_sq.sqrt() + self.e, g.root, self.e)
            update_clip = torch.where(g.exploding, explosion_clip, update_clip)
        if not self.options.robust:
            return update_clip
        if self.options.adaptive_clip:
            recent_sq = old["recent_sq_avg"] / (1.0 - old["recent_power"])
            spike_clip = clip_factor(SPIKE * recent_sq.sqrt(), g.root, self.e)
            both = torch.minimum(spike_clip, update_clip)
            update_clip = torch.where(self.k >= SPIKE_STEPS, both, update_clip)
        self.new["recent_sq_avg"] = RECENT * old["recent_sq_avg"] + (1.0 - RECENT) * g.norm_sq
        power = torch.where(self.k == 0, RECENT, RECENT * old["recent_power"])
        self.new["recent_power"] = power
        return update_clip

    def ends_of_window(
        self, window: Tensor, k: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(window, low, high) after `value`, which k others have preceded; ends as logarithms."""
        place = torch.arange(self.options.window, device=window.device)
        window = torch.where(place == k % self.options.window, value, window)
        low = torch.where(place <= k, window, torch.inf).min()
        high = torch.where(place <= k, window, -torch.inf).max()
        if self.options.log_smooth:
            low, high = (low + self.e).log(), (high + self.e).log()
        return window, low, high

    def end_of_range(self, average: Tensor, debias: Tensor) -> Tensor:
        """What an average of such ends says."""
        end = average / debias
        return end.exp() if self.options.log_smooth else end

    def learn(self, h: Tensor, k: Tensor, debias: Tensor) -> tuple[Tensor, Curvature]:
        """(first window, what SingleStep wants) after h, which k others have preceded."""
        grad_sq_avg = self.average("grad_sq_avg", h)
        window, low, high = self.ends_of_window(self.window(), k, h)
        h_min = self.end_of_range(self.average("h_min_avg", low), debias)
        h_max = self.end_of_range(self.average("h_max_avg", high), debias)
        grad_norm_avg = self.average("grad_norm_avg", h.sqrt())
        distance_avg = self.average("distance_avg", grad_norm_avg / (grad_sq_avg + self.e))
        return window, Curvature(h_min, h_max, grad_sq_avg / debias, distance_avg / debias)

    def advance_radius(self, grown: Tensor, walked: Tensor | float = 0.0) -> None:
        """The radius: what the growth of the parameters' squares tells, but for the walk's part."""
        growth = self.new["growth"] = self.old["growth"] + grown
        walk = torch.minimum(self.old["walk"] + walked, growth.clamp(min=0.0))
        self.new |= {"walk": walk, "unread_growth": torch.zeros_like(growth)}
        self.new["radius"] = torch.maximum(self.new["radius"], (growth.abs() - walk).sqrt())

    def distance_over_gradients(self, momentum: Tensor) -> Tensor:
        """The robust step size: how far the parameters have come, over the sum of gradients."""
        total = self.new["grad_sq_sum"]
        lr = (1.0 - momentum) * self.new["radius"] / total.sqrt()
        return torch.where(total > 0.0, lr, 0.0)

    def show(self, g: Clipped, update_clip: Tensor, momentum: Tensor, lrs: Tensor) -> None:
        """Counts the step, and keeps what it was given and used for those who ask."""
        self.new |= {
            "step": self.k + 1.0,
            "lr": lrs[0],
            "momentum": momentum,
            "grad_norm": g.norm,
            "clip_coefficient": g.clip * update_clip,
        }

    def write(
        self, rest: list[Tensor], out: dict[str, Tensor], state: Tensor, coefficients: Tensor
    ) -> None:
        """Writes state and coefficients, unless the step is skipped.

        Args:
            rest: of the state, what comes after its head.
            out: the coefficients by name, one number a group.
        """
        head = torch.stack([self.new[name] for name in STATE_FIELDS])
        state.copy_(torch.where(self.active, torch.cat([head, *rest]), state))
        state[STATE_FIELDS.index("skipped")] += (~self._finite).double()
        advanced = torch.stack([out[name] for name in YELLOWFIN.fields], dim=1)
        coefficients.copy_(torch.where(self.active, advanced, coefficients))
        coefficients[:, YELLOWFIN.fields.index("active")] = self.active.double()


def limited_h_min(h_min: Tensor, h_max: Tensor) -> Tensor:
    """h_min of a curvature range, and of the momentum that follows, which cannot run away."""
    return torch.maximum(h_min, h_max / WIDEST_RANGE)


def limit_by_decay(lr: Tensor, decay: Tensor, momentum: Tensor) -> Tensor:
    """The statistics do not see weight decay: lr of a very small loss would be too large for it."""
    rest = 1.0 - momentum
    return torch.where(lr * decay > rest, rest / decay, lr)
