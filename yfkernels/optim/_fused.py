"""What every optimizer here is: options, a rule and a tuner under the torch.optim contract."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import Module
from torch.optim import Optimizer

from yfkernels._checks import require, require_equal_global
from yfkernels.ops.averaging import WeightAverage
from yfkernels.ops.backends import check_backend, choose
from yfkernels.ops.rules import Rule
from yfkernels.optim import _averages, _statistics
from yfkernels.optim._explanation import explained
from yfkernels.optim._group_options import (
    WHOLE,
    GroupOptions,
    GroupReader,
    make_average_plain,
)
from yfkernels.optim._passes import (
    apply_rule,
    count_empty_parts,
    keep_averages,
    trust_ratios,
)
from yfkernels.optim._planner import Planner, params_of
from yfkernels.optim._saved import SavedState
from yfkernels.optim._state import StateLayout, view_of
from yfkernels.sharding.processes import Division, is_flat, zero_redundancy_group
from yfkernels.tuners.tuner import Tuner


class FusedOptimizer(Optimizer):
    """Measures, tunes and applies one rule over tables of all tensors.

    Args:
        params: parameters, parameter groups or named parameters, as for any torch optimizer.
        defaults: per-group options and their defaults.
        rule: the update.
        tuner: what decides its coefficients.
        group_options: how parameter groups are read.
        by_norms: whether each tensor's move depends on its norms, which takes two passes.
        backend: "auto", "native", "triton" or "torch".
        capturable: keep every scalar on the device, so that step() never waits for it and may be
            captured in a CUDA graph.
        stochastic_rounding: of half-precision parameters, instead of a float32 master of each.
        average: an average of the weights to keep beside them, or None.
        process_group: the processes among which the model's parameters are divided, where the
            parameters do not show it themselves as DTensors do.
        foreach, differentiable: as torch's optimizers have them; without effect, and False.
        fused: whether to unscale gradients and to skip steps in step() under GradScaler, as
            torch's fused optimizers do.
    """

    _averages_in_place = False
    _pickled: tuple[str, ...] = (
        *("_rule", "_tuner", "_group_options", "_option_names", "_by_norms", "_layout"),
        *("_backend", "_capturable", "_fused", "_division"),
    )

    def __init__(
        self,
        params: Any,
        defaults: dict[str, Any],
        rule: Rule,
        tuner: Tuner,
        group_options: GroupOptions,
        *,
        by_norms: bool = False,
        backend: str,
        capturable: bool,
        stochastic_rounding: bool,
        average: WeightAverage | None,
        process_group: Any,
        foreach: bool | None,
        fused: bool | None,
        differentiable: bool,
    ) -> None:
        check_backend(backend)
        if isinstance(params, torch.nn.Module):
            raise TypeError(
                f"Invalid params type: {type(params).__name__}, a module; give "
                "model.parameters() or yfkernels.param_groups(model, weight_decay)"
            )
        need = "False: the kernels' step cannot be differentiated"
        require(not differentiable, "differentiable", differentiable, need)
        if not isinstance(average, WeightAverage | None):
            raise TypeError(
                f"Invalid average type: {type(average).__name__} ({average!r}); give None or "
                "yfkernels.WeightAverage()"
            )
        defaults = {**defaults, "average": average and average.settings()}
        self._rule = rule
        self._tuner = tuner
        self._group_options = group_options
        self._option_names = tuple(defaults)  # torch adds to `defaults`, and so do wrappers
        self._by_norms = by_norms
        self._layout = StateLayout.of(rule, bool(stochastic_rounding), average)
        self._backend = backend
        self._capturable = bool(capturable)
        self._fused = bool(fused)
        self._division = Division(
            zero_redundancy_group() if process_group is None else process_group
        )
        self._make_helpers()
        group_options.check_all(defaults)
        super().__init__(params, defaults)
        for device in {p.device for p in params_of(self.param_groups) if not p.is_meta}:
            choose(backend, device, torch.float32, fusible=True)  # raises now, not in step()

    def _make_helpers(self) -> None:
        """What a copy of the optimizer makes for itself."""
        self._reader = GroupReader(self._group_options, self._option_names)
        self._planner = Planner(
            type(self).__name__,
            self._layout,
            self._backend,
            self._division,
            self._tuner,
            capturable=self._capturable,
            by_norms=self._by_norms,
            fused=self._fused,
        )

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
            RuntimeError: a gradient is sparse; a parameter is listed twice, or was resized; the
                averages are in the place of the weights; or a CUDA graph is being captured by an
                optimizer that is not capturable or has not taken a step yet.
        """
        _averages.refuse_inside(self)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        capture = self._planner.captures()
        if not _statistics.is_adopted(self._tuner, self.param_groups):
            self._adopt_statistics()  # and the new plan publishes them
        plan = self._planner.bound(self.param_groups, self.state, capture=capture)
        if plan is not None:
            self._read_groups()
            self._tuner.decide(getattr(self, "grad_scale", None), getattr(self, "found_inf", None))
            num_params = sum(len(group["params"]) for group in self.param_groups)
            apply_rule(self._rule, plan, self._tuner, num_params, two_passes=self._by_norms)
            keep_averages(self._layout.average, plan, self._tuner)
            count_empty_parts(plan, self.state, self._tuner)
            self._tuner.collect()
            plan.finish()
        return loss

    def _read_groups(self) -> None:
        lr_on_device = not self._planner.tunes_on_host
        groups, defaults = self.param_groups, self.defaults
        self._tuner.set_groups(*self._reader.read(groups, defaults, lr_on_device=lr_on_device))
        if not self._tuner.is_published(groups):
            self._tuner.publish(groups)

    def diagnostics(self) -> dict[str, float]:
        """What is known of the last step that was taken, as floats; on CUDA this waits.

        Returns:
            grad_norm: norm of the whole gradient, unscaled, before any clip; NaN if it was not
                measured. skipped_steps: steps refused for a non-finite gradient.
        """
        return self._tuner.diagnostics(self.param_groups)

    def explain(self) -> str:
        """Says in words and numbers why the last step was what it was, and what looks wrong.

        On CUDA this waits for the device. The text is for people: programs read `diagnostics`.

        Returns:
            Lines: where the step size and momentum come from, the gradient and its clips, what each
            group does; then notes, if there is something to look at, such as skipped steps, a
            gradient that is 0 (in the robust mode: that always was), parameters that never had
            one, an lr that looks like a learning rate.
        """
        return explained(self)

    def _trust_ratios(self) -> dict[str, float]:
        return trust_ratios(self._rule, self._planner.tables, self._tuner, self.param_groups)

    # ---- averages of the weights

    @contextmanager
    def averaged(
        self, model: Module | None = None, loader: Iterable[Any] | None = None
    ) -> Iterator[None]:
        """Puts the averages in the place of the weights inside a ``with`` block.

        Every bit of the weights is back after it, also after an exception; what is written into
        them inside is lost. A parameter that has taken no step stays as it is. The block takes the
        memory of one more copy of the weights, and step() is refused in it.

        Args:
            model: with batch normalization, whose statistics are taken anew inside, in all of its
                layers; buffers, modes and random states are as before after the block.
            loader: what torch.optim.swa_utils.update_bn takes: an iterable of inputs, or of tuples
                or lists whose first element is the input. They are moved to the model's device.

        Raises:
            RuntimeError: no averages are kept, no step was taken, or this is such a block already.
            TypeError, ValueError: a model without a loader, or the other way round; no batch.
        """
        if self._averages_in_place:
            raise RuntimeError("averaged() inside averaged(): the averages are in place already")
        _averages.check_model(model, loader)
        with _averages.in_place(self, model, loader):
            self._averages_in_place = True
            try:
                yield
            finally:
                self._averages_in_place = False

    def use_average(self, model: Module | None = None, loader: Iterable[Any] | None = None) -> None:
        """Writes the averages into the weights for good, at the end of a training.

        Args:
            model, loader: as for averaged(), for a model with batch normalization.

        Raises:
            RuntimeError: no averages are kept, no step was taken, or they are in place already.
            TypeError, ValueError: a model without a loader, or the other way round; no batch.
        """
        if self._averages_in_place:
            raise RuntimeError("use_average() inside averaged(): leave the block first")
        _averages.check_model(model, loader)
        _averages.put_for_good(self, model, loader)

    def averaged_state_dict(self, model: Module) -> dict[str, Any]:
        """A copy of the model's state_dict with the averages in the place of its weights.

        Statistics of batch normalization are those of the training; to take them anew, save
        model.state_dict() inside ``with averaged(model, loader):``.

        Raises:
            RuntimeError: no averages are kept, or no step was taken.
            ValueError: the model has none of this optimizer's parameters.
        """
        return _averages.state_dict_of(self, model)

    # ---- what belongs to no parameter

    def _adopt_statistics(self) -> None:
        _statistics.adopt(self._tuner, self.param_groups)
        self._planner.drop()  # where the parameters begin, the tuner wants to know too
        self._planner.look_at_start()

    def reset(self, *, statistics: bool = True, state: bool = True) -> None:
        """Forgets what was learnt; options and parameters stay.

        Args:
            statistics: what belongs to no parameter: the tuner, the count of skipped steps. The
                unit of momenta in float8 is with them, so these begin at zero, too.
            state: what each parameter has. What a program of its own has put there stays.

        Once a step was captured in a CUDA graph, all of it begins anew where it is.
        """
        if statistics:
            _statistics.begin(self._tuner, self.param_groups)
            self._planner.look_at_start()
            if _statistics.is_published(self._tuner, self.param_groups):
                # not to be taken back from there
                _statistics.publish(self._tuner, self.param_groups)
        if state:
            for param, own in list(self.state.items()):
                live = dict(own) if self._planner.captured else {}
                self._layout.forget(own)
                self._layout.begin_again(param, live, own)
                if not statistics:  # which no state at all would let begin anew
                    self._layout.bring(param, view_of(param), own)
                elif not own:
                    del self.state[param]
        self._planner.drop()

    # ---- the torch.optim contract

    def _global_values(self) -> dict[str, Any]:
        """The options that only the constructor takes; wrappers repeat them in groups."""
        return {
            "stochastic_rounding": self._layout.stochastic_rounding,
            "capturable": self._capturable,
            "backend": self._backend,
            "differentiable": False,
            **{name: self.defaults[name] for name in WHOLE if name in self.defaults},
            **self._tuner.global_options(),
        }

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a parameter group; its state begins at zero with its first gradient."""
        make_average_plain(param_group)
        require_equal_global(self._global_values(), param_group, type(self).__name__)
        self._group_options.check_all({**self.defaults, **param_group})
        super().add_param_group(param_group)
        self._planner.drop()  # also for programs that take it out again before the next step
        self._tuner.keep_groups(len(self.param_groups) - 1)
        if self._planner.tables:  # steps were taken: if this is now the only group, it remembers
            _statistics.publish(self._tuner, self.param_groups)
        else:
            self._tuner.publish(self.param_groups)

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: getattr(self, name) for name in self._pickled}
        return super().__getstate__() | kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_planner" not in self.__dict__:  # a copy; torch loads by this way too
            self._make_helpers()
        self._tuner.publish(self.param_groups)  # those of a copy are to show its own steps

    @torch._disable_dynamo  # type: ignore[attr-defined]
    def state_dict(self) -> dict[str, Any]:
        """The state as torch's optimizers give it, with references to the live tensors.

        No process waits for another here. With FullyShardedDataParallel's flat parameters 8-bit
        codes are given as float32 numbers, the only kind that its optim_state_dict carries.
        """
        state_dict: dict[str, Any] = super().state_dict()
        if any(map(is_flat, params_of(self.param_groups))):
            states = state_dict["state"].items()
            state_dict["state"] = {key: self._layout.with_float_codes(s) for key, s in states}
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
        saved = SavedState(self, in_place=bool(self._planner.captured))

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
        if self._planner.captured or _statistics.is_published(self._tuner, self.param_groups):
            _statistics.publish(self._tuner, self.param_groups)
