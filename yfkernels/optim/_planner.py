"""The plan of an optimizer's tables: found true in every step, or made anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from yfkernels.ops.backends import backend_of, preferred
from yfkernels.ops.table import TensorTable
from yfkernels.ops.watch import Seen
from yfkernels.optim import _statistics as statistics
from yfkernels.optim._graphs import Captured, Streams, capturing
from yfkernels.optim._plan import Groups, Plan, State
from yfkernels.optim._state import StateLayout, view_of
from yfkernels.sharding.processes import Division
from yfkernels.tuners.tuner import SavedTuner, Tuner


class Planner:
    """Gives every step a plan whose tables say where everything is.

    Args:
        owner: the optimizer's class, for messages.
        layout: the state that a parameter has.
        backend: as the optimizer was asked for.
        division: how processes share the parameters.
        tuner: it is told of new tables.
        capturable: whether scalars stay on the device, and steps may be captured.
        by_norms: whether each tensor's move depends on its norms.
        fused: whether the optimizer speaks as torch's fused ones.

    Attributes:
        tables: of the last step.
        captured: what captured steps have used.
    """

    def __init__(
        self,
        owner: str,
        layout: StateLayout,
        backend: str,
        division: Division,
        tuner: Tuner,
        *,
        capturable: bool,
        by_norms: bool,
        fused: bool,
    ) -> None:
        self._owner = owner
        self._layout = layout
        self._backend = backend
        self._division = division
        self._tuner = tuner
        self._capturable = capturable
        self._by_norms = by_norms
        self._fused = fused
        self._plan: Plan | None = None  # None as long as it is not known to be true
        self._streams = Streams(())
        self._parts: dict[Tensor, SavedTuner] = {}  # of each parameter, if velocities are in float8
        self.tables: Sequence[TensorTable] = ()
        self.captured = Captured()

    @property
    def tunes_on_host(self) -> bool:
        """Whether the host works out the scalars, and reads the groups' learning rates."""
        return self._tuner.runs_on_host and not self._capturable

    def drop(self) -> None:
        """Has the next step make a new plan."""
        self._plan = None

    def captures(self) -> bool:
        """Whether this step is being captured in a CUDA graph.

        Raises:
            RuntimeError: it is, and could not be replayed.
        """
        capture = capturing()
        if capture and not self._capturable:
            raise RuntimeError(
                f"{self._owner}(capturable=False) cannot be captured in a CUDA graph, "
                "which would keep what the host decides in this step for ever; construct it with "
                "capturable=True"
            )
        return capture

    def bound(self, groups: Groups, state: State, *, capture: bool) -> Plan | None:
        """The plan with this step's tensors in place; None if there are no gradients.

        Raises:
            RuntimeError: tensors are such that they cannot be updated, or the plan must be made
                anew while a CUDA graph is being captured.
        """
        # until all of it has been found true, whatever is raised on the way
        plan, self._plan = self._plan, None
        if plan is not None:
            self._streams.enter()
            if capture:
                # even if the capture is refused, or there is no gradient: addresses are written
                self._hold(plan, groups, state)
            if self.captured.has(plan):
                plan.write_everything()
                self._tuner.write_again()
        seen = Seen.PLAN if plan is None else plan.bind(groups, state)
        if plan is None or seen == Seen.PLAN:
            if not self._takes_part(groups):
                return None
            plan = self._new_plan(groups, state)
            seen = plan.bind(groups, state)
            if seen == Seen.PLAN:
                raise RuntimeError(
                    f"{self._owner}.step(): parameters or state have changed while the "
                    "step was being set up, or lie in memory that cannot be told apart"
                )
        self._plan = plan
        self._streams.enter()
        return plan if seen == Seen.SAME or self._division.everywhere else None

    def _hold(self, plan: Plan, groups: Groups, state: State) -> None:
        devices = sorted({str(table.device) for table in plan.tables})
        if len(devices) > 1:
            raise RuntimeError(
                f"{self._owner}.step() cannot be captured with parameters on "
                f"{' and '.join(devices)}: a CUDA graph has the work of one device; give each an "
                "optimizer of its own"
            )
        lrs = [group.get("lr") for group in groups]
        states = [dict(own) for own in state.values()]
        used = (self._tuner.buffers(), states, lrs)
        self.captured.hold(plan, self._tuner.start(), *used)

    def look_at_start(self) -> None:
        """Has captured steps begin where the parameters are, if they are to begin anew."""
        for start, params in self.captured.starts:
            start([view_of(param) for param in params])

    def _takes_part(self, groups: Groups) -> bool:
        """Whether there is a gradient, or other processes wait for this one's sums."""
        return self._division.everywhere or any(p.grad is not None for p in params_of(groups))

    def _new_plan(self, groups: Groups, state: State) -> Plan:
        if capturing():
            raise RuntimeError(
                f"{self._owner}.step() has to set up its tables, which a CUDA graph cannot "
                "capture: take at least one step with the same parameters before the capture"
            )
        self._refuse_meta(groups)
        if self._tuner.always_sums:
            self._division.require_group(params_of(groups))
        begins = [
            (part, own)
            for part, own in self._tuner.parts(groups)
            if not any(self._layout.begun(state.get(param)) for param in params_of(own))
        ]
        if self._by_norms:
            self._refuse_flat(groups)
        if self._tuner.by_group and self._layout.in_float8:
            self._recount_velocities(groups, state)
        plan = Plan(
            groups,
            state,
            self._layout,
            self._backend,
            self._division,
            self.tables,
            by_group=self._tuner.by_group,
        )
        if not self._division.everywhere:
            # new, or cleared by a program: torch's optimizers are then as new. Not where each
            # process has other parameters: one without any could not tell
            for part, own in begins:
                part.clear()
                part.withdraw(own)
        self.tables = plan.tables
        self._prepare_tuner(plan, groups)
        statistics.publish(self._tuner, groups)
        plan.settle()
        self._streams = Streams([*plan.buffers(), *self._tuner.buffers()])
        return plan

    def _recount_velocities(self, groups: Groups, state: State) -> None:
        """Has those in the unit of their group's tuner whose parameter came from another group."""
        pairs = [(part, params_of(own)) for part, own in self._tuner.parts(groups)]
        units = {id(part): part.unit(part.state) for part, _ in pairs}
        parts = {param: part for part, params in pairs for param in params}
        for param, part in parts.items():
            before = units.get(id(self._parts.get(param)), 0.0)  # of a group that is still there
            if before != units[id(part)] and self._layout.begun(state.get(param)):
                self._layout.recount(state[param], before, units[id(part)])
        self._parts = parts

    def _prepare_tuner(self, plan: Plan, groups: Groups) -> None:
        device = self._tuning_device(plan, groups)
        name = self._tuning_backend(plan)
        backend = preferred(device.type) if name == "auto" else backend_of(name, device.type)
        if backend.unusable(device.type) is not None:
            backend = preferred(device.type)
        self._tuner.prepare(plan.tables, plan.sharding, len(groups), device, backend)

    def _tuning_device(self, plan: Plan, groups: Groups) -> torch.device:
        if self.tunes_on_host:
            return torch.device("cpu")
        devices = [table.device for table in plan.tables]
        devices += [param.device for param in params_of(groups) if not param.is_meta]
        return devices[0] if devices else torch.device("cpu")

    def _tuning_backend(self, plan: Plan) -> str:
        """Which backend tunes: that of the tables, unless processes have to agree.

        Backends round differently, and a process may have no table, or none of a fused backend:
        what was asked for is the same for all of them.
        """
        if plan.sharding:
            return self._backend
        fused = [table.backend.name for table in plan.tables if table.backend.fused]
        return fused[0] if fused else "torch"

    def _refuse_flat(self, groups: Groups) -> None:
        for index, param in enumerate(params_of(groups)):
            if getattr(param, "_is_flat_param", False):
                raise RuntimeError(
                    f"{self._owner} scales each tensor's move by its norm, and parameter "
                    f"{index} is a flat one of FullyShardedDataParallel, many tensors in one: wrap "
                    "the model with use_orig_params=True"
                )

    def _refuse_meta(self, groups: Groups) -> None:
        for index, param in enumerate(params_of(groups)):
            if param.is_meta and param.grad is not None:
                as_torch = "`fused=True` requires all the params to be floating point Tensors; "
                raise RuntimeError(
                    f"{as_torch if self._fused else ''}parameter {index} of shape "
                    f"{tuple(param.shape)} is on meta, where there is nothing to update: "
                    "module.to_empty(device=...) gives it memory"
                )


def names_of(groups: Groups) -> list[str | None]:
    """The name of every parameter; None for those without."""
    names: list[str | None] = []
    for group in groups:
        own = group.get("param_names", ())
        whole = len(own) == len(group["params"])  # ZeRO shrinks the other list alone
        names += own if whole else [None] * len(group["params"])
    return names


def params_of(groups: Groups) -> Iterator[Tensor]:
    """Every parameter, group by group."""
    for group in groups:
        yield from group["params"]
