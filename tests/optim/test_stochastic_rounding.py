"""Stochastic rounding: up or down to a neighbour, right on average, with bits that can be repeated.

What is rounded is known to the last bit: the same optimizer in float32, put back on the rounded
parameters after every step.

Sums of errors are held to Bernstein's bound. It is no approximation: unlike a number of standard
deviations it holds for one rare event in a thousand, too. If X_i are independent with mean 0, at
most 1 in size and of total variance V, then

    P(|X_1 + ... + X_n| >= t) <= 2 exp(-t² / (2 V + 2 t / 3)),

which is 2 exp(-L) at t = L/3 + sqrt(L²/9 + 2 L V). With L = 30 that is 1.9e-13 a sum, and the
tests here look at fewer than 5000 sums: a false alarm in a run has a probability below 1e-9.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.cases import Gradients, Site, assert_same_bits, lay_out, normal
from support.kinds import KINDS, Kind
from torch import Tensor

from yfkernels import QHM

HALF = (torch.bfloat16, torch.float16)
L = 30.0  # of Bernstein's bound
each_half = pytest.mark.parametrize("dtype", HALF, ids=str)


def size(site: Site) -> int:
    return 1500 if site.interpreted else 20_000


def neighbours(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The two values of `dtype` around x (twice the same if x is one), the lower first."""
    nearest = x.to(dtype)
    gap = nearest.double().abs() - x.double().abs()
    # sign and magnitude: bits + 1 is the next value further from zero
    bits = nearest.view(torch.int16) + (gap < 0).short() - (gap > 0).short()
    both = torch.stack([nearest.float(), bits.view(dtype).float()])
    return both.amin(0), both.amax(0)


def assert_centred(errors: Tensor, variances: Tensor, where: object = "") -> None:
    """Independent errors, each at most 1 in size, sum to no more than chance has it."""
    allowed = L / 3.0 + (L * L / 9.0 + 2.0 * L * float(variances.sum())) ** 0.5
    assert abs(float(errors.sum())) < allowed, where


class Rounded:
    """Half parameters without a master, and the same optimizer in float32 beside them."""

    def __init__(self, kind: Kind, site: Site, values: list[Tensor], **options: Any) -> None:
        self.params = [torch.nn.Parameter(v) for v in values]
        self.shadows = [torch.nn.Parameter(v.float()) for v in values]
        self.optimizer = kind.build(
            self.params, backend=site.backend, stochastic_rounding=True, **options
        )
        self.shadow = kind.build(self.shadows, backend=site.backend, **options)

    def step(self, gradients: list[Tensor | None]) -> tuple[Tensor, Tensor]:
        """One step of both: the rounded values and what was rounded."""
        for p, shadow, g in zip(self.params, self.shadows, gradients, strict=True):
            p.grad = None if g is None else torch.empty_like(p).copy_(g)
            shadow.grad = None if p.grad is None else p.grad.float()
        self.optimizer.step()
        self.shadow.step()
        rounded = torch.cat([p.detach().flatten() for p in self.params])
        exact = torch.cat([s.detach().flatten() for s in self.shadows])
        with torch.no_grad():
            for p, shadow in zip(self.params, self.shadows, strict=True):
                shadow.copy_(p)
        return rounded, exact


