"""Pushes: as a step of the optimizer to the bit, without a copy, and refused without a trace."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from support.cases import assert_same_bits
from support.resume import BUILDS, OURS, Build, make_model, own_copy, snapshot, train
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from yfkernels.asynchronous import (
    Batches,
    DropOlder,
    FlatBuffers,
    PushResult,
    Refusal,
    Server,
    StalenessRule,
    Version,
)

EVERY_BUILD = {**BUILDS, "Adam": torch.optim.Adam}


def sgd_server(model: nn.Module | None = None, **options: Any) -> Server:
    model = nn.Linear(3, 2) if model is None else model
    return Server(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), **options)


def ones(server: Server) -> list[Tensor]:
    return [torch.ones_like(flat) for flat in server.gradients]


@pytest.mark.parametrize("name", EVERY_BUILD)
def test_a_push_is_a_step(name: str) -> None:
    """The server's model beside one trained plainly; gradients arrive from a worker's."""
    plain, model, worker = make_model(), make_model(), make_model()
    optimizer = EVERY_BUILD[name](plain.parameters())
    server = Server(model, EVERY_BUILD[name](model.parameters()))
    worker_server = sgd_server(worker)  # for its buffers
    for step in range(6):
        train(plain, optimizer, range(step, step + 1))
        version, parameters = server.pull()
        buffers = worker_server.buffers
        buffers.copy_from(parameters)
        buffers.zero_grad()
        train(worker, _Keeps(), range(step, step + 1))
        assert server.push(buffers.gradients, version=version) == PushResult(True, 0)
    assert_same_bits(snapshot(model, server.optimizer), snapshot(plain, optimizer))


@pytest.mark.parametrize("name", ["AdamW", "YellowFin"])
def test_a_model_of_two_dtypes(name: str) -> None:
    """Its flat tensors are two, and so are a gradient's."""

    def two_layers() -> list[nn.Parameter]:
        torch.manual_seed(1)
        layers = nn.Linear(3, 2), nn.Linear(2, 5, dtype=torch.bfloat16)
        return [param for layer in layers for param in layer.parameters()]

    plain, params = two_layers(), two_layers()
    optimizer, server = BUILDS[name](plain), Server(params, BUILDS[name](params))
    for _ in range(3):
        for param, mine in zip(plain, server.buffers.params):
            param.grad = torch.randn_like(param)
            assert mine.grad is not None
            mine.grad.copy_(param.grad)
        optimizer.step()
        gradient = [flat.clone() for flat in server.gradients]
        assert [flat.dtype for flat in gradient] == [torch.float32, torch.bfloat16]
        assert server.push(gradient, version=server.version).applied
    for param, mine in zip(plain, params):
        assert mine.equal(param)


class _Keeps:
    """An optimizer that leaves parameters and gradients as they are."""

    def zero_grad(self) -> None: ...

    def step(self) -> None: ...


@pytest.mark.parametrize("name", EVERY_BUILD)
def test_parameters_stay_where_they_are(name: str) -> None:
    model = make_model()
    server = Server(model, EVERY_BUILD[name](model.parameters()))

    def addresses() -> list[int]:
        grads = [p.grad for p in model.parameters()]
        return [t.data_ptr() for t in (*model.parameters(), *grads, *server.pull().parameters)]

    before = addresses()
    for _ in range(3):
        nn.Module.zero_grad(model)  # sets gradients to None
        server.push(ones(server), version=server.version)
        assert addresses() == before


class Allocations(TorchDispatchMode):
    """Counts the elements of the tensors that torch's operations make, and of those they copy."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0
        self.copied = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        before = {t.untyped_storage().data_ptr() for t in _tensors(args)}
        made = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.copy_.default:
            self.copied += made.numel()
        for tensor in _tensors([made]):
            if tensor.untyped_storage().data_ptr() not in before:
                self.elements += tensor.numel()
        return made


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    return (
        [t for value in values for t in _tensors(value)] if isinstance(values, list | tuple) else []
    )


@pytest.mark.parametrize("place", ["elsewhere", "own", "further"])
@pytest.mark.parametrize("name", OURS)
def test_a_push_makes_no_copy_of_the_model(name: str, place: str) -> None:
    model = nn.Linear(100, 50)
    server = Server(model, EVERY_BUILD[name](model.parameters()))
    further = server.buffers.more_gradients()
    gradient = {"elsewhere": ones(server), "own": server.gradients, "further": further}[place]
    for flat in gradient:
        flat.fill_(0.5)
    server.push(gradient, version=server.version)  # makes the state
    with Allocations() as made:
        assert server.push(gradient, version=server.version).applied
    assert made.elements < 100
    assert made.copied == (len(gradient[0]) if place == "elsewhere" else 0)


def test_gradients_from_further_places() -> None:
    """Each is applied where it is, a plain one without a change to them, and another model's."""
    plain = [nn.Parameter(torch.zeros(3))]
    server = Server(plain, torch.optim.SGD(plain, lr=1.0), staleness_rule=Halves())
    one, two = server.buffers.more_gradients(), server.buffers.more_gradients()
    others = FlatBuffers([nn.Parameter(torch.zeros(3))]).gradients
    for push, gradient in enumerate([one, two, ones(server), others, one], start=1):
        for flat in gradient:
            flat.fill_(1.0)
        assert server.push(gradient, version=server.version).applied
        assert plain[0].tolist() == [-0.5 * push] * 3
    assert [one[0][0], two[0][0], others[0][0]] == [0.5, 0.5, 1.0]  # weighed where they are


class Halves(StalenessRule):
    def weight(self, staleness: int, gradient: Sequence[Tensor]) -> float:
        return 0.5


