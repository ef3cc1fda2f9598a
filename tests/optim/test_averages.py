"""Averages of the weights: their formula, beside an unchanged training, saved and loaded."""

from __future__ import annotations

import copy
import pickle
import re
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from support.averages import Build, Training, expected
from support.cases import Site, Spec, assert_same_bits, make_parameter, normal, specs
from torch import nn

import yfkernels
from yfkernels import LAMB, QHM, QHAdam, WeightAverage, YellowFin

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


# ---- the average


@pytest.mark.parametrize("average", AVERAGES.values(), ids=AVERAGES)
@each_build
def test_follows_its_definition(
    build: Build, average: WeightAverage, site: Site, rng: np.random.Generator
) -> None:
    # beyond s (p + 1) the default averages; nine are one pass of it
    steps = 9 if site.interpreted else 150
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
        rounding = 2.0**-22 * np.maximum(np.abs(old), np.abs(new))  # of float32; both may cancel
        error = np.abs(found.double().cpu().numpy() - (old + share * (new - old)))
        assert (error <= rounding).all(), error.max()
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
