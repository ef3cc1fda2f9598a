"""Small losses of small models, and their products from torch.func, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Loss = Callable[[], Tensor]
EXACT = ("reverse", "jvp")
DIFFERENCES = ("central", "forward")
# Of the largest element of all products. Rounding and truncation of a difference leave u^(2/3) and
# u^(1/2), 4e-11 and 1.5e-8 in float64, times what the loss and its third derivative make of them.
TOLERANCES = {"reverse": 1e-9, "jvp": 1e-9, "central": 1e-7, "forward": 1e-4}


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))


def conv_net() -> nn.Module:
    """The image has sides of 6."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 6, 6)),
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 3, 3, padding=1),
        nn.LeakyReLU(0.1),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(27, 3),
    )


class Tied(nn.Module):
    """One weight in two modules, and a parameter that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Any:
        return self.second(torch.sigmoid(self.first(x)))[:, :3]


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cells, self.last = kind(2, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Any:
        return self.last(self.cells(x.view(-1, 3, 2))[0][:, -1])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
        self.first, self.last = nn.Linear(2, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Any:
        return self.last(self.layer(self.first(x.view(-1, 3, 2))).mean(1))


class Exponential(nn.Module):
    def forward(self, original: Tensor) -> Tensor:
        return original.exp()


def parametrized() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
    nn.utils.parametrize.register_parametrization(model[0], "weight", Exponential())
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "mlp": (mlp, 6),
    "conv net": (conv_net, 36),
    "tied": (Tied, 6),
    "lstm": (lambda: Recurrent(nn.LSTM), 6),
    "gru": (lambda: Recurrent(nn.GRU), 6),
    "attention": (Attention, 6),
    "parametrized": (parametrized, 6),
}


class Problem:
    """A model with its parameters, vectors, and a closure of a minibatch's loss."""

    def __init__(self, name: str, dtype: torch.dtype = torch.float64) -> None:
        build, inputs = MODELS[name]
        self.model = build().to(dtype)
        self.params = list(self.model.parameters())
        self.modules = list(self.model.modules())
        self.vectors = [torch.randn_like(p) for p in self.params]
        self.x = torch.randn(12, inputs, dtype=dtype)
        self.y = torch.randint(3, (12,))

    def closure(self) -> Tensor:
        return F.cross_entropy(self.model(self.x), self.y)


def expected(problem: Problem) -> tuple[list[Tensor], list[Tensor]]:
    """The gradient and the products by torch.func; the state of the model and torch's random state
    are left as they were."""
    names = [name for name, _ in problem.model.named_parameters()]
    buffers = {name: b.clone() for name, b in problem.model.named_buffers()}
    state = torch.get_rng_state()

    def loss(params: tuple[Tensor, ...]) -> Tensor:
        torch.set_rng_state(state)
        everything = {**dict(zip(names, params)), **{n: b.clone() for n, b in buffers.items()}}
        outputs = torch.func.functional_call(problem.model, everything, (problem.x,))
        return F.cross_entropy(outputs, problem.y)

    w = tuple(p.detach() for p in problem.params)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        grads, products = torch.func.jvp(torch.func.grad(loss), (w,), (tuple(problem.vectors),))
    torch.set_rng_state(state)
    return list(grads), list(products)


def same(actual: list[Tensor | None], wanted: list[Tensor], tolerance: float) -> None:
    """Fails where elements differ by more than `tolerance` times the largest of all."""
    largest = max(float(t.abs().max()) for t in wanted)
    for number, (a, b) in enumerate(zip(actual, wanted)):
        found = torch.zeros_like(b) if a is None else a
        error = float((found - b).abs().max()) / largest
        assert error <= tolerance, f"tensor {number}: {error:.1e}"


class Surroundings:
    """What one evaluation changes, and what none may."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.taken = self._now()

    def _now(self) -> list[Tensor]:
        model = self.problem.model
        return [torch.get_rng_state(), *(t.detach().clone() for t in model.state_dict().values())]

    def unchanged(self) -> bool:
        return all(torch.equal(a, b) for a, b in zip(self.taken, self._now()))

    def put_back(self) -> None:
        torch.set_rng_state(self.taken[0])
        with torch.no_grad():
            for t, value in zip(self.problem.model.state_dict().values(), self.taken[1:]):
                t.copy_(value)
