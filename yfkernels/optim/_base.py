"""What every optimizer here shares: the torch.optim contract over tensor tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from yfkernels._checks import require, require_equal_global
from yfkernels.ops.backend import BACKENDS, choose
from yfkernels.ops.table import TensorTable
from yfkernels.ops.watch import Seen
from yfkernels.optim._graphs import Captured, Streams, capturing
from yfkernels.optim._plan import Plan
from yfkernels.optim._saved import SavedState
from yfkernels.optim._state import StateLayout, view_of
from yfkernels.sharding.processes import Division, is_flat, zero_redundancy_group


class FusedOptimizer(Optimizer):
    """Base of the optimizers: gathers gradients into tables and keeps state exact.

    A subclass says in `_layout` what it keeps for a parameter, and does one step over the tables in
    `_update`. What belongs to no parameter is one float64 tensor, `_statistics`: it lives in the
    first parameter group under `_statistics_name`, where every program that copies `state` and
    `param_groups` copies it, and is the same tensor from step to step.

    Args:
        params: parameters, parameter groups or named parameters, as for any torch optimizer.
        defaults: per-group options and their defaults.
        backend: "auto", "native", "triton" or "torch".
        capturable: keep every scalar on the device, so that step() never waits for it and may be
            captured in a CUDA graph.
        stochastic_rounding: of half-precision parameters, instead of a float32 master of each.
        process_group: the processes among which the model's parameters are divided, where the
            parameters do not show it themselves as DTensors do.
        foreach, differentiable: as torch's optimizers have them; without effect, and False.
        fused: whether to unscale gradients and to skip steps in step() under GradScaler, as
            torch's fused optimizers do.
    """

    _pickled: tuple[str, ...] = (  # for pickle
        "_backend",
        "_capturable",
        "_stochastic_rounding",
        "_fused",
        "_division",
        "_option_names",
    )
    _defining_options: frozenset[str] = frozenset()  # without them saved state has no meaning
    _statistics_name: str
    _statistics_needed = False  # state of parameters says nothing without them

    # the class's values are those of an optimizer that was copied or unpickled
    _plan: Plan | None = None  # None as long as it is not known to be true
    _tables: Sequence[TensorTable] = ()  # of the last step
    _streams = Streams(())
    _division: Division = Division()

    def __init__(
        self,
        params: Any,
        defaults: dict[str, Any],
        *,
        backend: str,
        capturable: bool,
        stochastic_rounding: bool,
        process_group: Any = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        if backend not in ("auto", *BACKENDS):
            choices = ", ".join(("auto", *BACKENDS))
            raise ValueError(f"Invalid backend value: {backend!r}; choose from {choices}")
        if isinstance(params, torch.nn.Module):
            raise TypeError(
                f"Invalid params type: {type(params).__name__}, a module; give "
                "model.parameters() or yfkernels.param_groups(model, weight_decay)"
            )
        need = "False: the kernels' step cannot be differentiated"
        require(not differentiable, "differentiable", differentiable, need)
        self._backend = backend
        self._capturable = bool(capturable)
        self._stochastic_rounding = bool(stochastic_rounding)
        self._fused = bool(fused)
        if process_group is None:
            process_group = zero_redundancy_group()
        self._division = Division(process_group)
        self._captured = Captured()
        self._option_names = tuple(defaults)  # torch adds to `defaults`, and so do wrappers
        self._check_group(defaults)
        super().__init__(params, defaults)
        for device in {param.device for _, param in self._all_params() if not param.is_meta}:
            choose(backend, device, torch.float32, fusible=True)  # raises now, not in step()

    # ---- for subclasses

    @property
    def _statistics(self) -> Tensor:
        """The tensor of what belongs to no parameter."""
        raise NotImplementedError

    def _begin_statistics(self) -> None:
        """Puts the statistics back to how they begin, in place."""
        raise NotImplementedError

    def _accepted_statistics(self, saved: Tensor, group: dict[str, Any]) -> Tensor:
        """Saved statistics, of any version, as this version keeps them; nothing has changed yet.

        Raises RuntimeError if they do not fit. `group` is the parameter group they were in.
        """
        raise NotImplementedError

    def _global_values(self) -> dict[str, Any]:
        """The options that only the constructor takes; wrappers repeat them in groups."""
        return {
            "stochastic_rounding": self._stochastic_rounding,
            "capturable": self._capturable,
            "backend": self._backend,
            "differentiable": False,
        }

    @property
    def _always_sums(self) -> bool:
        """Whether every step needs sums over all parameters, whatever the groups' options."""
        return True

    def _group_added(self) -> None:
        """Called for a new group, when there is no plan."""

    def _publish_readouts(self) -> None:
        """Puts into the groups what is there to be read, not set."""

    def _layout(self) -> StateLayout:
        """The state that a parameter has."""
        raise NotImplementedError

    def _prepare(self, plan: Plan) -> None:
        """Called when there is a new plan."""
        raise NotImplementedError

    def _buffers(self) -> list[Tensor]:
        """What `_prepare` has made and kernels read or write."""
        raise NotImplementedError

    def _write_again(self) -> None:
        """Has `_update` write everything to the device, whatever it wrote before."""
        raise NotImplementedError

    def _update(self, plan: Plan) -> None:
        """One step over tables whose gradients are bound. A process whose shards are all empty
        has no table and must still take part in sums over the shards."""
        raise NotImplementedError

    def _check_group(self, group: dict[str, Any]) -> None:
        """Raises ValueError or TypeError for a bad option of a parameter group."""
        raise NotImplementedError

    def _check_numbered_group(self, index: int, group: dict[str, Any]) -> None:
        """The same, and the error says which group it is."""
        try:
            self._check_group(group)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{error} (parameter group {index})") from None

    # ---- step

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether GradScaler leaves unscaling and skipping to step(), as with torch's fused ones.

        Not by default: Lightning refuses to clip the gradients of an optimizer that has this, and
        Accelerate would not notice a skipped step.
        """
        return self._fused or self._capturable

    @torch._disable_dynamo  # type: ignore[attr-defined]  # raw addresses cannot be traced
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes one step.

        Args:
            closure: re-evaluates the model and returns the loss; called with gradients enabled.

        Returns:
            What the closure returned, or None.

        Raises:
            RuntimeError: a gradient is sparse; a parameter is listed twice, or was resized; or a
                CUDA graph is being captured by an optimizer that is not capturable or has not
                taken a step yet.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        capture = capturing()
        if capture and not self._capturable:
            raise RuntimeError(
                f"{type(self).__name__}(capturable=False) cannot be captured in a CUDA graph, "
                "which would keep what the host decides in this step for ever; construct it with "
                "capturable=True"
            )
        if self.param_groups[0].get(self._statistics_name) is not self._statistics:
            self._adopt_statistics()  # and the new plan publishes them
        plan = self._bound_plan(capture)
        if plan is not None:
            if capture and not self._captured.has(plan):
                self._captured.hold(plan, self._buffers())  # even if the capture is refused
            self._streams.enter()
            self._update(plan)
            plan.finish()
        return loss

    def _bound_plan(self, capture: bool) -> Plan | None:
        """The plan with this step's tensors in place; None if there are no gradients."""
        # until all of it has been found true, whatever is raised on the way
        plan, self._plan = self._plan, None
        if plan is not None and (capture or self._captured.has(plan)):
            plan.write_everything()
            self._write_again()
        seen = Seen.PLAN if plan is None else plan.bind(self.param_groups, self.state)
        if seen == Seen.PLAN:
            if not self._takes_part():
                return None
            plan = self._new_plan()
            seen = plan.bind(self.param_groups, self.state)
            if seen == Seen.PLAN:
                raise RuntimeError(
                    f"{type(self).__name__}.step(): parameters or state have changed while the "
                    "step was being set up, or lie in memory that cannot be told apart"
                )
        self._plan = plan
        return plan if seen == Seen.SAME or self._division.everywhere else None

    def _takes_part(self) -> bool:
        """Whether there is a gradient, or other processes wait for this one's sums."""
        if self._division.everywhere:
            return True
        return any(param.grad is not None for _, param in self._all_params())

    def _new_plan(self) -> Plan:
        self._refuse_capture()
        self._refuse_meta()
        if self._always_sums:
            self._division.require_group(param for _, param in self._all_params())
        if not self._has_state() and not self._division.everywhere:
            # new, or cleared by a program: torch's optimizers are then as new. Not where each
            # process has other parameters: one without any could not tell
            self._begin_statistics()
        plan = Plan(
            self.param_groups,
            self.state,
            self._layout(),
            self._backend,
            self._division,
            before=self._tables,
        )
        self._tables = plan.tables
        self._prepare(plan)
        plan.settle()
        self._streams = Streams([*plan.buffers(), *self._buffers()])
        return plan

    def _has_state(self) -> bool:
        layout = self._layout()
        return any(layout.begun(self.state.get(param)) for _, param in self._all_params())

    def _all_params(self) -> Iterator[tuple[int, Tensor]]:
        for index, group in enumerate(self.param_groups):
            for param in group["params"]:
                yield index, param

    def _refuse_capture(self) -> None:
        if capturing():
            raise RuntimeError(
                f"{type(self).__name__}.step() has to set up its tables, which a CUDA graph cannot "
                "capture: take at least one step with the same parameters before the capture"
            )

    def _refuse_meta(self) -> None:
        for index, (_, param) in enumerate(self._all_params()):
            if param.is_meta and param.grad is not None:
                as_torch = "`fused=True` requires all the params to be floating point Tensors; "
                raise RuntimeError(
                    f"{as_torch if self._fused else ''}parameter {index} of shape "
                    f"{tuple(param.shape)} is on meta, where there is nothing to update: "
                    "module.to_empty(device=...) gives it memory"
                )

    # ---- what belongs to no parameter

    def _publish(self) -> None:
        """Puts the statistics, and what can be read, where programs and torch look for them.

        Not before the first step, so that groups of new optimizers can be compared.
        """
        for group in self.param_groups[:1]:
            group[self._statistics_name] = self._statistics
        for group in self.param_groups[1:]:  # a copy of the first, maybe
            group.pop(self._statistics_name, None)
        self._publish_readouts()

    def _adopt_statistics(self) -> None:
        """Takes over statistics that a program has put into the groups, or begins anew."""
        holders = [g for g in self.param_groups if g.get(self._statistics_name) is not None]
        if not holders:
            self._begin_statistics()
        elif (found := holders[0][self._statistics_name]) is not self._statistics:
            self._statistics.copy_(self._accepted_statistics(found, holders[0]))
        self._plan = None  # where the parameters begin, the tuner wants to know too

    def reset(self, *, statistics: bool = True, state: bool = True) -> None:
        """Forgets what was learnt; options and parameters stay.

        Args:
            statistics: what belongs to no parameter: the tuner, the count of skipped steps.
            state: what each parameter has. What a program of its own has put there stays.
        """
        if statistics:
            self._begin_statistics()
            if self._statistics_name in self.param_groups[0]:
                self._publish()  # not to be taken back from there
        if state:
            layout = self._layout()
            for param, own in list(self.state.items()):
                layout.forget(own)
                if not statistics:  # which no state at all would let begin anew
                    layout.bring(param, view_of(param), own)
                elif not own:
                    del self.state[param]
        self._plan = None

    # ---- the torch.optim contract

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a parameter group; its state begins at zero with its first gradient."""
        require_equal_global(self._global_values(), param_group, type(self).__name__)
        self._check_group({**self.defaults, **param_group})
        super().add_param_group(param_group)
        self._plan = None  # also for programs that take the group out again before the next step
        self._group_added()
        if self._tables:  # steps were taken: if this is the only group now, they are remembered
            self._publish()
        else:
            self._publish_readouts()

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: getattr(self, name) for name in self._pickled}
        return super().__getstate__() | kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("_captured", Captured())  # of copies; torch loads by this way too
        self._publish_readouts()  # those of a copy are to show its own steps

    @torch._disable_dynamo  # type: ignore[attr-defined]
    def state_dict(self) -> dict[str, Any]:
        """The state as torch's optimizers give it, with references to the live tensors.

        No process waits for another here. With FullyShardedDataParallel's flat parameters 8-bit
        codes are given as float32 numbers, the only kind that its optim_state_dict carries.
        """
        state_dict: dict[str, Any] = super().state_dict()
        if any(is_flat(param) for _, param in self._all_params()):
            layout, states = self._layout(), state_dict["state"]
            state_dict["state"] = {key: layout.with_float_codes(s) for key, s in states.items()}
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what state_dict() saved.

        Options that the state_dict does not have take their defaults, a master its parameter's
        value; a parameter of full precision takes that of a saved master. Once a step was captured
        in a CUDA graph, numbers go into the tensors that are there: its replays go on from them.

        Raises:
            ValueError: the parameter groups differ, or have an option that this one does not take.
            RuntimeError: state of another shape, another optimizer or other options.
        """
        saved = SavedState(self, in_place=bool(self._captured))

        # the last hook to run, so that it sees what the user's own hooks have made of the dict
        def complete(optimizer: Optimizer, final: dict[str, Any]) -> dict[str, Any]:
            return saved.completed(final)

        handle = self.register_load_state_dict_pre_hook(complete)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        saved.restore()
        self._adopt_statistics()
        if self._statistics_name in self.param_groups[0]:
            self._publish()
