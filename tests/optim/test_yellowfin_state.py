"""state_dict: complete, resumes bit for bit, and refuses what does not fit."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import (
    BACKENDS,
    Gradients,
    Group,
    Spec,
    Target,
    assert_same_bits,
    lay_out,
    normal,
    specs,
    why_unusable,
)
from torch import Tensor
from twin import Twin

from yfkernels import YellowFin

Params = list[torch.nn.Parameter]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"variance": "sketch", "momentum_form": "polyak"},
    {"sparsity_debias": True, "log_smooth": False, "window": 3, "max_norm": 0.5, "beta": 0.9},
    {"capturable": True},
]


class Training:
    """Parameters, their optimizer and one fixed trace of gradients, to be cut and resumed."""

    def __init__(
        self, target: Target, rng: np.random.Generator, dtype: torch.dtype, **options: Any
    ):
        self.target, self.options = target, options
        self.params: Params = [
            torch.nn.Parameter(normal(rng, torch.empty(shape)).to(target.device, dtype))
            for shape in ((40, 3), (7,), ())
        ]
        trace = Gradients(
            12,
            factor={2: 1e2, 7: 1e2},
            poison={4: np.nan, 8: np.inf},
            present=lambda step, i: i != 1 or step > 7,  # gets its first gradient after the cut
        )
        self.gradients = list(trace.draw(rng, self.params))
        self.optimizer = self.build(self.params)

    def build(self, params: Params) -> YellowFin:
        groups = [{"params": params[:1], "lr": 0.5, "weight_decay": 0.1}, {"params": params[1:]}]
        return YellowFin(groups, backend=self.target.backend, **self.options)

    def train(self, optimizer: YellowFin, params: Params, start: int, stop: int) -> None:
        for gradients in self.gradients[start:stop]:
            for p, g in zip(params, gradients, strict=True):
                p.grad = None if g is None else torch.empty_like(p).copy_(g)
            optimizer.step()

    def copy_params(self) -> Params:
        return [torch.nn.Parameter(p.detach().clone()) for p in self.params]


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_same_training(a: YellowFin, b: YellowFin, p: Params, q: Params) -> None:
    assert_same_bits([x.detach() for x in p], [x.detach() for x in q], "parameters")
    assert_same_bits(a.state_dict(), b.state_dict(), "state_dict")
    assert_same_bits(a.diagnostics(), b.diagnostics(), "diagnostics")


@pytest.mark.parametrize("cut", [0, 1, 6])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_resumes_bit_for_bit(
    dtype: torch.dtype,
    options: dict[str, Any],
    cut: int,
    target: Target,
    rng: np.random.Generator,
) -> None:
    if target.interpreted and (cut != 6 or options not in OPTIONS[:2] or dtype == torch.float64):
        pytest.skip("a few of these are enough for the slow interpreter")
    whole = Training(target, rng, dtype, **options)
    whole.train(whole.optimizer, whole.params, 0, cut)
    params = whole.copy_params()
    state = through_a_file(whole.optimizer.state_dict())
    whole.train(whole.optimizer, whole.params, cut, 12)

    resumed = whole.build(params)
    resumed.load_state_dict(state)
    assert_same_bits(state, through_a_file(resumed.state_dict()), "loaded and saved again")
    whole.train(resumed, params, cut, 12)
    assert_same_training(whole.optimizer, resumed, whole.params, params)


@pytest.mark.kernel_free
def test_resumes_over_an_optimizer_that_has_run(target: Target, rng: np.random.Generator) -> None:
    """Loading replaces the whole state: going back to a checkpoint repeats what followed it."""
    run = Training(target, rng, torch.float32)
    run.train(run.optimizer, run.params, 0, 5)
    checkpoint = copy.deepcopy(run.optimizer.state_dict())
    values = [p.detach().clone() for p in run.params]
    run.train(run.optimizer, run.params, 5, 12)
    end = [p.detach().clone() for p in run.params]

    with torch.no_grad():
        for p, value in zip(run.params, values, strict=True):
            p.copy_(value)
    run.optimizer.load_state_dict(checkpoint)
    run.train(run.optimizer, run.params, 5, 12)
    assert_same_bits(end, [p.detach() for p in run.params])


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])
@pytest.mark.parametrize("variance", ["exact", "sketch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.kernel_free
def test_copies_go_on_alone(
    dtype: torch.dtype,
    variance: str,
    duplicate: Callable[[Any], Any],
    target: Target,
    rng: np.random.Generator,
) -> None:
    run = Training(target, rng, dtype, variance=variance)
    run.train(run.optimizer, run.params, 0, 6)
    twin, params = duplicate((run.optimizer, run.params))
    frozen = copy.deepcopy((twin.state_dict(), [p.detach() for p in params]))

    run.train(run.optimizer, run.params, 6, 12)
    assert_same_bits(frozen, (twin.state_dict(), [p.detach() for p in params]), "the copy")
    run.train(twin, params, 6, 12)
    assert_same_training(run.optimizer, twin, run.params, params)


@pytest.mark.kernel_free
def test_loaded_state_is_the_optimizers_own(target: Target, rng: np.random.Generator) -> None:
    run = Training(target, rng, torch.float32)
    run.train(run.optimizer, run.params, 0, 5)
    state = run.optimizer.state_dict()
    frozen = copy.deepcopy(state)
    params = run.copy_params()
    other = run.build(params)
    other.load_state_dict(state)
    run.train(other, params, 5, 10)
    assert_same_bits(frozen["state"], run.optimizer.state_dict()["state"], "the source")


@pytest.mark.parametrize(
    ("options", "dtype", "keys"),
    [
        ({}, torch.float32, {"momentum_buffer", "grad_avg"}),
        ({"variance": "sketch"}, torch.float32, {"momentum_buffer"}),
        ({}, torch.bfloat16, {"momentum_buffer", "grad_avg", "master"}),
        ({"variance": "sketch"}, torch.float16, {"momentum_buffer", "master"}),
        ({}, torch.float64, {"momentum_buffer", "grad_avg"}),
    ],
)
@pytest.mark.kernel_free
def test_what_the_state_holds(
    options: dict[str, Any],
    dtype: torch.dtype,
    keys: set[str],
    target: Target,
    rng: np.random.Generator,
) -> None:
    run = Training(target, rng, dtype, **options)
    run.train(run.optimizer, run.params, 0, 12)
    state = run.optimizer.state_dict()
    assert set(state) == {"state", "param_groups"}
    width = torch.float64 if dtype == torch.float64 else torch.float32
    for i, p in enumerate(run.params):
        tensors = {k: v for k, v in state["state"][i].items() if isinstance(v, Tensor)}
        assert keys == tensors.keys()
        for name in keys:
            assert tensors[name].shape == p.shape
            assert tensors[name].dtype == width
    assert state["param_groups"][0]["tuner"].dtype == torch.float64
    assert all("tuner" not in group for group in run.optimizer.param_groups)


def test_state_follows_the_backend(target: Target, rng: np.random.Generator) -> None:
    """A checkpoint of one backend continues on every other one, along the oracle."""
    for backend in BACKENDS:
        other = Target(backend, target.device)
        if why_unusable(other) is None:
            twin = Twin(target, (Group(specs((3, 5), (70,))),), rng)
            gradients = list(Gradients(8).draw(rng, twin.params))
            for g in gradients[:4]:
                twin.step(g)
            state = through_a_file(twin.optimizer.state_dict())
            twin.optimizer = YellowFin(twin.params, backend=other.backend)
            twin.optimizer.load_state_dict(state)
            for g in gradients[4:]:
                twin.step(g)


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "strided", "contiguous"])
def test_state_follows_the_layout(layout: str, target: Target, rng: np.random.Generator) -> None:
    """Saved from one layout, loaded into another: state belongs to elements, not addresses."""
    spec = Spec((2, 3, 4, 5), layout="channels_last")
    twin = Twin(target, (Group((spec,)),), rng)
    gradients = list(Gradients(8).draw(rng, twin.params))
    for g in gradients[:4]:
        twin.step(g)
    reference = copy.deepcopy(twin)
    for g in gradients[4:]:
        reference.step(g)

    p = torch.nn.Parameter(lay_out(twin.params[0].detach(), layout)[0])
    optimizer = YellowFin([p], backend=target.backend)
    optimizer.load_state_dict(through_a_file(twin.optimizer.state_dict()))
    for g in gradients[4:]:
        assert g[0] is not None
        p.grad = torch.empty_like(p).copy_(g[0])
        optimizer.step()
    # Another order of summation is the only difference.
    torch.testing.assert_close(p, reference.params[0], rtol=1e-4, atol=1e-6)


@pytest.mark.kernel_free
def test_group_options_come_with_the_state(target: Target, rng: np.random.Generator) -> None:
    """As in torch: lr and the other per-group settings are those of the checkpoint."""
    run = Training(target, rng, torch.float32)
    run.optimizer.param_groups[1]["lr"] = 0.125
    other = run.build(run.copy_params())
    other.load_state_dict(run.optimizer.state_dict())
    assert other.param_groups[1]["lr"] == 0.125
    assert other.param_groups[0]["weight_decay"] == 0.1


def _another_count(state: dict[str, Any]) -> None:
    state["param_groups"][0]["params"] = [0, 1]


def _missing_group(state: dict[str, Any]) -> None:
    state["param_groups"].pop()


def _another_shape(state: dict[str, Any]) -> None:
    state["state"][0]["momentum_buffer"] = torch.zeros(3, 40)


def _another_buffer_size(state: dict[str, Any]) -> None:
    state["state"][0]["grad_avg"] = torch.zeros(5)


def _missing_buffer(state: dict[str, Any]) -> None:
    del state["state"][0]["grad_avg"]


def _no_tuner(state: dict[str, Any]) -> None:
    del state["param_groups"][0]["tuner"]


def _short_tuner(state: dict[str, Any]) -> None:
    state["param_groups"][0]["tuner"] = state["param_groups"][0]["tuner"][:-1]


def _another_version(state: dict[str, Any]) -> None:
    state["param_groups"][0]["tuner"][0] = 99.0


def _no_groups(state: dict[str, Any]) -> None:
    del state["param_groups"]


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (_another_count, "parameter"),
        (_missing_group, "group"),
        (_another_shape, "momentum_buffer"),
        (_another_buffer_size, "grad_avg"),
        (_missing_buffer, "grad_avg"),
        (_no_tuner, "tuner"),
        (_short_tuner, "tuner"),
        (_another_version, "99"),
        (_no_groups, "param_groups"),
    ],
)
@pytest.mark.kernel_free
def test_refuses_a_state_that_does_not_fit(
    spoil: Callable[[dict[str, Any]], None],
    named: str,
    target: Target,
    rng: np.random.Generator,
) -> None:
    run = Training(target, rng, torch.float32)
    run.train(run.optimizer, run.params, 0, 5)
    params = run.copy_params()
    optimizer = run.build(params)
    run.train(optimizer, params, 0, 3)
    before = copy.deepcopy((optimizer.state_dict(), [p.detach() for p in params]))
    bad = copy.deepcopy(run.optimizer.state_dict())
    spoil(bad)
    with pytest.raises((ValueError, RuntimeError, TypeError, KeyError), match=named):
        optimizer.load_state_dict(bad)
    assert_same_bits(before, (optimizer.state_dict(), [p.detach() for p in params]), "unchanged")
    run.train(optimizer, params, 3, 12)  # and it still works


@pytest.mark.parametrize("options", [{"window": 7}, {"variance": "sketch"}], ids=str)
@pytest.mark.kernel_free
def test_refuses_the_state_of_other_options(
    options: dict[str, Any], target: Target, rng: np.random.Generator
) -> None:
    """The window is a ring and the sketch replaces a buffer: neither fits another setting."""
    run = Training(target, rng, torch.float32)
    run.train(run.optimizer, run.params, 0, 5)
    groups = [{"params": run.params[:1]}, {"params": run.params[1:]}]
    other = YellowFin(groups, backend=target.backend, **options)
    with pytest.raises((ValueError, RuntimeError), match=next(iter(options))):
        other.load_state_dict(run.optimizer.state_dict())


@pytest.mark.kernel_free
def test_refuses_the_state_of_another_optimizer(target: Target) -> None:
    p = torch.nn.Parameter(torch.ones(3, device=target.device))
    sgd = torch.optim.SGD([p], lr=0.1, momentum=0.9)
    p.grad = torch.ones_like(p)
    sgd.step()
    with pytest.raises((ValueError, RuntimeError), match=r"tuner|YellowFin"):
        YellowFin([p], backend=target.backend).load_state_dict(sgd.state_dict())
