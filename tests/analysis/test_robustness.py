"""The operator of a momentum step against torch's and our own optimizers, in double precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.optim import SGD, Optimizer

from yfkernels import QHM
from yfkernels.analysis import (
    best_momentum,
    momentum_eigenvalues,
    momentum_operator,
    robust_region,
    robust_settings,
    spectral_radius,
    stability_limit,
)

Floats = NDArray[np.float64]
NU = 0.7
FORMS: list[dict[str, Any]] = [
    {"form": "polyak"},
    {"form": "nesterov"},
    *({"form": form, "nu": nu} for form in ("qhm", "qhm-sum") for nu in (0.0, NU, 1.0)),
]
MOMENTA = (0.0, 0.3, 0.9, 0.99)


@pytest.fixture(params=FORMS, ids=lambda form: "-".join(map(str, form.values())))
def form(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(
    params=[form for form in FORMS if form.get("nu") != 0.0],
    ids=lambda form: "-".join(map(str, form.values())),
)
def with_buffer(request: pytest.FixtureRequest) -> Any:
    """The forms that read the buffer; without, the region is one point."""
    return request.param


def trajectory(build: Callable[[list[torch.Tensor]], Optimizer], h: float, steps: int) -> Floats:
    """x of an optimizer on h/2 x², from 1."""
    x = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = build([x])
    seen = [1.0]
    for _ in range(steps):
        x.grad = h * x.detach()
        optimizer.step()
        seen.append(x.item())
    return np.array(seen)


def sum_of_gradients(lr: float, mu: float, nu: float, h: float, steps: int) -> Floats:
    """The same of "qhm-sum", which is no optimizer's."""
    x, buffer, seen = 1.0, 0.0, [1.0]
    for _ in range(steps):
        buffer = mu * buffer + h * x
        x -= lr * ((1.0 - nu) * h * x + nu * buffer)
        seen.append(x)
    return np.array(seen)


def assert_follows(seen: Floats, operator: torch.Tensor, start: int = 1) -> None:
    """Each x but the first `start` of them is the operator's; what is skipped are its states."""
    pairs = np.stack([seen[start:-1], seen[start - 1 : -2]], -1)
    predicted = pairs @ np.asarray(operator).T
    scale = np.abs(seen).max()
    np.testing.assert_allclose(predicted[:, 0], seen[start + 1 :], rtol=1e-12, atol=1e-13 * scale)
    np.testing.assert_array_equal(predicted[:, 1], seen[start:-1])


@pytest.mark.parametrize("momentum", MOMENTA)
@pytest.mark.parametrize("product", [1e-3, 0.4, 1.7, 5.0])  # the last one diverges
def test_steps_of_optimizers(momentum: float, product: float, rng: np.random.Generator) -> None:
    h = float(rng.uniform(0.5, 2.0))
    lr = product / h

    def check(build: Callable[[list[torch.Tensor]], Optimizer], **form: Any) -> None:
        seen = trajectory(build, h, 40)
        assert_follows(seen, momentum_operator(lr, momentum, h, **form))

    check(lambda x: SGD(x, lr, momentum))
    if momentum > 0.0:
        check(lambda x: SGD(x, lr, momentum, nesterov=True), form="nesterov")
    for nu in (0.0, NU, 1.0):
        check(lambda x, nu=nu: QHM(x, lr, nu=nu, beta=momentum), form="qhm", nu=nu)
        seen = sum_of_gradients(lr, momentum, nu, h, 40)
        assert_follows(seen, momentum_operator(lr, momentum, h, form="qhm-sum", nu=nu))


def test_dampening_is_a_smaller_lr(rng: np.random.Generator) -> None:
    """Except in the first step, which torch does not dampen."""
    h, lr, dampening = rng.uniform(0.2, 0.8, 3).tolist()
    seen = trajectory(lambda x: SGD(x, lr, 0.9, dampening=dampening), h, 40)
    assert seen[1] == pytest.approx(1.0 - lr * h, rel=1e-14)
    assert_follows(seen, momentum_operator(lr * (1.0 - dampening), 0.9, h))


