"""What each method refuses, what "auto" falls back to, and that a failure leaves no trace."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from losses import EXACT, TOLERANCES, Problem, Surroundings, expected, same
from torch import Tensor, nn

from yfkernels.curvature import METHODS, HessianProduct, discover, gradient, gradient_and_product


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


class Once(torch.autograd.Function):
    """A square that can be differentiated once, and has no forward derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * grad


def with_an_opaque_end(problem: Problem) -> Any:
    return lambda: Once.apply(problem.closure())


REASONS = {
    "reverse": r'hvp="reverse" cannot .*once_differentiable lacks a derivative; use hvp="central"',
    "jvp": r'hvp="jvp" cannot .*jvp function for custom .* lacks a derivative; use hvp="central"',
}


@pytest.mark.parametrize("method", EXACT)
def test_an_operation_without_second_derivative(method: str) -> None:
    problem = Problem("conv net")
    before = Surroundings(problem)
    with pytest.raises(RuntimeError, match=REASONS[method]):
        gradient_and_product(
            with_an_opaque_end(problem), problem.params, problem.vectors,
            method=method, modules=problem.modules,
        )  # fmt: skip
    assert before.unchanged()
    assert all(a is b for a, b in zip(problem.model.parameters(), problem.params))


def test_the_operation_is_named() -> None:
    problem = Problem("mlp")
    nn.utils.parametrizations.weight_norm(problem.model[0])  # type: ignore[index]
    params, modules = list(problem.model.parameters()), list(problem.model.modules())
    with pytest.raises(RuntimeError, match="_weight_norm_interface lacks a derivative"):
        gradient_and_product(
            problem.closure, params, [p.detach() for p in params], method="jvp", modules=modules
        )
    gradient_and_product(problem.closure, params, [p.detach() for p in params], method="reverse")


