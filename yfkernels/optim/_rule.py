"""Optimizers whose step is one rule over all tensors, with scalars that a tuner decides."""

from __future__ import annotations

import operator
from typing import Any, Protocol

import torch
from torch import Tensor

from yfkernels._checks import finite, require, require_number
from yfkernels.ops.backend import Backend, backend_of, preferred
from yfkernels.ops.rules import Rule
from yfkernels.ops.table import Column, TensorTable
from yfkernels.optim._base import FusedOptimizer
from yfkernels.optim._plan import Plan
from yfkernels.optim._state import StateLayout
from yfkernels.sharding.norms import reduce_norms
from yfkernels.sharding.shards import Sharding


class Tuner(Protocol):
    """Decides on a step: whether it is taken, and with which coefficients."""

    state: Tensor

    def clear(self) -> None: ...
    def prepare(
        self,
        tables: list[TensorTable],
        sharding: Sharding,
        num_groups: int,
        device: torch.device,
        backend: Backend,
    ) -> None: ...
    def set_groups(self, values: list[list[float]], device_lrs: dict[int, Tensor]) -> None: ...
    def write_again(self) -> None: ...
    def buffers(self) -> list[Tensor]: ...
    def decide(self, grad_scale: Tensor | None, found_inf: Tensor | None) -> None: ...
    def collect(self) -> None: ...
    def coefficients_on(self, device: torch.device) -> Tensor: ...


