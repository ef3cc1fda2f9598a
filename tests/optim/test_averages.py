"""Averages of the weights: the formula, beside an unchanged training, and their use."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.cases import Site, Spec, assert_same_bits, make_parameter, normal, specs
from torch import nn

import yfkernels
from yfkernels import HD, LAMB, MARTHE, QHM, QHAdam, WeightAverage, YellowFin

Build = Callable[..., Any]
Present = Callable[[int], bool]
BUILDS: dict[str, Build] = {
    "YellowFin": YellowFin,
    "YellowFin-published": partial(YellowFin, robust=False),
    "LAMB": partial(LAMB, lr=0.01, skip_nonfinite=True),
    "QHM": partial(QHM, lr=0.1, skip_nonfinite=True),
    "QHAdam": partial(QHAdam, lr=0.01),
}
SHAPES = specs((0,), (), (3,), (31, 33), (1025,))
LARGE = specs((65537,), (70000,))
LAYOUTS = (
    Spec((5, 7), layout="transposed"),
    Spec((2, 3, 4, 5), layout="channels_last"),
    Spec((1023,), layout="offset"),
    Spec((6, 3), layout="strided"),
)
AVERAGES = {
    "default": WeightAverage(),
    "of all steps": WeightAverage(power=0, every=1),
    "odd": WeightAverage(power=2.5, every=3),
}
each_build = pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)


def expected(weights: Sequence[NDArray[np.float64]], average: WeightAverage) -> Any:
    """The average after these steps, by its definition."""
    found = weights[0]
    for step, x in enumerate(weights, 1):
        if step <= average.every or step % average.every == 0:
            share = average.every * (average.power + 1.0) / (step + average.power)
            found = x if share >= 1.0 else found + share * (x - found)
    return found


def everywhere(index: int) -> bool:
    """Every parameter has a gradient."""
    return True


class Training:
    """Parameters whose gradients are random, and their values after every step that counted."""

    def __init__(
        self, build: Build, site: Site, rng: np.random.Generator, *of: Spec, **options: Any
    ) -> None:
        self.rng, self.site = rng, site
        self.params = [make_parameter(spec, rng, site.device)[0] for spec in of]
        self.optimizer = build(self.params, backend=site.backend, **options)
        self.weights: list[list[Any]] = [[] for _ in self.params]

    def step(self, present: Present = everywhere, factor: float = 1.0) -> None:
        for index, p in enumerate(self.params):
            p.grad = None
            if present(index):
                p.grad = torch.empty_like(p).copy_(normal(self.rng, p) * factor)
        self.optimizer.step()

    def record(self, present: Present = everywhere) -> None:
        for index, p in enumerate(self.params):
            if present(index):
                newest = self.optimizer.state[p].get("master", p)
                self.weights[index].append(newest.detach().double().cpu().numpy().copy())

    def run(self, steps: int, present: Present = everywhere) -> None:
        for _ in range(steps):
            self.step(present)
            self.record(present)

    def averages(self) -> list[Any]:
        return [self.optimizer.state[p]["param_avg"] for p in self.params]

    def compare(self, average: WeightAverage, tolerance: float) -> None:
        for found, weights in zip(self.averages(), self.weights, strict=True):
            known = expected(weights, average)
            scale = max(1.0, *(float(np.abs(w).max(initial=0.0)) for w in weights))
            error = np.abs(found.double().cpu().numpy() - known).max(initial=0.0)
            assert error <= tolerance * scale, (error, scale)


# ---- the average


@pytest.mark.parametrize("average", AVERAGES.values(), ids=AVERAGES)
@each_build
def test_follows_its_definition(
    build: Build, average: WeightAverage, site: Site, rng: np.random.Generator
) -> None:
    steps = 20 if site.interpreted else 150  # beyond s (p + 1) the default averages
    training = Training(build, site, rng, *SHAPES, average=average)
    training.run(steps)
    training.compare(average, 2e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rounds", [False, True], ids=["master", "rounded"])
def test_in_every_dtype(
    dtype: torch.dtype, rounds: bool, site: Site, rng: np.random.Generator
) -> None:
    """Of half-precision parameters it is the master's average, and float32 without a master."""
    average = WeightAverage(power=1.0, every=2)
    of = [Spec(spec.shape, dtype) for spec in SHAPES]
    training = Training(QHM, site, rng, *of, lr=0.1, average=average, stochastic_rounding=rounds)
    training.run(9)
    training.compare(average, 1e-14 if dtype == torch.float64 else 2e-6)
    kept = torch.float64 if dtype == torch.float64 else torch.float32
    assert {each.dtype for each in training.averages()} == {kept}


