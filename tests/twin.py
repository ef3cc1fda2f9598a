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

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from cases import (
    CANARY,
    Gradients,
    Group,
    Target,
    assert_same_bits,
    make_parameter,
    memory_order,
    same_bits,
)
from numpy.testing import assert_allclose
from oracle.yellowfin import EPS, OracleGroup, Trace, YellowFinOracle

from yfkernels import YellowFin

GROUP_OPTIONS = ("lr", "weight_decay", "decoupled_weight_decay", "maximize")
NOT_FOR_THE_ORACLE = (*GROUP_OPTIONS, "capturable", "backend")
HALF = (torch.float16, torch.bfloat16)
DOUBLE = (torch.float64, torch.complex128)


class Twin:
    """One optimizer and one oracle, fed the same gradients and compared after every step."""

    def __init__(
        self, target: Target, groups: Sequence[Group], rng: np.random.Generator, **options: Any
    ) -> None:
        self.target = target
        self.options = options
        self.params: list[torch.nn.Parameter] = []
        self.storages: list[torch.Tensor] = []
        self.oracle = YellowFinOracle(
            [], **{k: v for k, v in options.items() if k not in NOT_FOR_THE_ORACLE}
        )
        self.optimizer = YellowFin(
            [self._adopt(group, rng) for group in groups], backend=target.backend, **options
        )
        double = all(p.dtype in DOUBLE for p in self.params)
        self.statistic = 1e-13 if double else 2e-6
        self.rounding = 2.0**-52 if double else 2.0**-23
        self.drift = 0.0  # relative error that lr and momentum may have had in any step so far

    def _adopt(self, group: Group, rng: np.random.Generator) -> dict[str, Any]:
        """Make the group's parameters, enter them in the oracle, return torch's dict."""
        made = [make_parameter(spec, rng, self.target.device) for spec in group.specs]
        params = [parameter for parameter, _ in made]
        self.params += params
        self.storages += [storage for _, storage in made]
        inherited = {k: v for k, v in self.options.items() if k in GROUP_OPTIONS}
        settings = {k: _plain(v) for k, v in {**inherited, **group.overrides}.items()}
        self.oracle.add_group(OracleGroup([memory_order(p, p) for p in params], **settings))
        return {"params": params, **group.overrides}

    def add_group(self, group: Group, rng: np.random.Generator) -> None:
        self.optimizer.add_param_group(self._adopt(group, rng))

    def run(self, gradients: Gradients, rng: np.random.Generator) -> None:
        for step in gradients.draw(rng, self.params):
            self.step(step)
        self.assert_canaries_alive()

    def set_gradients(self, gradients: Sequence[torch.Tensor | None]) -> None:
        """Fresh gradient tensors, of the parameter's dtype and of torch's usual layout."""
        for p, g in zip(self.params, gradients, strict=True):
            p.grad = None if g is None else torch.empty_like(p).copy_(g)

    def step(
        self,
        gradients: Sequence[torch.Tensor | None] | None = None,
        *,
        call: Callable[[], Any] | None = None,
        grad_scale: float = 1.0,
        found_inf: bool = False,
    ) -> None:
        """Step both, with the gradients that the parameters hold if none are given, and compare."""
        if gradients is not None:
            self.set_gradients(gradients)
        grads = [p.grad for p in self.params]
        grads_before = copy.deepcopy([None if g is None else g.detach() for g in grads])
        skipped = self.oracle.skipped_steps
        trace = self.oracle.step(
            [
                None if g is None else memory_order(g, p)
                for g, p in zip(grads, self.params, strict=True)
            ],
            grad_scale=grad_scale,
            found_inf=found_inf,
            product_dtype=np.float64 if self.statistic < 1e-12 else np.float32,
        )
        skips = self.oracle.skipped_steps > skipped
        frozen = self.untouchable() if skips else None

        (call or self.optimizer.step)()

        for p, g, before in zip(self.params, grads, grads_before, strict=True):
            assert p.grad is g, "the gradient was replaced"
            assert g is None or same_bits(g, before), "the gradient was modified"
        if skips:
            assert_same_bits(frozen, self.untouchable(), "a skipped step")
            assert self.optimizer.diagnostics()["skipped_steps"] == self.oracle.skipped_steps
        if trace is not None:
            self.compare(trace)

    def untouchable(self) -> Any:
        """Copies of all that a skipped step must leave alone.

        State that is still zero counts as absent: a first step may create it before it is skipped.
        """
        diagnostics = self.optimizer.diagnostics() if self.oracle.last is not None else {}
        diagnostics.pop("skipped_steps", None)
        buffers = {
            (i, name): value
            for i, state in self.optimizer.state_dict()["state"].items()
            for name, value in state.items()
            if name != "master" and isinstance(value, torch.Tensor) and value.any()
        }
        return copy.deepcopy(([p.detach() for p in self.params], buffers, diagnostics))

    def compare(self, trace: Trace) -> None:
        """Diagnostics, step sizes and parameters, within the tolerances derived above."""
        error = self.statistic
        steps = trace.step
        variance_error = trace.variance_scale * 2.0 * (error + steps * self.rounding)
        tuned = 6.0 * error + variance_error / (trace.variance + EPS)
        if trace.step == 1:
            tuned = self.rounding  # lr and momentum are constants, or the move cap
        rtol = {
            "lr": tuned + error,
            "momentum": tuned,
            "h_min": 2.0 * error,
            "h_max": 2.0 * error,
            "variance": 4.0 * error,
            "distance": 4.0 * error,
            "grad_norm": error,
            "clip_coefficient": 4.0 * error,
            "step": 0.0,
            "skipped_steps": 0.0,
        }
        seen = self.optimizer.diagnostics()
        assert seen.keys() == rtol.keys()
        for name, tolerance in rtol.items():
            assert isinstance(seen[name], float), f"{name} is a {type(seen[name])}"
            assert_allclose(
                seen[name],
                getattr(trace, name),
                rtol=tolerance,
                atol=variance_error if name == "variance" else 0.0,
                err_msg=f"{name} at step {steps}",
            )
        assert_allclose(self.optimizer.tuned_lrs(), trace.group_lrs, rtol=rtol["lr"])

        self.drift = max(self.drift, rtol["lr"])
        oracle_params = [p for group in self.oracle.groups for p in group.params]
        paths = [path for group in self.oracle.groups for path in group.path]
        for i, p in enumerate(self.params):
            value = p.detach()
            if p.dtype in HALF and p in self.optimizer.state:
                value = self.optimizer.state[p]["master"]
                assert same_bits(p, value.to(p.dtype)), "the parameter is not its master, rounded"
            allowed = self.drift * paths[i] + (steps + 2) * self.rounding * (
                np.abs(oracle_params[i]) + paths[i]
            )
            gap = np.abs(memory_order(value, p) - oracle_params[i])
            worst = int(np.argmax(gap - allowed)) if gap.size else 0
            assert (gap <= allowed).all(), (
                f"parameter {i}, element {worst} at step {steps}: off by {gap[worst]:.3e}, "
                f"allowed {allowed[worst]:.3e}"
            )

    def assert_canaries_alive(self) -> None:
        """Nothing outside the parameters was written."""
        for p, storage in zip(self.params, self.storages, strict=True):
            if storage.numel() == p.numel():
                continue
            outside = storage.clone()
            torch.as_strided(outside, p.shape, p.stride(), p.storage_offset()).fill_(CANARY)
            assert (outside == CANARY).all(), "memory beside a parameter was overwritten"


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) else value