def test_versions_and_the_log() -> None:
    server = sgd_server(log_length=3)
    pulled = [server.pull().version]
    for staleness in (0, 1, 0, 2, 2):
        version = pulled[-1 - staleness]
        assert server.push(ones(server), version=version) == PushResult(True, staleness)
        pulled.append(server.version)
    assert server.version.number == 5
    assert server.log.staleness == {0: 2, 1: 1, 2: 2}
    assert list(server.log.recent) == [0, 2, 2]
    assert (server.log.applied, server.log.mean_staleness) == (5, 1.0)
    assert not server.log.refusals


# ---- refusals


def broken(server: Server, value: float) -> list[Tensor]:
    gradient = ones(server)
    gradient[-1][1] = value
    return gradient


def moved(version: Version, by: int) -> Version:
    return version._replace(number=version.number + by)


# what a push has otherwise, and why it is refused
Change = Callable[[Server, dict[str, Any]], dict[str, Any]]
BAD: dict[str, tuple[Change, Refusal]] = {
    "of another run": (
        lambda s, good: {"version": good["version"]._replace(run=1)},
        Refusal.OTHER_RUN,
    ),
    "from before the run": (lambda s, good: {"version": moved(s.version, -9)}, Refusal.OTHER_RUN),
    "from the future": (lambda s, good: {"version": moved(s.version, 1)}, Refusal.FUTURE),
    "too old": (lambda s, good: {"version": moved(s.version, -4)}, Refusal.STALE),
    "refused by the rule": (lambda s, good: {"version": moved(s.version, -3)}, Refusal.RULE),
    "without a lease": (lambda s, good: {"lease": None}, Refusal.LEASE),
    "with a lease answered before": (lambda s, good: {"lease": 0}, Refusal.LEASE),
    "with a lease never lent": (lambda s, good: {"lease": 99}, Refusal.LEASE),
    "NaN": (lambda s, good: {"gradient": broken(s, math.nan)}, Refusal.NONFINITE),
    "inf": (lambda s, good: {"gradient": broken(s, math.inf)}, Refusal.NONFINITE),
    "-inf": (lambda s, good: {"gradient": broken(s, -math.inf)}, Refusal.NONFINITE),
    "too few tensors": (lambda s, good: {"gradient": []}, Refusal.FORM),
    "too long": (lambda s, good: {"gradient": [torch.ones(999)]}, Refusal.FORM),
    "of another shape": (lambda s, good: {"gradient": [ones(s)[0][None]]}, Refusal.FORM),
    "of another dtype": (lambda s, good: {"gradient": [ones(s)[0].double()]}, Refusal.FORM),
}


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("bad", BAD)
def test_a_refusal_changes_nothing_but_its_count(bad: str, name: str) -> None:
    model = make_model()
    server = Server(
        model,
        BUILDS[name](model.parameters()),
        batches=Batches(100, 4, clock=lambda: 0.0),
        max_staleness=3,
        staleness_rule=DropOlder(2),
    )
    assert server.batches is not None
    for _ in range(5):
        lease = server.batches.lend()
        assert lease is not None
        assert server.push(ones(server), version=server.version, lease=lease.number).applied
    lease = server.batches.lend()
    assert lease is not None
    good = {"gradient": ones(server), "version": moved(server.version, -2), "lease": lease.number}
    change, refusal = BAD[bad]

    before = own_copy(server.state_dict())
    result = server.push(**{**good, **change(server, good)})
    after = own_copy(server.state_dict())
    assert (result.applied, result.refusal) == (False, refusal)
    assert after["log"].pop("refusals") == {refusal.name: 1}
    del before["log"]["refusals"]
    assert_same_bits(after, before)
    assert server.push(**good) == PushResult(True, 2)


def test_a_lease_without_batches_is_refused() -> None:
    server = sgd_server()
    result = server.push(ones(server), version=server.version, lease=0)
    assert result.refusal is Refusal.LEASE


def test_an_exception_in_the_step_leaves_the_counters_right() -> None:
    server = sgd_server(batches=Batches(10, 5))
    assert server.batches is not None
    lease = server.batches.lend()
    assert lease is not None

    def fail(*arguments: Any) -> None:
        raise MemoryError("of the step")

    hook = server.optimizer.register_step_pre_hook(fail)
    version, before = server.version, own_copy(server.state_dict())
    with pytest.raises(MemoryError, match="of the step"):
        server.push(ones(server), version=version, lease=lease.number)
    assert server.version == version
    assert_same_bits(own_copy(server.state_dict()), before)
    hook.remove()
    assert server.push(ones(server), version=version, lease=lease.number) == PushResult(True, 0)


# ---- bad input


def test_the_gradient_must_be_tensors() -> None:
    server = sgd_server()
    with pytest.raises(TypeError, match="Invalid gradient type: float; give flat tensors"):
        server.push([1.0], version=server.version)  # type: ignore[list-item]


def other_parameters(build: Build = torch.optim.SGD) -> Server:
    model = nn.Linear(3, 2)
    return Server(model, build([model.weight, nn.Parameter(torch.ones(1))], lr=0.1))


@pytest.mark.parametrize(
    ("construct", "message"),
    [
        (other_parameters, "Invalid optimizer: it lacks 1 .* parameters and has 1 others"),
        (lambda: sgd_server(max_staleness=-1), "Invalid max_staleness value: -1"),
        (lambda: sgd_server(staleness_rule="drop_older"), "a StalenessRule, such as"),
        (lambda: sgd_server(log_length=0), "Invalid recent value: 0"),
    ],
)
def test_bad_input_is_named(construct: Callable[[], Server], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        construct()
