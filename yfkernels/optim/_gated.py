"""Optimizers whose scalars are the user's settings: what LAMB, QHM and QHAdam share."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from yfkernels.ops.constants import GATE_STATE
from yfkernels.ops.rules import Rule
from yfkernels.optim._rule import RuleOptimizer
from yfkernels.tuners.gate import Gate


class GatedOptimizer(RuleOptimizer):
    """A rule whose coefficients are the options of each parameter group.

    Args:
        params: as for any torch optimizer.
        rule: the rule.
        defaults: per-group options and their defaults.
        skip_nonfinite: measure the gradient's norm and skip a step in which it is not finite.
        options: those of `FusedOptimizer`.
    """

    _pickled = (*RuleOptimizer._pickled, "_skip_nonfinite")
    _statistics_name = "gate"
    _tuner: Gate

    def __init__(
        self,
        params: Any,
        rule: Rule,
        defaults: dict[str, Any],
        *,
        adapts: bool = False,
        skip_nonfinite: bool,
        **options: Any,
    ) -> None:
        self._rule = rule
        self._adapts = adapts
        self._tuner = Gate(rule)
        self._skip_nonfinite = bool(skip_nonfinite)
        super().__init__(params, defaults, **options)

    def _global_values(self) -> dict[str, Any]:
        return super()._global_values() | {"skip_nonfinite": self._skip_nonfinite}

    def diagnostics(self) -> dict[str, float]:
        """What is known of the last step that was taken, as floats; on CUDA this waits.

        Returns:
            grad_norm: norm of the whole gradient, unscaled, before any clip; NaN if it was not
                measured. skipped_steps: steps refused for a non-finite gradient.
        """
        values = self._tuner.values()
        return {"grad_norm": values["grad_norm"], "skipped_steps": values["skipped"]}

    # ---- one step

    @property
    def _always_sums(self) -> bool:
        return self._adapts

    def _coefficients(self, group: dict[str, Any]) -> dict[str, float]:
        """The rule's own fields for a parameter group, and max_norm if it clips."""
        raise NotImplementedError

    def _group_settings(self) -> tuple[list[list[float]], dict[int, Tensor]]:
        settings = super()._group_settings()
        bound = self._rule.fields.index("max_norm")
        clips = any(row[bound] < math.inf for row in settings[0])
        self._tuner.measures = clips or self._skip_nonfinite
        return settings

    def _group_values(self, group: dict[str, Any], lr: float) -> list[float]:
        sign = -1.0 if group["maximize"] else 1.0
        values = {
            "active": 1.0,
            "grad_scale": sign,
            "sign": sign,
            "max_norm": math.inf,
            "lr": lr,
            "weight_decay": float(group["weight_decay"]),
            "decoupled": 1.0 if group["decoupled_weight_decay"] else 0.0,
            **self._coefficients(group),
        }
        return [values[name] for name in self._rule.fields]

    # ---- saved state

    def _accepted_statistics(self, saved: Tensor, group: dict[str, Any]) -> Tensor:
        if saved.shape != (len(GATE_STATE),):
            raise RuntimeError(
                f"the state_dict's gate has shape {tuple(saved.shape)}, this version of "
                f"yfkernels reads ({len(GATE_STATE)},)"
            )
        return saved
