"""What every optimizer here shares: the torch.optim contract over tensor tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from yfkernels import ops
from yfkernels._checks import refuse_global
from yfkernels.distributed import sharding
from yfkernels.distributed.sharding import ShardGroup
from yfkernels.ops.memory import is_dense, same_layout
from yfkernels.ops.table import Column, Row, TensorTable, origin_after
from yfkernels.optim._fingerprint import Fingerprint
from yfkernels.optim._state import StateLayout, view_of


def _add_global_state(optimizer: Any, state_dict: dict[str, Any]) -> None:
    for name, value in optimizer._global_state().items():
        state_dict["param_groups"][0][name] = value.detach().clone()


class FusedOptimizer(Optimizer):
    """Base of the optimizers: gathers gradients into tables and keeps state exact.

    A subclass says in `_layout` what it keeps for a parameter, does one step over the tables in
    `_update`, and puts what is neither per parameter nor per group in `_global_state`.

    Args:
        params: parameters, parameter groups or named parameters, as for any torch optimizer.
        defaults: per-group options and their defaults.
        backend: "auto", "native", "triton" or "torch".
        capturable: keep every scalar on the device, so that step() never waits for it and may be
            captured in a CUDA graph.
        stochastic_rounding: of half-precision parameters, instead of a float32 master of each.
    """

    _step_supports_amp_scaling = True  # GradScaler then leaves unscaling and skipping to step()
    _global_options = frozenset(("stochastic_rounding", "capturable", "backend"))
    _attributes: tuple[str, ...] = ("_backend", "_capturable", "_stochastic_rounding")  # for pickle

    _tables: list[TensorTable]
    _fingerprint: Fingerprint | None  # of the step the tables were last bound for
    _planned_dtypes: list[torch.dtype | None]  # of each gradient; None before its first
    _empty_parts: list[tuple[Tensor, Tensor]]  # parameter, its steps: no element is here
    _must_rebind: bool  # addresses are not enough: this step's tensors are needed
    _sharded: bool  # some parameter is a DTensor

    def __init__(
        self,
        params: Any,
        defaults: dict[str, Any],
        *,
        backend: str,
        capturable: bool,
        stochastic_rounding: bool,
    ) -> None:
        if backend not in ("auto", *ops.BACKENDS):
            choices = ", ".join(("auto", *ops.BACKENDS))
            raise ValueError(f"Invalid backend value: {backend!r}; choose from {choices}")
        if isinstance(params, torch.nn.Module):
            raise TypeError(
                f"Invalid params type: {type(params).__name__}, a module; give "
                "model.parameters() or yfkernels.param_groups(model, weight_decay)"
            )
        self._backend = backend
        self._capturable = capturable
        self._stochastic_rounding = stochastic_rounding
        super().__init__(params, defaults)
        self._watch_state_dict()
        for device in {param.device for _, param in self._all_params()}:
            ops.choose(backend, device, torch.float32, fusible=True)  # raises now, not in step()

    # ---- for subclasses

    def _layout(self) -> StateLayout:
        """The state that a parameter has."""
        raise NotImplementedError

    def _prepare(self, tables: list[TensorTable], shards: list[ShardGroup]) -> None:
        """Called when the set of tables has changed; `shards` are all their shard groups."""
        raise NotImplementedError

    def _update(self, tables: list[TensorTable]) -> None:
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

    def _global_state(self) -> dict[str, Tensor]:
        """State that belongs to no parameter; saved in the first group of the state_dict."""
        return {}

    def _check_global_state(self, saved: dict[str, Any]) -> None:
        """Raises RuntimeError if `saved` does not fit; nothing has changed yet."""

    def _load_global_state(self, saved: dict[str, Tensor]) -> None:
        """Takes what `_global_state` gave."""

    # ---- step

    @torch._disable_dynamo  # type: ignore[attr-defined]  # raw addresses cannot be traced
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes one step.

        Args:
            closure: re-evaluates the model and returns the loss; called with gradients enabled.

        Returns:
            What the closure returned, or None.

        Raises:
            RuntimeError: a gradient is sparse, or a CUDA graph is being captured by an optimizer
                that is not capturable or has not taken a step yet.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        tables = self._bind()
        if tables is not None:
            self._update(tables)
            for table in tables:
                # kernels write behind autograd's back; empty for the torch backend
                torch.autograd.graph.increment_version(table.updated)
                table.release()
        return loss

    def _bind(self) -> list[TensorTable] | None:
        """The tables with this step's gradients in place; None if there are no gradients."""
        params = [param for group in self.param_groups for param in group["params"]]
        grads = [param.grad for param in params]
        sizes = [len(group["params"]) for group in self.param_groups]
        if self._sharded:
            self._must_rebind |= any(map(sharding.is_split_otherwise, grads, params))
            grads = list(map(sharding.grad_part, grads, params))
            params = list(map(sharding.local, params))
        try:
            fingerprint = Fingerprint.of(params, grads, sizes)
        except RuntimeError:
            self._refuse_sparse(grads)
            raise
        known = self._fingerprint
        if known is not None and not self._must_rebind:
            if fingerprint == known:
                return self._tables
            if fingerprint.moved_from(known) and self._dtypes_planned(grads):
                # the same gradients in other places, as after every zero_grad()
                self._fingerprint = fingerprint
                for table in self._tables:
                    self._upload(table, [fingerprint.grads[row.index] for row in table.rows])
                return self._tables
        self._refuse_sparse(grads)
        if all(grad is None for grad in grads):
            return None
        if not self._plan_fits(fingerprint, grads):
            self._refuse_capture()
            self._make_plan(grads)
        self._bind_grads(grads)
        self._fingerprint = fingerprint
        return self._tables

    def _bind_grads(self, grads: list[Tensor | None]) -> None:
        self._must_rebind = any(table.backend == "torch" for table in self._tables)
        for table in self._tables:
            bound: list[Tensor | None] = []
            for row in table.rows:
                given, grad = grads[row.index], None
                if given is not None:
                    grad = view_of(given)
                    self._refuse_resized(row, grad)
                    if table.backend != "torch" and not same_layout(grad, row.param):
                        grad = torch.empty_like(row.param).copy_(grad)
                    # a copy, of a conjugate view for one, has to be made in every step
                    self._must_rebind |= grad.data_ptr() != given.data_ptr()
                bound.append(grad)
            table.bind(bound)
            if table.backend != "torch":
                self._upload(table, [0 if grad is None else grad.data_ptr() for grad in bound])

    @staticmethod
    def _refuse_resized(row: Row, grad: Tensor) -> None:
        if grad.shape != row.param.shape:
            raise RuntimeError(
                f"parameter {row.index} has shape {tuple(row.param.shape)}, its gradient "
                f"{tuple(grad.shape)}: it was resized after backward(); call zero_grad() first"
            )

    @staticmethod
    def _upload(table: TensorTable, pointers: list[int]) -> None:
        if table.moved(pointers):
            ops.module(table.backend).upload_grads(table, pointers)

    def _plan_fits(self, fingerprint: Fingerprint, grads: list[Tensor | None]) -> bool:
        """Whether the tables still describe the parameters and have a row for each gradient."""
        return fingerprint.same_params(self._fingerprint) and self._dtypes_planned(grads)

    def _dtypes_planned(self, grads: list[Tensor | None]) -> bool:
        """Whether every gradient there is has the dtype that its row was made for."""
        dtypes = [None if grad is None else grad.dtype for grad in grads]
        if dtypes == self._planned_dtypes:
            return True
        return all(d is None or d == planned for d, planned in zip(dtypes, self._planned_dtypes))

    def _make_plan(self, grads: list[Tensor | None]) -> None:
        """Sorts the parameters that have had a gradient into tables."""
        rows: dict[tuple[Any, ...], list[Row]] = {}
        shards: dict[ShardGroup, None] = {}
        layout = self._layout()
        self._planned_dtypes = []
        self._empty_parts = []
        end = 0
        for index, (group, param) in enumerate(self._all_params()):
            grad, view = grads[index], view_of(param)
            started = grad is not None or bool(self.state.get(param))
            grad_dtype = param.dtype if grad is None else grad.dtype
            self._planned_dtypes.append(grad_dtype if started else None)
            shard = sharding.shard_group(param)
            numel = param.numel() * (2 if param.is_complex() else 1)
            start = origin_after(end, numel)
            end = start + numel
            if started:
                if shard is not None:
                    shards[shard] = None
                fusible = is_dense(view) and grad_dtype == param.dtype
                backend = ops.choose(self._backend, view.device, view.dtype, fusible)
                state = layout.bring(param, view, self.state[param])
                columns = {Column.PARAM: view, **state}
                key = (backend, view.device, view.dtype, shard)
                first = start + sharding.shard_offset(param)
                if view.numel():
                    rows.setdefault(key, []).append(Row(index, group, first, columns))
                elif Column.STEP in columns:
                    self._empty_parts.append((param, columns[Column.STEP]))
        tables = [TensorTable(key[0], same, shard=key[3]) for key, same in rows.items()]
        for table in tables:
            table.inherit_norms(self._tables)
        self._tables = tables
        self._prepare(self._tables, list(shards))

    def _all_params(self) -> Iterator[tuple[int, Tensor]]:
        for index, group in enumerate(self.param_groups):
            for param in group["params"]:
                yield index, param

    def _forget_plan(self) -> None:
        self._tables = []
        self._fingerprint = None
        self._planned_dtypes = []
        self._empty_parts = []
        self._must_rebind = False
        self._sharded = any(sharding.is_dtensor(param) for _, param in self._all_params())

    def _refuse_sparse(self, grads: list[Tensor | None]) -> None:
        for index, grad in enumerate(grads):
            if grad is not None and grad.layout is not torch.strided:
                raise RuntimeError(
                    f"{type(self).__name__} does not support sparse gradients: parameter {index} "
                    f"of shape {tuple(grad.shape)} has a gradient of layout {grad.layout}. "
                    "Use sparse=False in the embedding, or call grad.to_dense() before step()"
                )

    def _refuse_capture(self) -> None:
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                f"{type(self).__name__}.step() has to set up its tables, which a CUDA graph cannot "
                "capture: take at least one step with the same parameters before the capture"
            )

    # ---- the torch.optim contract

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a parameter group; its state begins at zero with its first gradient."""
        refuse_global(self._global_options, param_group, type(self).__name__)
        self._check_group({**self.defaults, **param_group})
        super().add_param_group(param_group)
        self._forget_plan()

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: getattr(self, name) for name in self._attributes}
        return super().__getstate__() | kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        unpickled = "_optimizer_state_dict_post_hooks" not in self.__dict__
        super().__setstate__(state)
        if unpickled:
            self._watch_state_dict()
        self._forget_plan()

    def _watch_state_dict(self) -> None:
        # the first hook to run, so that the user's own see the whole state
        self.register_state_dict_post_hook(_add_global_state, prepend=True)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what state_dict() saved.

        Raises:
            ValueError: the parameter groups differ, or have an option that this one does not take.
            RuntimeError: state of another shape, another version or other options.
        """
        seen: dict[str, Any] = {}

        # the last hook to run, so that it sees what the user's own hooks have made of the dict
        def look(optimizer: Optimizer, final: dict[str, Any]) -> None:
            self._check_state_dict(final)
            seen.update(final)

        handle = self.register_load_state_dict_pre_hook(look)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        self._restore_precision(seen)
        names = list(self._global_state())
        self._load_global_state({name: seen["param_groups"][0][name] for name in names})
        for name in names:
            self.param_groups[0].pop(name, None)

    def _saved_state(
        self, state_dict: dict[str, Any]
    ) -> Iterator[tuple[int, Tensor, dict[str, Any]]]:
        """(index, parameter, saved state) for every parameter that has saved state."""
        ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        for index, (saved_id, (_, param)) in enumerate(zip(ids, self._all_params())):
            saved = state_dict["state"].get(saved_id)
            if saved:
                yield index, param, saved

    def _check_state_dict(self, state_dict: dict[str, Any]) -> None:
        groups = state_dict["param_groups"]
        sizes = [len(group["params"]) for group in self.param_groups]
        if [len(group["params"]) for group in groups] != sizes:
            return  # torch says this best, and says it before anything changes
        missing = [name for name in self.defaults if any(name not in group for group in groups)]
        missing += [name for name in self._global_state() if name not in groups[0]]
        if missing:
            raise RuntimeError(
                f"the state_dict was not saved by yfkernels.{type(self).__name__}: its parameter "
                f"groups have no {', '.join(map(repr, missing))}"
            )
        for index, group in enumerate(groups):
            self._check_numbered_group(index, group)
        self._check_global_state(groups[0])
        for index, param, saved in self._saved_state(state_dict):
            self._layout().check(index, param, saved)

    def _restore_precision(self, state_dict: dict[str, Any]) -> None:
        """Undoes torch's cast of the state to the parameters' dtype, which would lose bits."""
        for _, param, saved in self._saved_state(state_dict):
            self._layout().restore(param, saved, self.state[param])
