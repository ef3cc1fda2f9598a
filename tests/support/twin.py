"""YellowFin and its oracle side by side: the one runner behind every comparison.

Tolerances. The package multiplies in float32 and adds across chunks in float64, so a squared norm
is good to 2e-6 relative (a chunk's partial sums are float32). h_min, h_max, distance and the clip
factors inherit that. gbar is float32 and rounds once a step. The variance is a difference,
S/z - |gbar|²/z², so its error is relative to S/z. SingleStep depends on p = D² h_min² / 2C and r,
with |d ln lr| <= |d ln p| + |d ln h_min| and |d mu| / (1 - mu) <= |d ln p|: both get the error of
p. An element of a parameter rounds once or twice a step relative to itself, and inherits the errors
of lr and momentum relative to its path (the length of all its moves, each with its later effect
through the momentum). In double precision the same holds with 1e-13.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.testing import assert_allclose
from oracle.yellowfin import EPS, OracleGroup, Trace, YellowFinOracle

from support.cases import Group, Site, memory_order
from support.side_by_side import SideBySide
from yfkernels import YellowFin

GROUP_OPTIONS = ("lr", "weight_decay", "decoupled_weight_decay", "maximize")


class Twin(SideBySide):
    """YellowFin with preconditioner=None and its oracle."""

    optimizer: YellowFin
    oracle: Any
    oracle_type: type = YellowFinOracle
    group_type: type = OracleGroup
    not_for_the_oracle: tuple[str, ...] = (
        *GROUP_OPTIONS,
        *("capturable", "backend", "fused", "preconditioner"),
    )
    # Options that make this the oracle, and group options that are not the oracle's own defaults.
    chosen: ClassVar[Mapping[str, Any]] = {"preconditioner": None}
    assumed: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self, site: Site, groups: Sequence[Group], rng: np.random.Generator, **options: Any
    ) -> None:
        super().__init__(site)
        self.before: list[np.ndarray] = []  # the optimizer's parameters before the step
        self.growth, self.growth_scale = np.longdouble(0.0), 0.0
        options = {**self.chosen, **options}
        given = {k: v for k, v in options.items() if k in GROUP_OPTIONS}
        self.inherited = {**self.assumed, **given}
        self.oracle = self.oracle_type(
            [], **{k: v for k, v in options.items() if k not in self.not_for_the_oracle}
        )
        self.optimizer = YellowFin(
            [self.adopt(group, rng, self.inherited) for group in groups],
            backend=site.backend,
            **options,
        )
        self.statistic = 1e-13 if self.double else 2e-6
        self.rounding = 2.0**-52 if self.double else 2.0**-23
        self.drift = 0.0  # relative error that lr and momentum may have had in any step so far

    def enter(self, params: list[np.ndarray], settings: dict[str, Any]) -> None:
        self.oracle.add_group(self.group_type(params, **settings))

    def add_group(self, group: Group, rng: np.random.Generator) -> None:
        self.optimizer.add_param_group(self.adopt(group, rng, self.inherited))

    def step(self, *args: Any, **kwargs: Any) -> None:
        self.before = [self.newest(p) for p in self.params]
        super().step(*args, **kwargs)

    def newest(self, p: torch.nn.Parameter) -> np.ndarray:
        """What the next step begins with: the master, except where the parameter was written to."""
        master, value = self.optimizer.state.get(p, {}).get("master"), p.detach()
        if master is not None:
            value = torch.where(master.to(p.dtype) == p, master, value.float())
        return memory_order(value, p).astype(np.longdouble)

    def compare(self, trace: Trace) -> None:
        """Diagnostics, step sizes and parameters, within the tolerances derived above."""
        error = self.statistic
        steps = trace.step
        variance_error = trace.variance_scale * 2.0 * (error + steps * self.rounding)
        tuned = 6.0 * error + variance_error / (trace.variance + EPS)
        if trace.step == 1:
            tuned = self.rounding  # lr and momentum are constants, or the move cap
        rtol = {
            "lr": tuned + error + self.radius_error(),
            "momentum": tuned,
            "h_min": 2.0 * error,
            "h_max": 2.0 * error,
            "variance": 4.0 * error,
            "distance": 4.0 * error,
            "distance_traveled": error + self.radius_error(),
            "grad_norm": error,
            "clip_coefficient": 4.0 * error,
            "step": 0.0,
            "skipped_steps": 0.0,
        }
        self.compare_scalars(trace, rtol, variance_error)
        self.drift = max(self.drift, rtol["lr"])
        if self.oracle.trust_ratio:
            self.assert_trust_ratios()
        self.assert_near(
            [
                self.drift * path + (steps + 2) * self.rounding * (np.abs(p) + path)
                for group in self.oracle.groups
                for p, path in zip(group.params, group.path, strict=True)
            ],
            steps,
        )
        self.tell_growth()

    def compare_scalars(
        self, trace: Trace, rtol: dict[str, float], variance_error: float = 0.0
    ) -> None:
        """Diagnostics and step sizes; the variance may be a small difference, off absolutely."""
        seen = self.optimizer.diagnostics()
        assert seen.keys() == rtol.keys()
        for name, tolerance in rtol.items():
            assert isinstance(seen[name], float), f"{name} is a {type(seen[name])}"
            assert_allclose(
                seen[name],
                getattr(trace, name),
                rtol=tolerance,
                atol=variance_error if name == "variance" else 0.0,
                err_msg=f"{name} at step {trace.step}",
            )
        assert_allclose(self.optimizer.tuned_lrs(), trace.group_lrs, rtol=rtol["lr"])

    def radius_error(self) -> float:
        """Relative, of the radius r = max sqrt|q| that bounds lr in the robust mode.

        q is a sum of changes, each rounded relative to itself; an error d of q is at most one of
        d / r² in r.
        """
        if not self.oracle.robust:
            return 0.0
        return self.statistic * self.oracle.growth_scale / self.oracle.radius**2

    def tell_growth(self) -> None:
        """Has the oracle go on with the growth of the optimizer's own parameters.

        lr depends on the path and the path on lr: what they are off would feed on itself.
        """
        for p, before in zip(self.params, self.before, strict=True):
            grown = self.newest(p) ** 2 - before**2
            self.growth += grown.sum()
            self.growth_scale += float(np.abs(grown).sum())
        self.oracle.growth, self.oracle.growth_scale = self.growth, self.growth_scale

    def assert_trust_ratios(self) -> None:
        """By position, of every parameter that took part in the step."""
        seen = self.optimizer.trust_ratios()
        expected = [ratio for group in self.oracle.groups for ratio in group.trust_ratios]
        stretch = [
            np.linalg.norm(m + slope) / np.linalg.norm(buffer) if buffer.any() else 0.0
            for group in self.oracle.groups
            for m, slope, buffer in zip(group.magnitudes, group.slopes, group.buffers, strict=True)
        ]
        for i, p in enumerate(self.params):
            if p.grad is not None and p.numel():
                rtol = 4.0 * self.statistic + 2.0 * self.drift * (1.0 + stretch[i])
                assert_allclose(seen[str(i)], expected[i], rtol=rtol, err_msg=f"ratio of {i}")