def random_settings(rng: np.random.Generator, count: int = 200) -> tuple[Floats, Floats, Floats]:
    """lr, momenta of both signs, curvatures: products from 1e-4 to 30, some of them negative."""
    lr, h = 10.0 ** rng.uniform(-3.0, 0.5, count), 10.0 ** rng.uniform(-1.0, 1.0, count)
    mu = rng.uniform(-0.99, 0.99, count)
    return lr, mu, np.where(rng.random(count) < 0.1, -h, h)


def test_closed_forms_are_what_numpy_finds(form: Any, rng: np.random.Generator) -> None:
    lr, mu, h = random_settings(rng)
    operators = momentum_operator(lr, mu, h, **form)
    assert operators.shape == (200, 2, 2)
    assert operators.dtype == torch.float64
    wanted = np.linalg.eigvals(operators.numpy())
    wanted = np.take_along_axis(wanted, np.argsort(-np.abs(wanted), -1), -1)
    found = momentum_eigenvalues(lr, mu, h, **form)
    order = np.abs(found.numpy())
    assert (order[:, 0] >= order[:, 1]).all()
    # Double eigenvalues are known to half the digits only, and neither order is right for a pair.
    for pair, expected in zip(found.numpy(), wanted):
        direct, crossed = np.abs(pair - expected).max(), np.abs(pair - expected[::-1]).max()
        apart = abs(expected[0] - expected[1])
        size = max(1.0, abs(expected[0]))
        assert min(direct, crossed) <= 1e-14 * size**2 / max(apart, 1e-7)
    radius = spectral_radius(lr, mu, h, **form)
    np.testing.assert_allclose(radius, order[:, 0], rtol=1e-14, atol=1e-14)
    # what the eigenvalues have to be, whatever their distance
    trace, product = found.sum(-1), found.prod(-1)
    np.testing.assert_allclose(trace.real, operators[:, 0, 0], rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(product.real, -operators[:, 0, 1], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("momentum", MOMENTA[1:])
def test_the_region_is_where_eigenvalues_are_complex(with_buffer: Any, momentum: float) -> None:
    region = robust_region(momentum, **with_buffer)
    assert region.low < region.high

    def is_complex(product: float) -> bool:
        matrix = momentum_operator(product, momentum, 1.0, **with_buffer).numpy()
        return bool(np.abs(np.linalg.eigvals(matrix).imag).max() > 0.0)

    for end, inwards in ((region.low, 1.0), (region.high, -1.0)):
        nudge = 1e-6 * min(end, region.high - region.low)
        assert is_complex(end + inwards * nudge)
        assert not is_complex(end - inwards * nudge)


@pytest.mark.parametrize("momentum", MOMENTA)
def test_the_radius_in_the_region(with_buffer: Any, momentum: float) -> None:
    form = with_buffer
    region = robust_region(momentum, **form)
    products = np.linspace(region.low, region.high, 50)
    radii = spectral_radius(products, momentum, 1.0, **form).numpy()
    # At the very ends, of double eigenvalues, rounding is magnified.
    np.testing.assert_allclose(radii[[0, -1]], region[2:], atol=3e-8)
    direct = {"polyak": 0.0, "nesterov": 1.0}.get(form["form"], 1.0 - form.get("nu", 0.0))
    wanted = np.sqrt(np.clip(momentum * (1.0 - direct * products), 0.0, None))
    np.testing.assert_allclose(radii[1:-1], wanted[1:-1], rtol=1e-12, atol=3e-8 * (not momentum))
    assert (np.diff(radii[1:-1]) <= 1e-15).all()
    if direct == 0.0:
        np.testing.assert_allclose(region[2:], math.sqrt(momentum), rtol=1e-13)


def test_formulas_of_the_table() -> None:
    mu = 0.81
    assert robust_region(mu) == pytest.approx((0.01, 3.61, 0.9, 0.9), rel=1e-12)
    found = robust_region(mu, form="nesterov")
    assert found == pytest.approx((0.19**2 / 1.81**2, 1.0, 1.62 / 1.81, 0.0), abs=1e-15)
    r = math.sqrt(NU * mu)
    wanted = 0.19 / (1 + r) ** 2, 0.19 / (1 - r) ** 2, (mu + r) / (1 + r), (mu - r) / (1 - r)
    assert robust_region(mu, form="qhm", nu=NU) == pytest.approx(wanted, rel=1e-12)
    a = math.sqrt(1 - 0.3 * mu)
    found = robust_region(mu, form="qhm-sum", nu=NU)
    assert found[:2] == pytest.approx(((a - r) ** 2, (a + r) ** 2), rel=1e-12)


def test_qhm_contains_the_others(rng: np.random.Generator) -> None:
    """As `QHM.from_momentum` and `QHM.from_nesterov` have it."""
    mu, lr, h = rng.uniform(0.1, 0.9, 3).tolist()
    for form, nu in (("polyak", 1.0), ("nesterov", mu)):
        torch.testing.assert_close(
            momentum_operator(lr, mu, h, form=form),
            momentum_operator(lr / (1.0 - mu), mu, h, form="qhm", nu=nu),
            rtol=1e-13,
            atol=1e-14,
        )


def test_errors_shrink_by_the_radius(with_buffer: Any, rng: np.random.Generator) -> None:
    """From a random start, after steps enough for the other eigenvalue to be lost."""
    mu, form = 0.9, with_buffer
    region = robust_region(mu, **form)
    for product in (0.3 * region.low, 0.5 * (region.low + region.high)):
        operator = momentum_operator(product, mu, 1.0, **form).numpy()
        steps = 2000
        state = np.linalg.matrix_power(operator, 200) @ rng.standard_normal(2)
        norm, total = float(np.linalg.norm(state)), 0.0
        for _ in range(steps):
            state = operator @ (state / norm)
            norm = float(np.linalg.norm(state))
            total += math.log(norm)
        measured = math.exp(total / steps)
        assert measured == pytest.approx(
            float(spectral_radius(product, mu, 1.0, **form)), rel=5.0 / steps
        )


def test_negative_momentum_has_no_flat_part() -> None:
    """Real eigenvalues of opposite signs; the radius is at least sqrt(-mu), at one point."""
    mu, products = -0.25, np.linspace(0.01, 1.49, 149)  # 0.75, where it is least, among them
    pairs = momentum_eigenvalues(products, mu, 1.0)
    assert (pairs.imag == 0.0).all()
    assert (pairs.real.prod(-1) < 0.0).all()
    radii = spectral_radius(products, mu, 1.0).numpy()
    assert radii.min() == pytest.approx(0.5, rel=1e-12)
    assert products[radii.argmin()] == pytest.approx(1.0 + mu)
    assert np.count_nonzero(radii < 0.5 + 1e-9) == 1
    with pytest.raises(ValueError, match=r"momentum value: -0.25; .* real, and the radius is flat"):
        robust_region(mu)


@pytest.mark.parametrize("momentum", [-0.5, 0.0, 0.5, 0.9])
def test_it_diverges_where_the_limit_without_delay_is(momentum: float) -> None:
    limit = stability_limit(0, momentum)
    assert limit == pytest.approx(2.0 * (1.0 + momentum), rel=1e-12)
    radii = spectral_radius([0.999 * limit, limit, 1.001 * limit], momentum, 1.0)
    assert radii[0] < 1.0 < radii[2]
    assert float(radii[1]) == pytest.approx(1.0, abs=1e-11)


def test_regions_of_single_curvatures_do_not_protect_a_sequence() -> None:
    """Two curvatures from the ends of the region, in turn: the product of both operators grows."""
    region = robust_region(0.81)
    both = momentum_operator(1.0, 0.81, region.low) @ momentum_operator(1.0, 0.81, region.high)
    assert float(torch.linalg.eigvals(both).abs().max()) > 4.0


def test_settings_for_a_range(rng: np.random.Generator) -> None:
    h_min = 10.0 ** float(rng.uniform(-3.0, 0.0))
    h_max = h_min * 10.0 ** float(rng.uniform(0.5, 3.0))
    curvatures = np.geomspace(h_min, h_max, 30)
    fastest = robust_settings(h_min, h_max)
    assert fastest.lr_min == fastest.lr_max
    kappa = h_max / h_min
    assert fastest.radius == pytest.approx((kappa**0.5 - 1) / (kappa**0.5 + 1), rel=1e-12)
    assert fastest.momentum == pytest.approx(fastest.radius**2, rel=1e-15)
    for settings in (fastest, robust_settings(h_min, h_max, momentum=0.5 + fastest.momentum / 2)):
        for lr in (settings.lr_min, settings.lr_max):
            radii = spectral_radius(lr, settings.momentum, curvatures)
            np.testing.assert_allclose(radii, settings.radius, rtol=1e-7)  # double eigenvalues
        outside = 1.01 * settings.lr_max, settings.lr_min / 1.01
        for lr, at in zip(outside, (h_max, h_min)):
            assert spectral_radius(lr, settings.momentum, at) > settings.radius + 1e-4 / kappa
    searched = best_momentum(h_min, h_max, 0)
    assert fastest.radius <= searched.rate + 1e-12


def test_without_a_buffer_it_is_a_point() -> None:
    """Where the eigenvalue of x, 1 - lr h, meets that of the buffer, mu."""
    for form in ("qhm", "qhm-sum"):
        region = robust_region(0.9, form=form, nu=0.0)
        assert region == pytest.approx((0.1, 0.1, 0.9, 0.9), rel=1e-12)


def test_a_single_curvature_needs_no_momentum() -> None:
    assert robust_settings(4.0, 4.0) == (0.0, 0.25, 0.25, 0.0)


def test_shapes_broadcast() -> None:
    lr, mu, h = torch.rand(4, 1, 1) + 0.1, torch.rand(3, 1), np.array([0.5, 2.0])
    assert momentum_operator(lr, mu, h).shape == (4, 3, 2, 2, 2)
    assert momentum_eigenvalues(lr, mu, h).shape == (4, 3, 2, 2)
    assert spectral_radius(lr, mu, h).shape == (4, 3, 2)
    assert spectral_radius(0.1, 0.9, 1.0).shape == ()
    for place in (0, 1, 0), (3, 2, 1):
        args = float(lr[place[0], 0, 0]), float(mu[place[1], 0]), float(h[place[2]])
        assert spectral_radius(lr, mu, h)[place] == spectral_radius(*args)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: momentum_operator(0.0, 0.9, 1.0), ValueError, r"Invalid lr value: 0\.0"),
        (lambda: spectral_radius([0.1, -2.0], 0.9, 1.0), ValueError, r"Invalid lr value: -2\.0"),
        (lambda: spectral_radius(0.1, [0.5, -1.0], 1.0), ValueError, r"momentum value: -1\.0"),
        (lambda: spectral_radius(0.1, 0.9, math.nan), ValueError, "Invalid curvature value: nan"),
        (lambda: spectral_radius(0.1, 0.9, []), ValueError, r"Invalid curvature value: \(0,\)"),
        (lambda: spectral_radius("a", 0.9, 1.0), TypeError, "Invalid lr type: str"),
        (
            lambda: spectral_radius([0.1, 0.2], 0.9, [1.0, 2.0, 3.0]),
            *(ValueError, r"Invalid shapes: \(2,\), \(\), \(3,\) of lr, momentum and curvature"),
        ),
        (
            lambda: momentum_operator(0.1, 0.9, 1.0, form="adam"),
            *(ValueError, "Invalid form value: 'adam'; it must be one of polyak, nesterov, qhm"),
        ),
        (lambda: robust_region(0.9, form="qhm"), ValueError, "Invalid nu value: None"),
        (lambda: robust_region(0.9, nu=0.5), ValueError, "Invalid nu value: 0.5; it must be left"),
        (lambda: robust_region(0.9, form="qhm", nu=1.5), ValueError, r"Invalid nu value: 1\.5"),
        (lambda: robust_region(1.0), ValueError, r"Invalid momentum value: 1\.0"),
        (lambda: robust_settings(2.0, 1.0), ValueError, r"Invalid h_min value: 2\.0; .* h_max"),
        (
            lambda: robust_settings(0.01, 1.0, momentum=0.5),
            *(ValueError, r"Invalid momentum value: 0\.5; it must be at least 0\.669421"),
        ),
    ],
)
def test_bad_input_is_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