def test_in_every_layout(site: Site, rng: np.random.Generator) -> None:
    average = WeightAverage(power=1.0, every=2)
    training = Training(QHM, site, rng, *LAYOUTS, lr=0.1, average=average)
    training.run(9)
    training.compare(average, 2e-6)


def test_of_complex_parameters(site: Site, rng: np.random.Generator) -> None:
    average = WeightAverage(power=1.0, every=2)
    p = make_parameter(Spec((4, 3), torch.complex64), rng, site.device)[0]
    optimizer = QHM([p], lr=0.1, average=average, backend=site.backend)
    weights = []
    for _ in range(9):
        p.grad = torch.empty_like(p).copy_(normal(rng, p))
        optimizer.step()
        weights.append(p.detach().cpu().to(torch.complex128).numpy().copy())
    with optimizer.averaged():
        np.testing.assert_allclose(p.detach().cpu().numpy(), expected(weights, average), atol=1e-6)


@pytest.mark.kernel_free
@pytest.mark.parametrize("threads", [1, 3])
def test_large_tensors_whatever_the_threads(
    threads: int, site: Site, rng: np.random.Generator
) -> None:
    if site.interpreted:
        pytest.skip("large tensors take the interpreter minutes")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        average = WeightAverage(power=1.0, every=2)
        training = Training(QHM, site, rng, *LARGE, lr=0.1, average=average)
        training.run(7)
        training.compare(average, 2e-6)
    finally:
        torch.set_num_threads(before)


@each_build
def test_training_is_the_same_without(build: Build, site: Site, rng: np.random.Generator) -> None:
    seed = int(rng.integers(2**31))
    runs = [
        Training(build, site, np.random.default_rng(seed), *SHAPES, **options)
        for options in ({}, {"average": WeightAverage(every=2)})
    ]
    for run in runs:
        run.run(6)
    assert_same_bits(*([p.detach() for p in run.params] for run in runs))


def test_skipped_steps_and_absent_gradients_do_not_count(
    site: Site, rng: np.random.Generator
) -> None:
    average = WeightAverage(power=1.0, every=2)
    training = Training(
        QHM, site, rng, *specs((5,), (40,)), lr=0.1, skip_nonfinite=True, average=average
    )
    for step in range(12):
        if step % 3 == 1:
            training.step(factor=float("nan"))
        else:
            training.run(1, present=lambda index, step=step: index == 0 or step > 4)
    assert [int(training.optimizer.state[p]["step"]) for p in training.params] == [8, 5]
    training.compare(average, 2e-6)


def test_a_late_group_has_its_own_count(site: Site, rng: np.random.Generator) -> None:
    average = WeightAverage(power=1.0, every=2)
    training = Training(QHM, site, rng, Spec((5,)), lr=0.1, average=average)
    training.run(5)
    late = make_parameter(Spec((7,)), rng, site.device)[0]
    training.optimizer.add_param_group({"params": [late]})
    training.params.append(late)
    training.weights.append([])
    training.run(4)
    training.compare(average, 2e-6)


# ---- in bfloat16


def test_bfloat16_has_the_same_bits_on_every_backend(site: Site, rng: np.random.Generator) -> None:
    """Where x and the average are the same numbers, so is every random bit."""
    seed = int(rng.integers(2**31))
    average = WeightAverage(power=0.0, every=1, dtype=torch.bfloat16)
    # a step of nothing but a sum of powers of two, which no backend rounds
    build = partial(QHM, lr=2.0**-3, nu=0.0, average=average)
    found = []
    for backend in (site.backend, "torch"):
        here = Site(backend, site.device)
        training = Training(build, here, np.random.default_rng(seed), *specs((33,), (1025,)))
        with torch.no_grad():
            for p in training.params:
                p.copy_((p * 64).round() / 64)
        for _ in range(2):  # c is 1, then a half
            for p in training.params:
                p.grad = torch.ones_like(p)
            training.optimizer.step()
        found.append(training.averages())
        assert {each.dtype for each in found[-1]} == {torch.bfloat16}
    assert_same_bits(*found)


