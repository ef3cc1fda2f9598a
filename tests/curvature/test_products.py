"""Every method gives autograd's Hessian times a vector, and leaves what one evaluation leaves."""

from __future__ import annotations

import pytest
import torch
from losses import DIFFERENCES, EXACT, MODELS, TOLERANCES, Problem, Surroundings, expected, same
from support.half_square import HalfSquare
from torch import nn

from yfkernels.curvature import gradient, gradient_and_product

METHODS = EXACT + DIFFERENCES


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_products_of_torch_func(model: str, method: str) -> None:
    problem = Problem(model)
    wanted_grads, wanted = expected(problem)
    before = Surroundings(problem)
    loss, grads, products = gradient_and_product(
        problem.closure, problem.params, problem.vectors, method=method, modules=problem.modules
    )
    found = Surroundings(problem)
    same(grads, wanted_grads, 1e-9)
    same(products, wanted, TOLERANCES[method])
    assert [p is None for p in products] == [g is None for g in grads]
    assert not any(t.requires_grad for t in [loss, *grads, *products] if t is not None)
    assert all(p.grad is None for p in problem.params)
    assert list(problem.model.parameters()) == problem.params  # no == of tensors: the same ones
    # one plain evaluation from the same beginning
    before.put_back()
    plain = gradient(problem.closure, problem.params)
    assert found.unchanged(), "parameters, statistics or the random state differ"
    assert float(loss) == pytest.approx(float(plain.loss), rel=1e-12)
    for buffer in problem.model.buffers():
        assert buffer.grad_fn is None
        assert not buffer.requires_grad


@pytest.mark.parametrize("method", DIFFERENCES)
@pytest.mark.parametrize("model", ["mlp", "conv net", "attention"])
def test_differences_in_float32(model: str, method: str) -> None:
    problem = Problem(model, torch.float32)
    exact = gradient_and_product(problem.closure, problem.params, problem.vectors, method="reverse")
    torch.manual_seed(1)
    state = torch.get_rng_state()
    exact = gradient_and_product(problem.closure, problem.params, problem.vectors, method="reverse")
    torch.set_rng_state(state)
    found = gradient_and_product(problem.closure, problem.params, problem.vectors, method=method)
    wanted = [p for p in exact.products if p is not None]
    same(found.products, wanted, {"central": 1e-2, "forward": 5e-2}[method])


def test_an_explicit_hessian() -> None:
    """A quartic whose Hessian is written by hand."""
    w = torch.randn(5, dtype=torch.float64, requires_grad=True)
    z = torch.randn(5, dtype=torch.float64)
    hessian = torch.diag(3 * w.detach() ** 2) + 2 * torch.ones(5, 5, dtype=torch.float64)
    for method in ("reverse", "central", "forward"):
        result = gradient_and_product(
            lambda: (w**4).sum() / 4 + w.sum() ** 2, [w], [z], method=method
        )
        same(result.products, [hessian @ z], TOLERANCES[method])


@pytest.mark.parametrize("method", ["reverse", "central", "forward"])
def test_a_gradient_that_is_the_parameter(method: str) -> None:
    """It does not follow the parameter to where a difference is taken, nor after the call."""
    w = torch.randn(4, dtype=torch.float64, requires_grad=True)
    before, z = w.detach().clone(), torch.ones(4, dtype=torch.float64)
    (grad,), (product,) = gradient_and_product(
        lambda: HalfSquare.apply(w), [w], [z], method=method
    )[1:]
    assert grad is not None
    assert not grad.requires_grad
    with torch.no_grad():
        w.zero_()
    assert torch.equal(grad, before)
    same([product], [z], TOLERANCES[method])


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_without_curvature(method: str) -> None:
    layer = nn.Linear(3, 1).double()
    params = list(layer.parameters())
    x = torch.randn(4, 3, dtype=torch.float64)
    _, grads, products = gradient_and_product(
        lambda: layer(x).mean(), params, [p.detach() for p in params], method=method,
        modules=[layer],
    )  # fmt: skip
    assert all(g is not None for g in grads)
    assert all(p is not None and float(p.abs().max()) < 1e-6 for p in products)


@pytest.mark.parametrize("method", METHODS)
def test_a_vector_of_zeros_and_one_that_is_not_finite(method: str) -> None:
    problem = Problem("mlp")
    before = Surroundings(problem)
    for value in (0.0, float("inf"), float("nan")):
        vectors = [torch.full_like(p, value) for p in problem.params]
        _, grads, products = gradient_and_product(
            problem.closure, problem.params, vectors, method=method, modules=problem.modules
        )
        assert all(g is not None and g.isfinite().all() for g in grads)
        if value == 0.0:
            assert all(p is not None and not p.any() for p in products)
        else:
            assert any(p is not None and not p.isfinite().all() for p in products)
        assert before.unchanged()


def test_frozen_parameters_are_left_out() -> None:
    problem = Problem("mlp")
    problem.params[0].requires_grad_(False)
    rest, vectors = problem.params[1:], problem.vectors[1:]
    first, *others = (
        gradient_and_product(
            problem.closure, rest, vectors, method=method, modules=problem.modules
        ).products
        for method in METHODS
    )
    for other, method in zip(others, METHODS[1:]):
        same(other, [t for t in first if t is not None], TOLERANCES[method])


@pytest.mark.parametrize("method", METHODS)
def test_autocast_in_the_closure(method: str) -> None:
    """bfloat16 has 8 bits: what is left of a product is its direction."""
    problem = Problem("mlp", torch.float32)
    exact = gradient_and_product(problem.closure, problem.params, problem.vectors).products

    def closure() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return problem.closure()

    products = gradient_and_product(
        closure, problem.params, problem.vectors, method=method, modules=problem.modules
    ).products
    a, b = (torch.cat([t.flatten() for t in ts if t is not None]) for ts in (exact, products))
    assert torch.cosine_similarity(a, b, dim=0) > (0.99 if method in EXACT else 0.9)
    assert b.dtype == torch.float32