@pytest.mark.parametrize("given", [True, False], ids=["modules", "no modules"])
def test_auto_falls_back_once(given: bool) -> None:
    problem = Problem("conv net")
    _, reached = expected(problem)
    product = HessianProduct(modules=problem.modules if given else None)
    assert product.settled == "reverse"
    closure = with_an_opaque_end(problem)
    before = Surroundings(problem)
    with pytest.warns(UserWarning, match="once_differentiable .* central differences") as caught:
        first = product(closure, problem.params, problem.vectors)
    assert [warning.filename for warning in caught] == [__file__]
    assert product.settled == "central"
    found = Surroundings(problem)
    before.put_back()
    gradient(closure, problem.params)
    assert found.unchanged(), "the failed attempt has left a trace"
    # l² has the Hessian 2 l H + 2 g g'
    before.put_back()
    loss, grads = gradient(problem.closure, problem.params)
    inner = sum(float((g * z).sum()) for g, z in zip(grads, problem.vectors) if g is not None)
    wanted = [2 * loss * h + 2 * inner * g for h, g in zip(reached, grads) if g is not None]
    same(first.products, wanted, TOLERANCES["central"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        product(closure, problem.params, problem.vectors)


def test_an_error_of_the_closure_is_no_missing_derivative() -> None:
    problem = Problem("conv net")
    before = Surroundings(problem)

    def closure() -> Tensor:
        problem.closure()
        raise RuntimeError("out of paper")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in METHODS:
            with pytest.raises(RuntimeError, match=r"^out of paper$"):
                gradient_and_product(
                    closure, problem.params, problem.vectors, method=method, modules=problem.modules
                )
            assert before.unchanged(), method
            assert all(a is b for a, b in zip(problem.model.parameters(), problem.params))


@pytest.mark.parametrize("method", ["central", "forward"])
def test_the_second_evaluation_fails(method: str) -> None:
    problem = Problem("conv net")
    before = Surroundings(problem)
    calls: list[None] = []

    def closure() -> Tensor:
        calls.append(None)
        loss = problem.closure()
        if len(calls) == 2:
            raise KeyboardInterrupt
        return loss

    with pytest.raises(KeyboardInterrupt):
        gradient_and_product(closure, problem.params, problem.vectors, method=method)
    assert before.unchanged()


def test_a_closure_of_another_minibatch() -> None:
    problem = Problem("mlp")
    sizes = iter([12, 10, 8])

    def closure() -> Tensor:
        size = next(sizes)
        return nn.functional.cross_entropy(problem.model(problem.x[:size]), problem.y[:size])

    with pytest.raises(ValueError, match=r"evaluation calls relu otherwise .* the same minibatch"):
        gradient_and_product(closure, problem.params, problem.vectors, method="forward")


def test_jvp_needs_every_parameter_in_a_module() -> None:
    problem = Problem("mlp")
    with pytest.raises(
        ValueError, match=r"owns params\[2\], a tensor of shape \(5, 8\).* and 1 more"
    ):
        gradient_and_product(
            problem.closure, problem.params, problem.vectors, method="jvp",
            modules=problem.modules[:2],
        )  # fmt: skip


def test_jvp_finds_modules_and_remembers_them() -> None:
    problem = Problem("conv net")
    calls: list[None] = []

    def closure() -> Tensor:
        calls.append(None)
        return problem.closure()

    product = HessianProduct("jvp")
    for evaluations in (2, 1, 1):
        _, wanted = expected(problem)
        before = Surroundings(problem)
        calls.clear()
        found = product(closure, problem.params, problem.vectors)
        assert len(calls) == evaluations
        same(found.products, wanted, TOLERANCES["jvp"])
        after = Surroundings(problem)
        before.put_back()
        gradient(problem.closure, problem.params)
        assert after.unchanged(), "more than one evaluation has left its trace"


def test_jvp_finds_modules_that_are_called_later() -> None:
    """A second place of a weight, in a module of its own; its statistics count each step once."""
    first, norm = nn.Linear(4, 4).double(), nn.BatchNorm1d(4, affine=False).double()
    second = nn.Linear(4, 4, bias=False).double()
    second.weight = first.weight
    x = torch.randn(8, 4, dtype=torch.float64)
    params = list(first.parameters())
    vectors = [torch.randn_like(p) for p in params]

    def one() -> Tensor:
        return first(x).sin().square().mean()

    def both() -> Tensor:
        return norm(second(first(x).tanh())).sin().square().mean()

    def exact(closure: Callable[[], Tensor]) -> list[Tensor]:
        products = gradient_and_product(closure, params, vectors, method="reverse").products
        return [p for p in products if p is not None]

    closures = [one, both, both, one]
    wanted = [exact(closure) for closure in closures]
    norm.reset_running_stats()
    product = HessianProduct("jvp")
    for closure, products, counted in zip(closures, wanted, (0, 1, 2, 2)):
        same(product(closure, params, vectors).products, products, TOLERANCES["jvp"])
        assert int(norm.num_batches_tracked) == counted  # type: ignore[arg-type]


def test_jvp_refuses_parameters_used_past_the_modules() -> None:
    """Dual numbers would miss the weight decay: a wrong product, unless it is noticed."""
    problem = Problem("mlp")

    def closure() -> Tensor:
        return problem.closure() + sum(p.square().sum() for p in problem.params[:1])

    with pytest.raises(ValueError, match=r"uses params\[0\] other than .* hvp=\"reverse\""):
        gradient_and_product(
            closure, problem.params, problem.vectors, method="jvp", modules=problem.modules
        )
    assert all(a is b for a, b in zip(problem.model.parameters(), problem.params))


@pytest.mark.parametrize("model", ["conv net", "attention", "tied"])
def test_discovered_modules_serve_jvp(model: str) -> None:
    problem = Problem(model)
    used = [p for p in problem.params if p.shape != (2,)]
    loss, grads, modules = discover(problem.closure, used)
    assert set(modules) == set(problem.modules)
    assert len(modules) == len(problem.modules)
    assert loss.grad_fn is None
    assert all(g is not None for g in grads)
    assert not torch.nn.modules.module._global_forward_pre_hooks
    gradient_and_product(
        problem.closure, used, [torch.ones_like(p) for p in used], method="jvp", modules=modules
    )


def test_unknown_method() -> None:
    problem = Problem("mlp")
    with pytest.raises(ValueError, match="Invalid method value: 'hessian'; it must be one of auto"):
        gradient_and_product(problem.closure, problem.params, problem.vectors, method="hessian")


@pytest.mark.skipif(
    not hasattr(torch.compiler, "set_stance"),
    reason=f"torch {torch.__version__} cannot run a compiled model as it was written; 2.6 can",
)
@pytest.mark.parametrize("method", ["reverse", "jvp", "central", "forward"])
def test_compiled_models_run_as_they_were_written(method: str) -> None:
    problem = Problem("conv net")
    before = Surroundings(problem)
    _, wanted = expected(problem)
    compiled = torch.compile(problem.model, backend="aot_eager")

    def closure() -> Tensor:
        return nn.functional.cross_entropy(compiled(problem.x), problem.y)

    _, _, modules = discover(closure, problem.params)
    assert set(problem.modules) <= set(modules)
    before.put_back()
    for given in [modules] if method == "jvp" else [modules, None]:
        found = gradient_and_product(
            closure, problem.params, problem.vectors, method=method, modules=given
        )
        same(found.products, wanted, TOLERANCES[method])
        before.put_back()