def test_bfloat16_keeps_the_mean(site: Site, rng: np.random.Generator) -> None:
    average = WeightAverage(power=0.0, every=1, dtype=torch.bfloat16)
    count = 4096
    start = 1.0 + rng.random() * 2.0**-7  # between two neighbours
    p = nn.Parameter(torch.full((count,), start, device=site.device))
    optimizer = QHM([p], lr=0.0, average=average, backend=site.backend)
    p.grad = torch.ones_like(p)
    optimizer.step()
    found = optimizer.state[p]["param_avg"].double()
    assert found.unique().numel() == 2
    spread = 2.0**-7 / 2.0 / count**0.5  # of a mean of so many, at most
    assert abs(float(found.mean()) - start) <= 5.0 * spread


# ---- saving and loading


def test_an_average_begins_where_it_was_not_saved(site: Site, rng: np.random.Generator) -> None:
    """As the weights are; the optimizer's own count of steps goes on."""
    training = Training(QHAdam, site, rng, *SHAPES, lr=0.01)
    training.run(3)
    saved = copy.deepcopy(training.optimizer.state_dict())
    average = WeightAverage(power=1.0, every=1)
    training.optimizer = QHAdam(training.params, lr=0.01, backend=site.backend, average=average)
    training.optimizer.load_state_dict(saved)
    before = [p.detach().double().cpu().numpy().copy() for p in training.params]
    training.step()
    share = 2.0 / 5.0  # of step 4
    for p, old, found in zip(training.params, before, training.averages()):
        new = p.detach().double().cpu().numpy()
        np.testing.assert_allclose(found.double().cpu().numpy(), old + share * (new - old), 1e-5)
    assert training.optimizer.param_groups[0]["average"] == average.settings()


@pytest.mark.parametrize("other", [None, WeightAverage(power=4.0), WeightAverage(every=2)])
def test_other_settings_are_refused(other: Any, site: Site, rng: np.random.Generator) -> None:
    training = Training(QHM, site, rng, Spec((5,)), lr=0.1, average=WeightAverage())
    training.run(2)
    saved = training.optimizer.state_dict()
    into = QHM(training.params, lr=0.1, average=other, backend=site.backend)
    before = copy.deepcopy(into.state_dict())
    with pytest.raises(ValueError, match=r"Invalid average value: .*WeightAverage\(power=8\.0, ev"):
        into.load_state_dict(saved)
    assert_same_bits(into.state_dict(), before)


@pytest.mark.parametrize("into", [None, WeightAverage(power=1.0, every=3)])
def test_averages_can_be_dropped_on_the_way(
    into: Any, site: Site, rng: np.random.Generator
) -> None:
    """They do not come back with the next loading either."""
    kept = WeightAverage(power=1.0, every=1)
    training = Training(QHM, site, rng, *SHAPES, lr=0.1, average=kept)
    training.run(4)
    saved = copy.deepcopy(training.optimizer.state_dict())
    saved["param_groups"][0]["average"] = None
    training.optimizer = QHM(training.params, lr=0.1, average=into, backend=site.backend)
    training.optimizer.load_state_dict(saved)
    names = {name for state in training.optimizer.state.values() for name in state}
    assert names == {"momentum_buffer"}
    training.weights = [[] for _ in training.params]
    training.run(7)
    if into is not None:
        training.compare(into, 2e-6)


def test_the_refusal_says_what_to_construct(site: Site, rng: np.random.Generator) -> None:
    average = WeightAverage(power=2.5, every=3, dtype=torch.bfloat16)
    training = Training(QHM, site, rng, Spec((5,)), lr=0.1, average=average)
    training.run(1)
    with pytest.raises(ValueError, match="construct the optimizer with") as refused:
        QHM(training.params, lr=0.1).load_state_dict(training.optimizer.state_dict())
    found = re.search(r"average=(yfkernels\.WeightAverage\(.*?\))", str(refused.value))
    assert found is not None
    assert eval(found[1], {"yfkernels": yfkernels, "torch": torch}) == average