@pytest.mark.kernel_free
@each_half
def test_one_of_two_neighbours_and_unbiased(
    dtype: torch.dtype, kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """In each tenth of the way from one to the other, and independent of element and step."""
    values = [normal(rng, torch.empty(n)).to(site.device, dtype) for n in (size(site), 37)]
    run = Rounded(kind, site, values, weight_decay=0.1)
    earlier: list[Tensor] = []
    for gradients in Gradients(2 if site.interpreted else 4).draw(rng, run.params):
        rounded, exact = run.step(gradients)
        low, high = neighbours(exact, dtype)
        value = rounded.float()
        assert bool(((value == low) | (value == high)).all())
        between = high > low
        share = ((exact - low).double() / (high - low).double())[between]
        error, variance = (value[between] == high[between]).double() - share, share * (1.0 - share)
        for tenth in range(10):
            here = (share * 10.0).long() == tenth
            assert_centred(error[here], variance[here], tenth)
        even = len(error) // 2 * 2  # pairs that share no element are independent
        assert_centred(error[:even].view(-1, 2).prod(1), variance[:even].view(-1, 2).prod(1))
        full = torch.zeros(2, len(value), dtype=torch.float64, device=value.device)
        full[:, between] = torch.stack([error, variance])
        for before in earlier:  # is known when this step draws its bits
            assert_centred(before * full[0], before.square() * full[1])
        earlier.append(full[0])
    assert between.any()
    for p, shadow in zip(run.params, run.shadows, strict=True):
        state, reference = run.optimizer.state[p], run.shadow.state[shadow]
        assert state.keys() == kind.state | {"step"}
        assert_same_bits({name: state[name] for name in reference}, dict(reference))


@pytest.mark.kernel_free
@pytest.mark.filterwarnings("ignore:lr=0.001 is not a learning rate")
@each_half
def test_small_moves_add_up(dtype: torch.dtype, kind: Kind, site: Site) -> None:
    """Far below half a unit in the last place: rounding to nearest would never leave 1."""
    p = torch.nn.Parameter(torch.ones(size(site), dtype=dtype, device=site.device))
    options = {"backend": site.backend, "stochastic_rounding": True}
    if kind.robust:
        options["lr"] = 1e-3  # its first step is at most a hundredth of the parameter's length
    elif kind.name.startswith("YellowFin"):
        options["initial_lr"] = 1e-5 / float(kind.options.get("lr", 1.0))
    else:
        options["lr"] = 1e-5
    p.grad = torch.ones_like(p)
    kind.build([p], **options).step()
    assert (p.detach().float() == 1.0).sum() > 0.9 * len(p)
    assert bool((p.detach() < 1.0).any())


def plain_sgd(params: list[torch.nn.Parameter], lr: float, backend: str) -> QHM:
    """p - lr g, exact before it is rounded if lr is a power of two and g small."""
    return QHM.from_sgd(params, lr=lr, stochastic_rounding=True, backend=backend)


@pytest.mark.kernel_free
@each_half
def test_mean_after_many_steps(dtype: torch.dtype, site: Site) -> None:
    p = torch.nn.Parameter(torch.ones(size(site), dtype=dtype, device=site.device))
    steps, move = 8 if site.interpreted else 64, 2.0**-13
    optimizer = plain_sgd([p], move, site.backend)
    for _ in range(steps):
        p.grad = torch.ones_like(p)
        optimizer.step()
    unit = torch.finfo(dtype).eps / 2.0  # below 1
    # given the steps before, each element is off by at most a unit, with variance move * unit
    errors = (p.detach().double() - (1.0 - steps * move)) / unit
    assert_centred(errors, torch.full_like(errors, steps * move / unit))


def test_equal_tensors_are_rounded_apart(site: Site) -> None:
    """An element's bits come from its place in the model, not in its tensor."""
    unit = torch.ones(size(site), dtype=torch.bfloat16, device=site.device)
    params = [torch.nn.Parameter(unit.clone()) for _ in range(2)]
    for p in params:
        p.grad = unit
    plain_sgd(params, 2.0**-10, site.backend).step()  # a quarter of the way down
    down = [(p.detach() < 1.0).double() - 0.25 for p in params]
    variance = torch.full_like(down[0], 0.25 * 0.75)
    for one in down:
        assert_centred(one, variance)
    assert_centred(down[0] * down[1], variance.square())


@pytest.mark.kernel_free
@each_half
def test_representable_values_are_not_rounded(
    dtype: torch.dtype, site: Site, rng: np.random.Generator
) -> None:
    scale = 10.0 ** rng.uniform(-9.0, 4.0, size(site))
    values = (normal(rng, torch.empty(size(site))) * torch.from_numpy(scale)).to(site.device, dtype)
    p = torch.nn.Parameter(values.clone())
    p.grad = torch.ones_like(p)
    plain_sgd([p], 0.0, site.backend).step()
    assert_same_bits(p.detach(), values)


def test_float16_subnormals(site: Site, rng: np.random.Generator) -> None:
    """Below 2^-14 values are 2^-24 apart; the first of them is reached from zero, too."""
    kind = Kind("QHM", QHM, KINDS[0].twin, frozenset(), {"lr": 2.0**-12, "nu": 0.0})
    steps = torch.from_numpy(rng.uniform(-1.0, 1.0, size(site)) * 2.0**-10)
    values = [torch.zeros(size(site), dtype=torch.float16, device=site.device)]
    values += [normal(rng, values[0]).mul(2.0**-15).to(site.device, torch.float16)]
    run = Rounded(kind, site, values)
    for _ in range(3):
        rounded, exact = run.step([steps, steps])
        low, high = neighbours(exact, torch.float16)
        value = rounded.float()
        assert bool(((value == low) | (value == high)).all())
        between = high > low
        assert between.sum() > 0.5 * len(value)
        share = ((exact - low) / (high - low)).double()[between]
        error = (value == high).double()[between] - share
        assert_centred(error, share * (1.0 - share))


@each_half
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_overflow_and_nan(
    dtype: torch.dtype, sign: float, site: Site, rng: np.random.Generator
) -> None:
    """Beyond the largest value is infinity; NaN stays NaN whatever its bits and the random ones."""
    largest = torch.finfo(dtype).max
    n = size(site)
    p = torch.nn.Parameter(torch.full((2, n), sign * largest, dtype=dtype, device=site.device))
    p.grad = torch.full_like(p, -sign * largest)  # to twice the largest
    p.grad[1] = torch.nan
    plain_sgd([p], 1.0, site.backend).step()
    assert bool((sign * p.detach()[0] == torch.inf).all())
    assert bool(p.detach()[1].isnan().all())


@pytest.mark.kernel_free
def test_between_the_largest_float16_and_infinity(site: Site) -> None:
    """65504 + 8 is a quarter of the way to 65536, which is infinity."""
    p = torch.nn.Parameter(
        torch.full((size(site),), 65504.0, dtype=torch.float16, device=site.device)
    )
    p.grad = torch.full_like(p, -8.0)
    plain_sgd([p], 1.0, site.backend).step()
    up = p.detach().isinf().double()
    assert bool((p.detach()[~up.bool()] == 65504.0).all())
    variance = torch.full_like(up, 0.25 * 0.75)
    assert_centred(up - 0.25, variance)


@each_half
def test_same_bits_on_every_backend(
    dtype: torch.dtype, site: Site, rng: np.random.Generator
) -> None:
    """The bits belong to the element's place in memory order and to the step, not to the kernel."""
    shapes = {
        "offset": (1021,),
        "channels_last": (2, 3, 4, 5),
        "transposed": (9, 7),
        "strided": (3, 5),
    }
    values = [normal(rng, torch.empty(s)).to(site.device, dtype) for s in shapes.values()]
    values.append(normal(rng, torch.empty(5000)).to(site.device, dtype))
    layouts = [*shapes, "contiguous"]
    trace = list(Gradients(3, present=lambda k, i: k > 0 or i != 1).draw(rng, values))

    def run(backend: str) -> list[Tensor]:
        params = [
            torch.nn.Parameter(lay_out(v, layout)[0])
            for v, layout in zip(values, layouts, strict=True)
        ]
        optimizer = plain_sgd(params, 2.0**-8, backend)
        for gradients in trace:
            for p, g in zip(params, gradients, strict=True):
                # few bits, so that p - lr g is exact in float32
                p.grad = None if g is None else (g * 4.0).round().clamp(-64, 64).to(p)
            optimizer.step()
        return [p.detach() for p in params]

    assert_same_bits(run("torch"), run(site.backend))


@pytest.mark.kernel_free
def test_same_bits_on_any_number_of_threads(
    kind: Kind, site: Site, rng: np.random.Generator, threads: None
) -> None:
    value = normal(rng, torch.empty(200_000)).to(site.device, torch.bfloat16)
    gradient = normal(rng, value).to(value)

    def run(counts: list[int]) -> Tensor:
        p = torch.nn.Parameter(value.clone())
        optimizer = kind.build([p], backend=site.backend, stochastic_rounding=True)
        for count in counts:
            torch.set_num_threads(count)
            p.grad = gradient.clone()
            optimizer.step()
        return p.detach()

    first = run([1, 1, 1])
    assert_same_bits(first, run([1, 1, 1]), "the same run twice")
    assert_same_bits(first, run([2, 3, 2]))


@pytest.mark.kernel_free
@each_half
def test_no_effect_on_other_dtypes(
    dtype: torch.dtype, kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """float32 parameters in the same optimizer are what they are without it."""
    single = normal(rng, torch.empty(70)).to(site.device, torch.float32)
    half = normal(rng, torch.empty(70)).to(site.device, dtype)
    results = []
    for chosen in (True, False):
        params = [torch.nn.Parameter(v.clone()) for v in (single, half)]
        optimizer = kind.build(params, backend=site.backend, stochastic_rounding=chosen)
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
        assert ("master" in optimizer.state[params[1]]) is not chosen
        assert optimizer.state[params[0]].keys() == kind.state
        results.append(params[0].detach())
    assert_same_bits(*results)


@pytest.mark.kernel_free
def test_skipped_step_takes_no_random_bits(
    kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """A step that is refused is not counted: the next one rounds as if there had been none."""
    values = normal(rng, torch.empty(300)).to(site.device, torch.bfloat16)
    trace = [g for [g] in Gradients(4, poison={2: np.nan}).draw(rng, [values])]
    results = []
    for kept in (range(4), (0, 1, 3)):
        p = torch.nn.Parameter(values.clone())
        options = {**kind.measures, "backend": site.backend, "stochastic_rounding": True}
        optimizer = kind.build([p], **options)
        for step in kept:
            p.grad = trace[step].to(p)
            optimizer.step()
        results.append(p.detach())
    assert_same_bits(*results)
