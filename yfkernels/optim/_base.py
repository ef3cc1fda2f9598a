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
from yfkernels.ops.memory import is_dense, new_state, same_layout
from yfkernels.ops.table import Column, Row, TensorTable, origin_after
from yfkernels.optim._fingerprint import Fingerprint

_STATE_DTYPE = {torch.float64: torch.float64}  # every other dtype keeps float32 state
_HALF = (torch.bfloat16, torch.float16)


def _view(tensor: Tensor) -> Tensor:
    """What the kernels see of a tensor: this process's part, a complex one as pairs of reals."""
    tensor = sharding.local(tensor.detach())
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _add_global_state(optimizer: Any, state_dict: dict[str, Any]) -> None:
    for name, value in optimizer._global_state().items():
        state_dict["param_groups"][0][name] = value.detach().clone()


class FusedOptimizer(Optimizer):
    """Base of the optimizers: gathers gradients into tables and keeps state exact.

    A subclass names its per-parameter state in `_state_columns`, does one step over the tables in
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

    def _state_columns(self) -> dict[str, Column]:
        """Names of the per-parameter state and their columns in the table."""
        raise NotImplementedError

    def _counts_steps(self) -> bool:
        """Whether the update of a parameter hangs on how many steps it has taken."""
        return False

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
        if self._sharded:
            params = [sharding.local(param) for param in params]
            grads = [None if grad is None else sharding.local(grad) for grad in grads]
        try:
            fingerprint = Fingerprint.of(params, grads)
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
                grad = grads[row.index]
                if grad is not None:
                    grad = _view(grad)
                    if table.backend != "torch" and not same_layout(grad, row.param):
                        grad = torch.empty_like(row.param).copy_(grad)
                        self._must_rebind = True
                bound.append(grad)
            table.bind(bound)
            if table.backend != "torch":
                self._upload(table, [0 if grad is None else grad.data_ptr() for grad in bound])

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
        self._planned_dtypes = []
        self._empty_parts = []
        end = 0
        for index, (group, param) in enumerate(self._all_params()):
            grad, view = grads[index], _view(param)
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
                columns = {Column.PARAM: view, **self._state_of(param, view)}
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

    def _state_of(self, param: Tensor, view: Tensor) -> dict[Column, Tensor]:
        """The parameter's state by column, made or brought into the parameter's layout."""
        state = self.state[param]
        columns = {}
        for name, column in self._columns_of(view).items():
            value = state.get(name)
            part = None if value is None else sharding.local(value)
            if part is None or part.device != view.device or not same_layout(part, view):
                part = self._state_tensor(name, view, part)
                state[name] = part if name == "step" else sharding.like(param, part)
            columns[column] = part
        return columns

    def _columns_of(self, view: Tensor) -> dict[str, Column]:
        columns = dict(self._state_columns())
        half = view.dtype in _HALF
        if half and not self._stochastic_rounding:
            columns["master"] = Column.MASTER
        if self._counts_steps() or (half and self._stochastic_rounding):
            columns["step"] = Column.STEP
        return columns

    @staticmethod
    def _state_tensor(name: str, view: Tensor, value: Tensor | None) -> Tensor:
        """A state tensor in the parameter's layout, with `value` in it or as it begins."""
        if name == "step":
            tensor = torch.zeros((), dtype=torch.float32, device=view.device)
        else:
            tensor = new_state(view, _STATE_DTYPE.get(view.dtype, torch.float32))
        if value is None and name == "master":
            value = view
        return tensor if value is None else tensor.copy_(value)

    def _forget_plan(self) -> None:
        self._tables = []
        self._fingerprint = None
        self._planned_dtypes = []
        self._empty_parts = []
        self._must_rebind = False
        self._sharded = any(sharding.is_sharded(param) for _, param in self._all_params())

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
            ValueError: the parameter groups differ.
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
        self._check_global_state(groups[0])
        for index, param, saved in self._saved_state(state_dict):
            view = _view(param)
            whole = param.shape if sharding.is_sharded(param) else view.shape
            for name in self._columns_of(view):
                value, shape = saved.get(name), () if name == "step" else whole
                if value is None and name == "step" and not self._counts_steps():
                    continue  # stochastic rounding begins with this run
                if not isinstance(value, Tensor):
                    raise RuntimeError(
                        f"the state_dict has no {name!r} for parameter {index}; it has "
                        f"{sorted(saved)}. Was it saved with the same options"
                        f"{', stochastic_rounding among them' if name == 'master' else ''}?"
                    )
                if value.shape != shape:
                    raise RuntimeError(
                        f"{name!r} of parameter {index} has shape {tuple(value.shape)} in the "
                        f"state_dict, the parameter has {tuple(shape)}"
                    )

    def _restore_precision(self, state_dict: dict[str, Any]) -> None:
        """Undoes torch's cast of the state to the parameters' dtype, which would lose bits."""
        for _, param, saved in self._saved_state(state_dict):
            view, state = _view(param), self.state[param]
            state.clear()  # of what these options have no use for, too
            for name in self._columns_of(view):
                if name not in saved:
                    continue
                if name == "step":
                    state[name] = self._state_tensor(name, view, saved[name])
                else:
                    part = sharding.part_of(saved[name], param)
                    state[name] = sharding.like(param, self._state_tensor(name, view, part))