def test_a_late_average_of_half_precision_begins_at_the_master(
    site: Site, rng: np.random.Generator
) -> None:
    of = Spec((40,), torch.bfloat16)
    training = Training(QHAdam, site, rng, of, lr=0.01)
    training.run(4)
    saved = copy.deepcopy(training.optimizer.state_dict())
    average = WeightAverage(power=1.0, every=3)  # step 5 is none that counts
    training.optimizer = QHAdam(training.params, lr=0.0, average=average, backend=site.backend)
    training.optimizer.load_state_dict(saved)
    training.optimizer.param_groups[0]["lr"] = 0.0
    (p,) = training.params
    before = training.optimizer.state[p]["master"].clone()
    training.step()
    assert_same_bits(training.averages(), [before])


def test_copies_and_pickles_keep_averages(site: Site, rng: np.random.Generator) -> None:
    training = Training(QHM, site, rng, Spec((40,)), lr=0.1, average=WeightAverage(every=2))
    training.run(5)
    for other in (
        copy.deepcopy(training.optimizer),
        pickle.loads(pickle.dumps(training.optimizer)),
    ):
        (p,) = other.param_groups[0]["params"]
        assert_same_bits([other.state[p]["param_avg"]], training.averages())
        with other.averaged():
            assert_same_bits([p.detach()], training.averages())


# ---- use


