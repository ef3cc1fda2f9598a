"""A validation gradient sees the model in eval mode and leaves no trace in the training."""

from __future__ import annotations

import pytest
import torch
from losses import Problem, Surroundings
from torch import Tensor

from yfkernels.curvature import gradient, validation_gradient


@pytest.fixture
def problem() -> Problem:
    torch.manual_seed(0)
    problem = Problem("conv net")
    problem.closure()  # statistics that differ from 0 and 1
    return problem


@pytest.mark.parametrize("given", [True, False], ids=["modules", "no modules"])
def test_in_eval_mode_and_back(problem: Problem, given: bool) -> None:
    frozen = problem.modules[3]
    frozen.eval()
    modes = [module.training for module in problem.modules]
    assert True in modes
    assert False in modes
    before = Surroundings(problem)
    loss, grads = validation_gradient(
        problem.closure, problem.params, problem.modules if given else None
    )
    assert [module.training for module in problem.modules] == modes
    assert before.unchanged()
    problem.model.eval()
    wanted_loss, wanted = gradient(problem.closure, problem.params)
    assert torch.equal(loss, wanted_loss)
    assert all(torch.equal(a, b) for a, b in zip(grads, wanted) if a is not None and b is not None)


@pytest.mark.parametrize("given", [True, False], ids=["modules", "no modules"])
def test_back_after_an_error(problem: Problem, given: bool) -> None:
    before = Surroundings(problem)

    def closure() -> Tensor:
        problem.closure()
        torch.rand(3)
        raise OSError("no such minibatch")

    with pytest.raises(OSError, match="no such minibatch"):
        validation_gradient(closure, problem.params, problem.modules if given else None)
    assert all(module.training for module in problem.modules)
    assert before.unchanged()


def test_train_is_not_called(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some modules merge weights in train(), or refuse to leave eval mode."""
    monkeypatch.setattr(torch.nn.Module, "train", lambda *_: pytest.fail("called"))
    validation_gradient(problem.closure, problem.params, problem.modules)


@pytest.mark.skipif(
    not hasattr(torch.compiler, "set_stance"),
    reason=f"torch {torch.__version__} cannot run a compiled model as it was written; 2.6 can",
)
def test_a_compiled_model(problem: Problem) -> None:
    compiled = torch.compile(problem.model, backend="aot_eager")

    def closure() -> Tensor:
        return torch.nn.functional.cross_entropy(compiled(problem.x), problem.y)

    before = Surroundings(problem)
    loss = validation_gradient(closure, problem.params).loss
    assert torch.equal(loss, validation_gradient(problem.closure, problem.params).loss)
    assert all(module.training for module in problem.modules)
    assert before.unchanged()
