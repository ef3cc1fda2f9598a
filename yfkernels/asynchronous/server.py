"""The server of asynchronous training: it holds the model and applies each push as one step."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from yfkernels._checks import is_count, require
from yfkernels.asynchronous.batches import Batches
from yfkernels.asynchronous.checkpoint import check
from yfkernels.asynchronous.flat import FlatBuffers, Gradients, all_finite
from yfkernels.asynchronous.push import Pulled, PushResult, Refusal, Version
from yfkernels.asynchronous.push_log import PushLog
from yfkernels.asynchronous.staleness import StalenessRule, scaled_lr, weighs_gradient
from yfkernels.optim.yellowfin import YellowFin


class Server:
    """Holds parameters and an optimizer, and takes one step with each gradient that arrives.

    It knows no transport and no threads: one thread calls it. The parameters become views of flat
    tensors, so that a push is one copy and the optimizer's step.

    A worker pulls, copies the parameters (`FlatBuffers.copy_from`), computes a gradient and pushes
    it with the version that it pulled. A refused push changes nothing but `log`. Its lease stays
    open: the worker may push again for it, or `batches.take_back` lends it to others.

    Buffers, such as the statistics of BatchNorm, are not shared: every worker keeps its own. To
    evaluate or save the model, take those of one worker.

    Args:
        model: a module, or its parameters: the same in number, order and shape as the workers'.
        optimizer: of this package or of torch.optim, over all parameters of the model that need a
            gradient. One whose step needs a closure does not work.
        batches: what lends the batches; a push must then name an open lease. None for pushes
            without leases.
        max_staleness: refuse pushes that are more stale than this, >= 0. None for no limit.
        staleness_rule: weighs pushes by their staleness. None to apply all as they are.
        log_length: how many of the last stalenesses `log` keeps.

    Attributes:
        log: what became of the pushes.
        buffers: the model's flat parameters and gradients.

    Raises:
        TypeError, ValueError: an argument out of its range; the optimizer has other parameters than
            the model.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> server = Server(model, torch.optim.SGD(model.parameters(), lr=0.1))
        >>> version, parameters = server.pull()
        >>> gradient = torch.ones_like(parameters[0])
        >>> server.push(gradient, version=version)
        PushResult(applied=True, staleness=0, refusal=None)
        >>> server.push(gradient, version=version).staleness
        1
        >>> server.push(gradient * float("nan"), version=version).refusal.name
        'NONFINITE'
    """

    _version: Version

    def __init__(
        self,
        model: nn.Module | Iterable[Tensor],
        optimizer: Optimizer,
        *,
        batches: Batches | None = None,
        max_staleness: int | None = None,
        staleness_rule: StalenessRule | None = None,
        log_length: int = 1000,
    ) -> None:
        ok = max_staleness is None or max_staleness == 0 or is_count(max_staleness)
        require(ok, "max_staleness", max_staleness, "an integer >= 0, or None for no limit")
        ok = staleness_rule is None or isinstance(staleness_rule, StalenessRule)
        need = "a StalenessRule, such as DelayAdaptive(), or None"
        require(ok, "staleness_rule", staleness_rule, need)
        params = list(model.parameters() if isinstance(model, nn.Module) else model)
        _require_same(params, optimizer)
        self.log = PushLog(log_length)
        self.buffers = FlatBuffers(params)
        self.optimizer = optimizer
        self.batches = batches
        self._begin_run(0)
        self._max_staleness = math.inf if max_staleness is None else max_staleness
        self._rule = staleness_rule
        self._scales_gradient = weighs_gradient(optimizer)
        if staleness_rule is not None:
            staleness_rule.begin(self.buffers.parameters)

    @property
    def version(self) -> Version:
        """The current version."""
        return self._version

    @property
    def gradients(self) -> Gradients:
        """Flat tensors into which a gradient may be received; `push` then makes no copy of it.

        Their content between pushes does not matter. `buffers.more_gradients()` gives others, into
        which the next gradient may be received while this one is applied.
        """
        return self.buffers.gradients

    def pull(self) -> Pulled:
        """The current version and its flat parameters: views, which the next push changes."""
        return Pulled(self._version, self.buffers.parameters)

    def push(
        self, gradient: Tensor | Sequence[Tensor], *, version: Version, lease: int | None = None
    ) -> PushResult:
        """Applies a gradient as one step of the optimizer, or refuses it.

        An exception from the optimizer goes through; version, log and lease are then as before.

        Args:
            gradient: flat, in the layout of `FlatBuffers`: one tensor, or a sequence if the model
                has several dtypes or devices. It is not modified, unless it is `gradients` or of
                `buffers.more_gradients()`: then it is not copied.
            version: what pull() gave with the parameters at which the gradient was taken.
            lease: number of the lease of the batch.

        Raises:
            TypeError: a gradient that is no tensor or sequence of tensors.
        """
        given = (gradient,) if isinstance(gradient, Tensor) else gradient
        for each in given:
            if not isinstance(each, Tensor):
                raise TypeError(f"Invalid gradient type: {type(each).__name__}; give flat tensors")
        version = Version(*version)
        staleness = self._version.number - version.number
        refusal = self._refusal(given, version, lease)
        weight = 1.0
        if refusal is None and self._rule is not None:
            weight = self._rule.weight(staleness, given)
            refusal = None if weight > 0.0 else Refusal.RULE
        if refusal is not None:
            self.log.refuse(refusal)
            return PushResult(False, staleness, refusal)
        self._step(given, weight, staleness)
        self._version = self._version._replace(number=self._version.number + 1)
        self.log.apply(staleness)
        if self.batches is not None and lease is not None:
            self.batches.close(lease)
        if self._rule is not None:
            self._rule.applied(self.buffers.parameters)
        return PushResult(True, staleness)

    def _refusal(
        self, given: Sequence[Tensor], version: Version, lease: int | None
    ) -> Refusal | None:
        """Why a push is to be refused, what costs least looked at first."""
        if version.run != self._version.run or version.number < self._oldest:
            return Refusal.OTHER_RUN
        if version.number > self._version.number:
            return Refusal.FUTURE
        if self._version.number - version.number > self._max_staleness:
            return Refusal.STALE
        if not self._may_answer(lease):
            return Refusal.LEASE
        if not self.buffers.fit(given):
            return Refusal.FORM
        if not all_finite(given):
            return Refusal.NONFINITE
        return None

    def _may_answer(self, lease: int | None) -> bool:
        """Whether the lease is open; without batches there is none to name."""
        if self.batches is None or lease is None:
            return self.batches is None and lease is None
        return self.batches.is_open(lease)

    def _step(self, given: Sequence[Tensor], weight: float, staleness: int) -> None:
        scales = self._scales_gradient and weight != 1.0
        applied = self.gradients
        if self.buffers.own(given) and not (scales and given.read_only):
            applied = given
        self.buffers.attach(applied)
        for mine, theirs in zip(applied, given):
            if mine.data_ptr() != theirs.data_ptr():
                mine.copy_(theirs)
        if scales:
            for gradient in applied:
                gradient.mul_(weight)
            weight = 1.0
        with nullcontext() if weight == 1.0 else scaled_lr(self.optimizer, weight):
            if isinstance(self.optimizer, YellowFin):
                self.optimizer.step(staleness=staleness)
            else:
                self.optimizer.step()

    # ---- checkpoint

    def state_dict(self) -> dict[str, Any]:
        """Parameters, optimizer, version, log, batches and rule, with references to live tensors.

        Buffers of the model are not in it.
        """
        return {
            "version": self._version.number,
            "parameters": list(self.buffers.parameters),
            "optimizer": self.optimizer.state_dict(),
            "log": self.log.state_dict(),
            "batches": None if self.batches is None else self.batches.state_dict(),
            "staleness_rule": None if self._rule is None else self._rule.state_dict(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], *, oldest: int | None = None) -> None:
        """Continues where state_dict() was taken, as a new run.

        Workers must pull again: a push with a version of the run before is refused. Batches that
        were out are lent again; those that were answered are not.

        Args:
            state_dict: what it returned.
            oldest: number of the oldest version that may still be pushed, for an engine that has
                saved the gradients on their way. None for the one that is loaded.

        Raises:
            ValueError, RuntimeError: the state of another model, of other data, of another
                optimizer, or an entry is missing. Nothing has changed then.
        """
        check(state_dict, self.buffers, self.batches, self._rule)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.buffers.copy_from(state_dict["parameters"])
        self.log.load_state_dict(state_dict["log"])
        if self.batches is not None:
            self.batches.load_state_dict(state_dict["batches"])
        if self._rule is not None:
            self._rule.begin(self.buffers.parameters)
            self._rule.load_state_dict(state_dict["staleness_rule"])
        self._begin_run(state_dict["version"], oldest)

    def _begin_run(self, number: int, oldest: int | None = None) -> None:
        self._oldest = number if oldest is None else oldest
        self._version = Version(secrets.randbits(63), number)


def _require_same(params: Sequence[Tensor], optimizer: Optimizer) -> None:
    """Raises ValueError unless the optimizer has exactly the model's parameters."""
    model = {id(param) for param in params if param.requires_grad}
    listed = [param for group in optimizer.param_groups for param in group["params"]]
    optimized = {id(param) for param in listed if param.requires_grad}
    if model != optimized:
        raise ValueError(
            f"Invalid optimizer: it lacks {len(model - optimized)} of the model's parameters and "
            f"has {len(optimized - model)} others; construct it over all of model.parameters()"
        )
