"""Closures, parameters and vectors that cannot be used, refused in words."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from losses import Problem, Surroundings
from torch import nn

from yfkernels.curvature import METHODS, discover, gradient, gradient_and_product


@pytest.fixture
def problem() -> Problem:
    torch.manual_seed(0)
    return Problem("mlp")


def backward(problem: Problem) -> Any:
    loss = problem.closure()
    loss.backward()
    return loss


RESULTS: dict[str, tuple[Callable[[Problem], Any], type[Exception], str]] = {
    "nothing": (lambda p: None, TypeError, "closure result: None (NoneType); return the loss"),
    "a number": (lambda p: p.closure().item(), TypeError, "(float); return the loss as a tensor"),
    "several": (
        lambda p: p.model(p.x),
        ValueError,
        "a tensor of shape (12, 3) and torch.float64; return a scalar loss",
    ),
    "an integer": (lambda p: p.y.sum(), ValueError, "shape () and torch.int64; return a scalar"),
    "no graph": (
        lambda p: p.closure().detach(),
        ValueError,
        "needs no gradient; compute it from the parameters, without torch.no_grad()",
    ),
    "backward": (backward, ValueError, "leave backward() out of it"),
}


@pytest.mark.parametrize("result", RESULTS)
def test_results(problem: Problem, result: str) -> None:
    make, error, message = RESULTS[result]
    before = Surroundings(problem)
    with pytest.raises(error, match=re.escape(message)):
        gradient(lambda: make(problem), problem.params)
    with pytest.raises(error, match=re.escape(message)):
        discover(lambda: make(problem), problem.params)
    for method in METHODS:
        with pytest.raises(error, match=re.escape(message)):
            gradient_and_product(
                lambda: make(problem), problem.params, problem.vectors, method=method,
                modules=problem.modules,
            )  # fmt: skip
    assert before.unchanged()


def test_a_loss_in_place_of_a_closure(problem: Problem) -> None:
    loss: Any = problem.closure()
    with pytest.raises(TypeError, match="closure type: Tensor; give a function that returns"):
        gradient(loss, problem.params)


def test_params(problem: Problem) -> None:
    bad: Any = ["weight"]
    with pytest.raises(TypeError, match=r"params\[0\] type: str; give tensors"):
        gradient(problem.closure, bad)
    problem.params[1].requires_grad_(False)
    with pytest.raises(ValueError, match=r"params\[1\]: .* \(8,\) has requires_grad=False; leave"):
        gradient(problem.closure, problem.params)
    with pytest.raises(ValueError, match="params: empty"):
        gradient_and_product(problem.closure, [], [])


def test_vectors(problem: Problem) -> None:
    params, vectors = problem.params, problem.vectors
    bad: Any = [None, *vectors[1:]]
    for wrong, error, message in (
        (vectors[:-1], ValueError, "5 of them for 6 params; give one for each"),
        ([*vectors[1:], vectors[0]], ValueError, r"vectors\[0\]: .* \(8,\) on cpu for .* \(8, 6\)"),
        (bad, TypeError, r"vectors\[0\] type: NoneType"),
    ):
        with pytest.raises(error, match=message):
            gradient_and_product(problem.closure, params, wrong)


def test_sparse_gradients() -> None:
    layer = nn.Embedding(4, 2, sparse=True)
    with pytest.raises(ValueError, match=r"params\[0\]: its layout is torch.sparse_coo; make it"):
        gradient(lambda: layer(torch.tensor([1, 2])).sum(), [layer.weight])


def test_the_closure_may_stand_under_no_grad(problem: Problem) -> None:
    with torch.no_grad():
        _, grads = gradient(problem.closure, problem.params)
    assert all(g is not None for g in grads)