class RuleOptimizer(FusedOptimizer):
    """Measure, tune, apply: the step of an optimizer that consists of one rule.

    A subclass sets, before it calls the constructor of its base, what the annotations below name,
    and puts the user's settings into numbers in `_group_values`. With `_adapts` the move of each
    tensor is scaled by a ratio of norms, in two passes instead of one.
    """

    _pickled = (*FusedOptimizer._pickled, "_tuner", "_rule", "_adapts")

    _state_names: tuple[str, ...]  # of the rule's states, in the order of its columns
    _rule: Rule
    _adapts: bool
    _tuner: Tuner
    _tunes_on_host: bool = False
    _checked: dict[int, list[Any]]  # options of each group when they were last looked at

    def _group_values(self, group: dict[str, Any], lr: float) -> list[float]:
        """The numbers the tuner takes for a parameter group."""
        raise NotImplementedError

    @property
    def _statistics(self) -> Tensor:
        return self._tuner.state

    def _begin_statistics(self) -> None:
        self._tuner.clear()

    def _layout(self) -> StateLayout:
        names = self._state_names[: self._rule.states]
        columns = {name: Column(Column.STATE + k) for k, name in enumerate(names)}
        coded = frozenset(names[-1:] if self._rule.coded else ())
        return StateLayout(columns, self._rule.counts, self._stochastic_rounding, coded)

    def _prepare(self, plan: Plan) -> None:
        if self._adapts:
            self._refuse_flat()
        tables = plan.tables
        device = tables[0].device if tables else torch.device("cpu")
        if self._reads_on_host():
            device = torch.device("cpu")
        fused = [table.backend.name for table in tables if table.backend.fused]
        backend = backend_of(fused[0] if fused else "torch", device.type)
        if backend.unusable(device.type) is not None:
            backend = preferred(device.type)
        self._checked = {}
        self._tuner.prepare(tables, plan.sharding, len(self.param_groups), device, backend)
        self._publish()

    def _update(self, plan: Plan) -> None:
        self._tuner.set_groups(*self._group_settings())
        self._tuner.decide(getattr(self, "grad_scale", None), getattr(self, "found_inf", None))
        if not self._adapts:
            for table in plan.tables:
                table.backend.update(self._rule, table, self._tuner.coefficients_on(table.device))
        elif not plan.sharding.shards:
            for table in plan.tables:
                coefficients = self._tuner.coefficients_on(table.device)
                table.backend.update_state_then_apply(self._rule, table, coefficients)
        else:
            for table in plan.tables:
                coefficients = self._tuner.coefficients_on(table.device)
                table.backend.update_state(self._rule, table, coefficients)
            reduce_norms(plan.tables, plan.sharding.shards, sum(1 for _ in self._all_params()))
            for table in plan.tables:
                coefficients = self._tuner.coefficients_on(table.device)
                table.backend.apply(self._rule, table, coefficients)
        for param in plan.empty_parts:
            if param.grad is not None:  # other processes, which have elements of it, count too
                step = self.state[param]["step"]
                step.add_(self._tuner.coefficients_on(step.device)[0, 0])
        self._tuner.collect()

    def _refuse_flat(self) -> None:
        for index, (_, param) in enumerate(self._all_params()):
            if getattr(param, "_is_flat_param", False):
                raise RuntimeError(
                    f"{type(self).__name__} scales each tensor's move by its norm, and parameter "
                    f"{index} is a flat one of FullyShardedDataParallel, many tensors in one: wrap "
                    "the model with use_orig_params=True"
                )

    def _trust_ratios(self) -> dict[str, float]:
        """The ratio that scaled the last move of each tensor, by the parameter's name."""
        names: list[str | None] = []
        for group in self.param_groups:
            own = group.get("param_names", ())
            whole = len(own) == len(group["params"])  # ZeRO shrinks the other list alone
            names += own if whole else [None] * len(group["params"])
        ratios = {}
        for table in self._tables:
            groups = [row.group for row in table.rows]
            coefficients = self._tuner.coefficients_on(table.device)[groups]
            values = table.backend.trust_ratio(self._rule, coefficients, table.norms)
            for row, value in zip(table.rows, values.tolist()):
                ratios[row.index] = value
        return {names[i] or str(i): ratio for i, ratio in sorted(ratios.items())}

    def _group_settings(self) -> tuple[list[list[float]], dict[int, Tensor]]:
        """The tuner's numbers for each group; and, by group, lrs that must stay on the device."""
        values, device_lrs = [], {}
        for index, group in enumerate(self.param_groups):
            self._check_again(index, group)
            lr = group["lr"]
            if isinstance(lr, Tensor) and lr.is_cuda and not self._reads_on_host():
                device_lrs[index], lr = lr, 0.0
            values.append(self._group_values(group, float(lr)))
        return values, device_lrs

    def _check_again(self, index: int, group: dict[str, Any]) -> None:
        """Looks at what was assigned since the last step: a NaN would reach every parameter."""
        options = [group.get(name) for name in self._option_names]
        known = self._checked.get(index, ())
        if len(known) == len(options) and all(map(operator.is_, options, known)):
            lr = group["lr"]
            if not isinstance(lr, Tensor) or lr.is_cuda:
                return  # one on the host may have been written in place
        for name in self._option_names:
            group.setdefault(name, self.defaults[name])  # a wrapper may have loaded fewer
        self._check_numbered_group(index, group)
        self._checked[index] = [group.get(name) for name in self._option_names]

    def _reads_on_host(self) -> bool:
        return self._tunes_on_host and not self._capturable

    def _write_again(self) -> None:
        self._tuner.write_again()

    def _buffers(self) -> list[Tensor]:
        return self._tuner.buffers()

    def _check_group(self, group: dict[str, Any]) -> None:
        lr, decay = group["lr"], group["weight_decay"]
        require_number("lr", lr)
        require_number("weight_decay", decay)
        if isinstance(lr, Tensor):
            require(lr.numel() == 1, "lr", lr, "a float: Tensor lr must be 1-element")
        if not (isinstance(lr, Tensor) and lr.is_cuda):  # a look at it would wait for the device
            require(finite(lr) and float(lr) >= 0.0, "lr", lr, "finite and >= 0")
        require(finite(decay) and decay >= 0.0, "weight_decay", decay, "finite and >= 0")
