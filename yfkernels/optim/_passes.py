"""The passes that a rule makes over the tables of a model, and the ratios of its last move."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from yfkernels.ops.averaging import WeightAverage
from yfkernels.ops.rules import Rule
from yfkernels.ops.table import TensorTable
from yfkernels.optim._norms import reduce_norms
from yfkernels.optim._plan import Plan
from yfkernels.optim._planner import names_of
from yfkernels.tuners.tuner import Tuner


def _coefficients(tuner: Tuner, table: TensorTable) -> Tensor:
    return tuner.coefficients_on(table.device, table.group)


def keep_averages(average: WeightAverage | None, plan: Plan, tuner: Tuner) -> None:
    """Advances the averages of the parameters after a step."""
    if average is not None:
        for table in plan.tables:
            table.backend.average(table, _coefficients(tuner, table), average)


def apply_rule(rule: Rule, plan: Plan, tuner: Tuner, num_params: int, *, two_passes: bool) -> None:
    """Updates state and parameters with the coefficients of this step.

    Args:
        rule: the rule.
        plan: tables with this step's gradients.
        tuner: which has decided.
        num_params: parameters of the optimizer, on all processes.
        two_passes: whether the length of each tensor's move depends on its norms.
    """
    for table in plan.tables:
        coefficients = _coefficients(tuner, table)
        if not two_passes:
            table.backend.update(rule, table, coefficients)
        elif not plan.sharding.shards:
            table.backend.update_state_then_apply(rule, table, coefficients)
        else:
            table.backend.update_state(rule, table, coefficients)
    if two_passes and plan.sharding.shards:
        reduce_norms(plan.tables, plan.sharding.shards, num_params)
        for table in plan.tables:
            table.backend.apply(rule, table, _coefficients(tuner, table))


def count_empty_parts(plan: Plan, state: Any, tuner: Tuner) -> None:
    """Counts the step of parameters that have elements on other processes alone."""
    for group, param in plan.empty_parts:
        if param.grad is not None:
            step: Tensor = state[param]["step"]
            step.add_(tuner.coefficients_on(step.device, group)[0, 0])


def trust_ratios(
    rule: Rule, tables: Sequence[TensorTable], tuner: Tuner, groups: list[dict[str, Any]]
) -> dict[str, float]:
    """The ratio that scaled the last move of each tensor, by the parameter's name.

    Parameters without names go by their position.
    """
    names, ratios = names_of(groups), {}
    for table in tables:
        group_of = [row.group for row in table.rows]
        coefficients = _coefficients(tuner, table)[group_of]
        values = table.backend.trust_ratio(rule, coefficients, table.norms)
        for row, value in zip(table.rows, values.tolist()):
            ratios[row.index] = value
    return {names[i] or str(i): ratio for i, ratio in sorted(ratios.items())}
