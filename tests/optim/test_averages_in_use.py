"""Averages put in the place of the weights, for a while and for good; what is refused."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from support.averages import Training
from support.cases import Site, Spec, assert_same_bits, make_parameter
from torch import nn

from yfkernels import HD, MARTHE, QHM, WeightAverage


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