class Net(nn.Module):
    """A weight that two layers share, and normalised batches."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.norm(self.first(x)))


Trained = tuple[Net, Any, list[torch.Tensor]]


@pytest.fixture
def trained(rng: np.random.Generator) -> Trained:
    torch.manual_seed(int(rng.integers(2**31)))
    model = Net()
    optimizer = QHM(model.parameters(), lr=0.1, average=WeightAverage(power=1.0, every=2))
    batches = [torch.randn(8, 4) for _ in range(9)]
    for x in batches:
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    return model, optimizer, batches


def averages_of(model: nn.Module, optimizer: Any) -> list[torch.Tensor]:
    return [optimizer.state[p]["param_avg"].to(p.dtype).clone() for p in model.parameters()]


def weights_of(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def test_averages_are_put_in_place_and_taken_out(trained: Trained) -> None:
    model, optimizer, _ = trained
    before, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    averages = averages_of(model, optimizer)
    assert not torch.equal(averages[0], weights_of(model)[0])
    with optimizer.averaged():
        assert_same_bits(weights_of(model), averages)
        assert model.first.weight is model.second.weight
    assert_same_bits(model.state_dict(), before)
    with pytest.raises(KeyError), optimizer.averaged():
        raise KeyError
    assert_same_bits(model.state_dict(), before)
    assert_same_bits(optimizer.state_dict(), state)


def test_steps_and_averages_inside_are_refused(trained: Trained) -> None:
    model, optimizer, _ = trained
    before = weights_of(model)
    with optimizer.averaged():
        averages = weights_of(model)
        with pytest.raises(RuntimeError, match=r"QHM\.step\(\) inside `with averaged\(\):`"):
            optimizer.step()
        with pytest.raises(RuntimeError, match=r"averaged\(\) inside averaged\(\)"):
            optimizer.averaged().__enter__()
        with pytest.raises(RuntimeError, match=r"use_average\(\) inside averaged\(\)"):
            optimizer.use_average()
        assert_same_bits(weights_of(model), averages)
    assert_same_bits(weights_of(model), before)
    optimizer.step()  # again


def test_statistics_of_batches_are_taken_anew(trained: Trained) -> None:
    model, optimizer, batches = trained
    before = copy.deepcopy(model.state_dict())
    with optimizer.averaged(model, batches):
        inputs = torch.stack([model.first(x) for x in batches])
        torch.testing.assert_close(model.norm.running_mean, inputs.mean(dim=(0, 1)))
        assert model.training
    assert_same_bits(model.state_dict(), before)
    optimizer.use_average(model, batches)
    torch.testing.assert_close(model.norm.running_mean, inputs.mean(dim=(0, 1)))


def test_averages_for_good(trained: Trained) -> None:
    model, optimizer, _ = trained
    averages = averages_of(model, optimizer)
    optimizer.use_average()
    assert_same_bits(weights_of(model), averages)


def test_averages_for_good_in_half_precision(site: Site, rng: np.random.Generator) -> None:
    of = Spec((40,), torch.bfloat16)
    training = Training(QHM, site, rng, of, lr=0.1, average=WeightAverage(power=1.0, every=1))
    training.run(6)
    (average,), (p,) = training.averages(), training.params
    training.optimizer.use_average()
    assert_same_bits([training.optimizer.state[p]["master"]], [average])
    assert_same_bits([p.detach()], [average.to(p.dtype)])


@pytest.mark.parametrize("compiled", [False, True])
def test_state_dict_of_the_averages(trained: Trained, compiled: bool) -> None:
    model, optimizer, _ = trained
    whole = torch.compile(model, backend="eager") if compiled else model
    before = copy.deepcopy(whole.state_dict())
    found = optimizer.averaged_state_dict(whole)
    assert_same_bits(whole.state_dict(), before)
    assert list(found) == list(before)
    with optimizer.averaged():
        assert_same_bits(found, whole.state_dict())
    prefix = "_orig_mod." if compiled else ""
    assert found[f"{prefix}first.weight"] is found[f"{prefix}second.weight"]


def test_weights_come_back_into_other_memory(trained: Trained) -> None:
    """As after model.cpu() and model.cuda(), which a program calls to save."""
    model, optimizer, _ = trained
    before = copy.deepcopy(model.state_dict())
    with optimizer.averaged():
        model.double()
        model.float()
        for p in model.parameters():
            p.data = p.data.clone()
    assert_same_bits(model.state_dict(), before)


@pytest.mark.parametrize("fails", [False, True])
def test_modes_buffers_and_random_states_are_as_before(trained: Trained, fails: bool) -> None:
    model, optimizer, batches = trained
    model.add_module("drop", nn.Dropout())
    model.norm.eval()
    model.register_buffer("other", torch.zeros(3))
    model.norm.register_forward_hook(lambda *_: (model.other.add_(1.0), None)[1])
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    if fails:
        with (
            pytest.raises(RuntimeError, match="shape"),
            optimizer.averaged(model, [torch.ones(2, 9)]),
        ):
            pass
    else:
        with optimizer.averaged(model, batches):
            assert [m.training for m in model.children()] == [True, False, True, True]
            assert not torch.equal(model.norm.running_mean, before["norm.running_mean"])
    assert [m.training for m in model.children()] == [True, False, True, True]
    assert model.norm.momentum == 0.1
    assert_same_bits(model.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), random)


def test_a_failing_loader_leaves_the_weights(trained: Trained) -> None:
    model, optimizer, _ = trained
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="shape"):
        optimizer.use_average(model, [torch.ones(2, 9)])
    with pytest.raises(ValueError, match="Invalid loader value: a list_iterator that gave no ba"):
        optimizer.use_average(model, iter([]))
    assert_same_bits(model.state_dict(), before)


def test_the_state_dict_is_a_copy(trained: Trained) -> None:
    model, optimizer, _ = trained
    model._register_state_dict_hook(  # as a wrapper that gathers or renames
        lambda _, state, *__: {name: value + 0 for name, value in state.items()}
    )
    found = optimizer.averaged_state_dict(model)
    with optimizer.averaged():
        averages = copy.deepcopy(model.state_dict())
    assert_same_bits(found, averages)
    model.norm.running_mean.add_(1.0)
    assert_same_bits(found, averages)


def test_complex_averages_in_bfloat16(site: Site, rng: np.random.Generator) -> None:
    p = make_parameter(Spec((4, 3), torch.complex64), rng, site.device)[0]
    average = WeightAverage(dtype=torch.bfloat16)
    optimizer = QHM([p], lr=0.1, average=average, backend=site.backend)
    p.grad = torch.ones_like(p)
    optimizer.step()
    before = p.detach().clone()
    with optimizer.averaged():
        torch.testing.assert_close(p.detach(), before, rtol=2.0**-7, atol=0.0)
    assert_same_bits([p.detach()], [before])


def test_wrapped_optimizers(trained: Trained) -> None:
    model, optimizer, batches = trained
    averages = averages_of(model, optimizer)
    descent = HD(optimizer)
    with descent.averaged():
        assert_same_bits(weights_of(model), averages)
        before = copy.deepcopy(descent.state_dict())
        with pytest.raises(RuntimeError, match=r"inside `with averaged\(\):`"):
            descent.step()
        assert_same_bits(descent.state_dict(), before)
    tuner = MARTHE(optimizer)
    with optimizer.averaged(), pytest.raises(RuntimeError, match=r"inside `with averaged\(\):`"):
        tuner.step(lambda: model(batches[0]).square().sum())
    with pytest.raises(AttributeError, match="averaged"):
        HD(torch.optim.SGD(model.parameters(), lr=0.1)).averaged()


# ---- bad input


def bad() -> Iterator[Any]:
    for arguments, error, words in (
        ({"power": -1.0}, ValueError, "Invalid power value: -1.0; it must be finite and >= 0"),
        ({"power": float("inf")}, ValueError, "Invalid power value: inf"),
        ({"power": True}, ValueError, "Invalid power value: True"),
        ({"power": "8"}, TypeError, "Invalid power type: str"),
        ({"every": 0}, ValueError, "Invalid every value: 0; it must be at least 1"),
        ({"every": 2.0}, TypeError, r"Invalid every type: float \(2.0\); give an int"),
        ({"dtype": torch.float16}, ValueError, "Invalid dtype value: torch.float16; it must be "),
    ):
        yield pytest.param(arguments, error, words, id=str(arguments))


@pytest.mark.parametrize(("arguments", "error", "words"), list(bad()))
def test_settings_out_of_range(arguments: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        WeightAverage(**arguments)


@pytest.mark.parametrize("use", ["averaged", "use_average", "averaged_state_dict"])
def test_there_must_be_averages(use: str) -> None:
    model = nn.Linear(2, 2)

    def call(optimizer: Any) -> None:
        if use == "averaged":
            optimizer.averaged().__enter__()
        else:
            getattr(optimizer, use)(*([model] if use == "averaged_state_dict" else []))

    with pytest.raises(RuntimeError, match="keeps no averages: construct it with average=yfkern"):
        call(QHM(model.parameters()))
    with pytest.raises(RuntimeError, match="has no averages yet: take a step first"):
        call(QHM(model.parameters(), average=WeightAverage()))


def test_what_else_does_not_fit(trained: Trained) -> None:
    model, optimizer, batches = trained
    with pytest.raises(TypeError, match=r"Invalid average type: bool \(True\); give None or yfk"):
        QHM(model.parameters(), average=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Invalid loader value: None; a model is given: give"):
        optimizer.use_average(model)
    with pytest.raises(ValueError, match="Invalid model value: None; a loader is given: give"):
        optimizer.use_average(None, batches)
    with pytest.raises(TypeError, match="Invalid model type: list; give a torch"):
        optimizer.averaged(batches, model).__enter__()
    with pytest.raises(ValueError, match="Linear has no parameter of this optimizer"):
        optimizer.averaged_state_dict(nn.Linear(2, 2))
    optimizer.param_groups[0]["average"] = WeightAverage(power=3.0).settings()
    with pytest.raises(ValueError, match=r"Invalid average value: .* as in the whole optimizer"):
        optimizer.step()
    optimizer.param_groups[0]["average"] = optimizer.defaults["average"]
    with torch.no_grad():
        model.first.bias.data = torch.zeros(9)
    with pytest.raises(RuntimeError, match=r"shape \(9,\) has an average of shape \(4,\): it"):
        optimizer.use_average()
    other = WeightAverage(power=3.0).settings()
    with pytest.raises(ValueError, match=r"average=.* is global in QHM"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))], "average": other})
