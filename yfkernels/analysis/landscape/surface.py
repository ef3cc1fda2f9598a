"""The mean loss of a model over a data set, as a function of its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from yfkernels._checks import check_whole, require
from yfkernels._warn import warn
from yfkernels.analysis.landscape.vectors import Vector, kept_in
from yfkernels.curvature import METHODS as HVPS
from yfkernels.curvature import Closure, HessianProduct, Tensors, gradient
from yfkernels.curvature.closures import check_vectors
from yfkernels.curvature.surroundings import Buffers, RandomStates


def check_hvp(hvp: str) -> None:
    """Raises unless this is a method of Hessian-vector products."""
    require(hvp in HVPS, "hvp", hvp, f"one of {', '.join(HVPS)}")


class Evaluations(NamedTuple):
    """How many passes over the data computed a loss, a gradient, a Hessian-vector product."""

    losses: int = 0
    gradients: int = 0
    products: int = 0

    def since(self, earlier: Evaluations) -> Evaluations:
        return Evaluations(*(now - before for now, before in zip(self, earlier)))


class Surface:
    """f(x), the mean loss over all examples, with gradients, Hessian products and displacements.

    A context manager. Inside it, all modules are in eval mode, and every evaluation begins with the
    same random states and buffers: f is a function. Afterwards weights, buffers, modes, random
    states, `requires_grad` and `p.grad` are what they were, bit for bit, also after an exception.

    It holds a copy of the buffers, one of the weights from the first displacement on, and while it
    computes a gradient or a product the sum so far, and what autograd needs for one batch.

    Args:
        model: called with the inputs of a batch.
        loss: called with outputs and targets; returns the mean over the batch.
        loader: gives pairs of inputs and targets, the same examples in each pass, in any order. If
            they are tensors, they are moved to the device of the first parameter. A batch counts by
            `len(targets)`.
        seed: of what the model draws, and the data loader.
        hvp: how products are computed; see `yfkernels.curvature.gradient_and_product`.

    Attributes:
        params: the parameters with requires_grad; in `only()`, one of them.
        names: theirs.
        seed: as given.
        examples: how many the loader gives; 0 before the first pass.
        evaluations: the passes so far.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, or no parameter with requires_grad.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> batches = [(torch.ones(4, 2), torch.zeros(4, 1))]
        >>> with Surface(model, torch.nn.functional.mse_loss, batches) as surface:
        ...     ones = [torch.ones_like(p) for p in surface.params]
        ...     with surface.displaced(ones, scale=0.1):
        ...         value, grads = surface.gradient()
        ...     products = surface.product(ones)
        >>> products[1]  # the loss is (2 w + b)² with w for both weights: 2 (2 + 1)
        tensor([6.])
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Any, Any], Tensor],
        loader: Iterable[Any],
        *,
        seed: int = 0,
        hvp: str = "auto",
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"Invalid model type: {type(model).__name__}; give an nn.Module")
        if not callable(loss):
            raise TypeError(
                f"Invalid loss type: {type(loss).__name__}; give a function of outputs and "
                "targets, such as torch.nn.functional.cross_entropy"
            )
        if not isinstance(loader, Iterable) or isinstance(loader, Iterator):
            raise TypeError(
                f"Invalid loader type: {type(loader).__name__}, which cannot be iterated again and "
                "again; give a DataLoader or a list of (input, target) pairs"
            )
        check_whole("seed", seed, least=0)
        check_hvp(hvp)
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if not named:
            raise ValueError(
                "Invalid model: it has no parameter with requires_grad=True; "
                "call requires_grad_() on those that may be displaced"
            )
        for name, p in named:
            if nn.parameter.is_lazy(p) or not p.is_floating_point():
                kind = "uninitialized" if nn.parameter.is_lazy(p) else f"of {p.dtype}"
                raise TypeError(
                    f"Invalid model: {name} is {kind}; give it real floating-point weights, and "
                    "run lazy modules once before"
                )
        self.names, self.params = [name for name, _ in named], [p for _, p in named]
        self.seed, self.examples, self.evaluations = seed, 0, Evaluations()
        self._model, self._criterion, self._loader = model, loss, loader
        owned = [loss] if isinstance(loss, nn.Module) else []
        self._modules = list(dict.fromkeys(m for top in [model, *owned] for m in top.modules()))
        self._product = HessianProduct(hvp, self._modules)
        self._stack: ExitStack | None = None

    # ---- entering and leaving

    def __enter__(self) -> Surface:
        if self._stack is not None:
            raise RuntimeError("this Surface is in use; make another one")
        with ExitStack() as stack:  # undoes what was done if something fails here
            self._loss: float | None = None
            self._displaced = False
            self._copies: dict[Tensor, Tensor] = {}
            stack.callback(self._put_back_weights)
            self._random = RandomStates([*self._model.parameters(), *self._model.buffers()])
            stack.callback(self._random.put_back)
            self._buffers = Buffers()
            self._buffers.keep(self._modules)
            stack.callback(self._buffers.put_back)
            generator = getattr(self._loader, "generator", None)  # a DataLoader's own
            self._generator = generator if isinstance(generator, torch.Generator) else None
            if self._generator is not None:
                self._order = self._generator.get_state()
                stack.callback(self._generator.set_state, self._order)
            stack.callback(_put_back, [(m, "training", m.training) for m in self._modules])
            kept = [
                (p, name, getattr(p, name))
                for p in self._model.parameters()
                for name in ("requires_grad", "grad")
            ]
            stack.callback(_put_back, kept)
            for p in self._model.parameters():
                p.grad = None  # what a loss that calls backward() would add to
            for module in self._modules:
                module.training = False  # eval() is overridden by some
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._stack is not None
        stack, self._stack = self._stack, None
        stack.close()

    def _put_back_weights(self) -> None:
        for p, copy in self._copies.items():
            p.detach().copy_(copy)
        self._copies = {}

    @contextmanager
    def only(self, name: str) -> Iterator[None]:
        """In it the weights of all other parameters are constants."""
        names, params = self.names, self.params
        index = names.index(name)
        self.names, self.params = [name], [params[index]]
        try:
            yield
        finally:
            self.names, self.params = names, params

    # ---- where the weights are

    @property
    def origin(self) -> Vector:
        """A copy of the weights x, to be read only."""
        if not self._copies and (halves := {p.dtype for p in self.params} & _HALVES):
            warn(
                f"Displaced weights are rounded to {', '.join(map(str, halves))}, which may be "
                "more than the displacement; measure copy.deepcopy(model).float()"
            )
        for p in self.params:
            if p not in self._copies:
                assert not self._displaced
                self._copies[p] = p.detach().clone()
        return [self._copies[p] for p in self.params]

    @contextmanager
    def displaced(self, vectors: Sequence[Tensor], scale: float = 1.0) -> Iterator[None]:
        """In it the weights are x + scale * vectors, whatever they were before; then x again."""
        check_vectors(vectors, self.params)
        origin = self.origin
        try:
            self._displaced = True
            with torch.no_grad():
                for p, x, v in zip(self.params, origin, vectors):
                    torch.add(x, v, alpha=scale, out=p.detach())
            yield
        finally:
            for p, x in zip(self.params, origin):
                p.detach().copy_(x)
            self._displaced = False

    # ---- evaluations

    @property
    def loss(self) -> float:
        """f(x), evaluated when first asked for."""
        if self._loss is None:
            assert not self._displaced
            self._loss = self.value()
        return self._loss

    def value(self, *, finite: bool = True) -> float:
        """The mean loss at the present weights.

        Args:
            finite: raise an error where the loss is not finite; otherwise return it.
        """
        losses, counts = [], []
        with torch.no_grad():
            for count, closure in self._batches():
                losses.append(closure())
                counts.append(count)
        self._count(losses=1)
        return self._mean(losses, counts, finite=finite)

    def gradient(self) -> tuple[float, Vector]:
        """The mean loss and its gradient, in float32 for half parameters."""
        mean, grads = self._summed(lambda closure: gradient(closure, self.params))
        self._count(gradients=1)
        return mean, grads

    def product(self, vectors: Sequence[Tensor]) -> Vector:
        """The Hessian of the mean loss times the vectors, in float32 for half parameters."""

        def of_batch(closure: Closure) -> tuple[Tensor, Tensors]:
            loss, _, products = self._product(closure, self.params, vectors)
            return loss, products

        _, products = self._summed(of_batch)
        self._count(products=1)
        return products

    def _summed(
        self, of_batch: Callable[[Closure], tuple[Tensor, Tensors]]
    ) -> tuple[float, Vector]:
        """The means of a loss and of a vector that are computed batch by batch."""
        total = [
            torch.zeros_like(p, dtype=kept_in(p.dtype), requires_grad=False) for p in self.params
        ]
        losses, counts = [], []
        for count, closure in self._batches():
            loss, vector = of_batch(closure)
            losses.append(loss)
            counts.append(count)
            for mean, part in zip(total, vector):
                if part is not None:  # None: the loss does not reach it
                    mean.add_(part, alpha=count)
            del vector, part  # before the next batch has its own
        loss_mean = self._mean(losses, counts)
        for name, mean in zip(self.names, total):
            if not mean.div_(sum(counts)).sum().isfinite():  # without a vector of flags
                raise ValueError(
                    f"Invalid loss: its derivative with respect to {name} is not finite, "
                    f"{self._place()}"
                )
        return loss_mean, total

    def _place(self) -> str:
        if self._displaced:
            return "at displaced weights; displace them less (eps, rho, sigma)"
        return "at the model's own weights; check the model and the data"

    def _count(self, losses: int = 0, gradients: int = 0, products: int = 0) -> None:
        more = (losses, gradients, products)
        self.evaluations = Evaluations(*(a + b for a, b in zip(self.evaluations, more)))

    def _batches(self) -> Iterator[tuple[int, Closure]]:
        """A pass over the data: how many examples each batch has, and what computes its loss."""
        if self._stack is None:
            raise RuntimeError("a Surface is evaluated inside `with surface:` only")
        self._random.reseed(self.seed)
        self._buffers.put_back()
        if self._generator is not None:
            self._generator.set_state(self._order)
        total = 0
        for batch in self._loader:
            inputs, targets = _pair(batch)
            total += len(targets)
            yield len(targets), partial(self._batch_loss, inputs, targets)
        if not total and not self.examples:
            raise ValueError("Invalid loader: it gives no examples; give batches (input, target)")
        if self.examples and total != self.examples:
            raise ValueError(
                f"Invalid loader: it gave {self.examples} examples in the first pass and {total} "
                "in a later one; give the same ones in every pass, as a DataLoader or a list does"
            )
        self.examples = total

    def _batch_loss(self, inputs: Any, targets: Any) -> Tensor:
        device = self.params[0].device
        inputs, targets = (t.to(device) if isinstance(t, Tensor) else t for t in (inputs, targets))
        loss = self._criterion(self._model(inputs), targets)
        if not isinstance(loss, Tensor):
            raise TypeError(
                f"Invalid loss result: {loss!r} ({type(loss).__name__}); return a tensor, such as "
                "torch.nn.functional.cross_entropy does"
            )
        require(
            loss.numel() == 1, "loss", tuple(loss.shape),
            'a scalar, the mean over the batch: leave reduction="mean"',
        )  # fmt: skip
        return loss

    def _mean(self, losses: list[Tensor], counts: list[int], *, finite: bool = True) -> float:
        values = torch.stack([loss.reshape(()) for loss in losses]).cpu().double()
        weights = torch.tensor(counts, dtype=torch.float64)
        mean = float(values @ weights) / sum(counts)
        bad = (~values.isfinite()).nonzero().flatten().tolist()
        if finite and bad:
            found = values[bad[0]].item()
            raise ValueError(f"Invalid loss: {found} on batch {bad[0]}, {self._place()}")
        return mean


_HALVES = {torch.float16, torch.bfloat16}


def _put_back(kept: list[tuple[Any, str, Any]]) -> None:
    for owner, name, value in kept:
        setattr(owner, name, value)


def _pair(batch: Any) -> tuple[Any, Any]:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise TypeError(
            f"Invalid loader item: a {type(batch).__name__}"
            f"{f' of {len(batch)}' if isinstance(batch, tuple | list) else ''}; "
            "give pairs (input, target)"
        )
    return batch[0], batch[1]
