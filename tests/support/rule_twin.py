"""Optimizers whose step size is the user's beside their oracles: the one runner behind every
comparison.

Tolerances. A parameter is rounded once a step, by at most half a unit in its last place, 2^-24 of
its size then; the decoupled decay multiplies it by a rounded factor first, three roundings in all.
These are summed over the steps as they come. Everything else is an error of the moves, so that it
is relative to the path, the length of all moves without cancellation. Per element and step, a move
inherits the roundings of its averages: n steps leave 2n of them in m and in v, each with a standard
deviation of 2^-24/sqrt(3), and they are independent; the root halves those of v. After 50 steps
that is 3.4e-7 for m (at beta 0.999, where nothing is forgotten) and 1.7e-7 for v, and they vary
from step to step while the path adds up. Norms are good to 1e-6 squared (a chunk's partial sums
are float32), 5e-7 as they are used. Where the terms of LAMB's u cancel, ‖u‖ has lost what they
lost: its ratio, and the whole move with it, is off by more than the path of its elements tells.
The issue asks for 1e-6 of the path: three deviations of the single move, and many more of the sum.
In double precision 1e-12, far above 2^-53.

Moments in a byte each have to be what numbers within the tolerance of the oracle's become with the
random bits of the element in this step: a single byte but where those bits leave it open. What is
off by a whole rounding has its effect on all that follows, so the oracle goes on from the bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from oracle.codes import ABSOLUTE, coded, in_float8, numbers_of_float8, unit_of
from oracle.lamb import PRESETS, LambGroup, LambOracle
from oracle.qhadam import QhAdamGroup, QhAdamOracle
from oracle.qhm import QhmGroup, QhmOracle
from oracle.walk import Trace

from support.cases import Group, Site, memory_order
from support.roundings import assert_between
from support.side_by_side import SideBySide, plain
from yfkernels import LAMB, QHM, QHAdam

ORACLES: dict[type, tuple[type, type]] = {
    LAMB: (LambOracle, LambGroup),
    QHM: (QhmOracle, QhmGroup),
    QHAdam: (QhAdamOracle, QhAdamGroup),
}
NOT_FOR_A_GROUP = ("preset", "skip_nonfinite", "capturable", "backend", "fused")
Optimizer = type[Any]


class RuleTwin(SideBySide):
    """One of them and its oracle."""

    def __init__(
        self,
        kind: Optimizer,
        site: Site,
        groups: Sequence[Group],
        rng: np.random.Generator,
        **options: Any,
    ) -> None:
        super().__init__(site)
        self.kind = kind
        self.options = options
        oracle, self.oracle_group = ORACLES[kind]
        self.oracle = oracle([], skip_nonfinite=options.get("skip_nonfinite", False))
        self.roundings: list[np.ndarray] = []  # errors of each parameter but those of its path
        self.optimizer = self.build([self._adopt(group, rng) for group in groups])

    def build(self, params: Any) -> Any:
        return self.kind(params, backend=self.site.backend, **self.options)

    def _adopt(self, group: Group, rng: np.random.Generator) -> dict[str, Any]:
        preset = PRESETS.get(self.options.get("preset", ""), {})
        given = {k: v for k, v in self.options.items() if k not in NOT_FOR_A_GROUP}
        return self.adopt(group, rng, {**preset, **given})

    def enter(self, params: list[np.ndarray], settings: dict[str, Any]) -> None:
        self.oracle.add_group(self.oracle_group(params, **settings))
        self.roundings += [np.zeros_like(p) for p in params]

    def add_group(self, group: Group, rng: np.random.Generator) -> None:
        self.optimizer.add_param_group(self._adopt(group, rng))

    def elementwise(self) -> list[list[np.ndarray]]:
        return [*super().elementwise(), self.roundings]

    @property
    def tolerance(self) -> float:
        return 1e-12 if self.double else 1e-6

    def set_group(self, index: int, **settings: Any) -> None:
        """Changes settings of a group between steps, on both sides."""
        self.optimizer.param_groups[index].update(settings)
        for name, value in settings.items():
            setattr(self.oracle.groups[index], name, plain(value))

    def step(self, *arguments: Any, **options: Any) -> None:
        self.before = self.reached()  # in the memory order that this step finds
        super().step(*arguments, **options)

    def compare(self, trace: Trace) -> None:
        seen = self.optimizer.diagnostics()
        assert seen.keys() == {"grad_norm", "skipped_steps"}
        assert seen["skipped_steps"] == trace.skipped_steps
        norm = trace.grad_norm
        if math.isnan(norm):
            assert math.isnan(seen["grad_norm"])
        else:
            assert abs(seen["grad_norm"] - norm) <= self.tolerance * norm
        if self.optimizer._layout.counts_steps:
            self.assert_steps(trace.steps)
        if self.options.get("state_bits") == 8:
            self.compare_bytes()
        if isinstance(self.optimizer, LAMB):
            self.assert_trust_ratios()

        epsilon = 2.0**-53 if self.double else 2.0**-24
        allowed = []
        for group in self.oracle.groups:
            roundings = 3.0 if group.decoupled_weight_decay else 1.0
            for p, path in zip(group.params, group.path, strict=True):
                i = len(allowed)
                total = self.roundings[i]
                total += roundings * epsilon * np.abs(p)
                if self.kind is LAMB:
                    lost = max(self.cancelled(i) - 1.0, 0.0)
                    total += self.tolerance * lost * np.abs(p - self.before[i][1])
                allowed.append(self.tolerance * path + total + 2.0**-149)
        self.assert_near(allowed, max(trace.steps))

    def compare_bytes(self) -> None:
        """Of parameters that took part in the step."""
        off = self.tolerance
        rows = [(group, i) for group in self.oracle.groups for i in range(len(group.params))]
        for place, (p, (group, i)) in enumerate(zip(self.params, rows, strict=True)):
            if p.grad is None:
                continue
            (m, v), words = group.advanced[i], group.words[i]
            codes = self.bits(p, "exp_avg_sq_codes")
            ends = (coded(v * (1.0 + sign * 2.0 * off), words, ABSOLUTE) for sign in (-1, 1))
            assert_between(codes, *ends)
            group.exp_avg_sqs[i] = ABSOLUTE.values[codes]

            unit = unit_of(group.exp_avg_sqs[i])
            m_off = off * (group.exp_avg_magnitudes[i] + np.abs(m))
            seen = numbers_of_float8(self.bits(p, "exp_avg_codes"))
            ends = (
                numbers_of_float8(in_float8((m + sign * m_off) / unit, words)) for sign in (-1, 1)
            )
            assert_between(seen, *ends)
            group.exp_avgs[i] = seen * unit
            if isinstance(self.oracle, LambOracle):  # whose move is of what is kept
                self.oracle.settle(group, i, self.before[place][1])

    def bits(self, p: torch.nn.Parameter, name: str) -> np.ndarray:
        """A state in memory order; of a complex parameter it has pairs of reals."""
        state = self.optimizer.state[p][name]
        assert state.dtype is torch.uint8
        like = torch.view_as_real(p.detach()) if p.is_complex() else p.detach()
        return memory_order(state, like).astype(np.uint8)

    def assert_steps(self, expected: Sequence[int]) -> None:
        """Every parameter counts its own steps."""
        for p, steps in zip(self.params, expected, strict=True):
            step = self.optimizer.state.get(p, {}).get("step")
            assert (0 if step is None else int(step)) == steps
            assert step is None or (step.dtype == torch.float32 and step.shape == ())

    def assert_trust_ratios(self) -> None:
        """By position, of every parameter that took part in the step."""
        ratios = [ratio for group in self.oracle.groups for ratio in group.trust_ratios]
        seen = self.optimizer.trust_ratios()
        for i, (p, ratio) in enumerate(zip(self.params, ratios, strict=True)):
            if p.grad is not None and p.numel():
                assert abs(seen[str(i)] - ratio) <= self.drift(i, ratio) * ratio, i

    def drift(self, index: int, ratio: float) -> float:
        """Relative error of a trust ratio: of ‖p‖, of p itself, and of ‖u‖ where terms cancel.

        With lr 0 the move does not tell how far they do. ‖u‖ = ‖p‖ / ratio tells: the elements of
        Adam's terms are about 1 at most.
        """
        path, p = self.reached()[index]
        error = np.linalg.norm(self.tolerance * path + self.roundings[index])
        inherited = float(error / np.linalg.norm(p)) if p.any() else 0.0
        cancelled = self.cancelled(index)
        if p.any() and np.array_equal(p, self.before[index][1]):
            cancelled = max(1.0, math.sqrt(p.size) * ratio / float(np.linalg.norm(p)))
        return self.tolerance * (4.0 + 2.0 * cancelled) + 2.0 * inherited

    def cancelled(self, index: int) -> float:
        """How many times larger the terms of this step's move are than the move, as norms."""
        (path, p), (path_before, before) = self.reached()[index], self.before[index]
        move = np.linalg.norm(p - before)
        return float(np.linalg.norm(path - path_before) / move) if move else 1.0

    def reached(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Copies of path and value of every parameter of the oracle."""
        return [
            (path.copy(), p.copy())
            for group in self.oracle.groups
            for path, p in zip(group.path, group.params, strict=True)
        ]
