"""state_dict: complete, resumes bit for bit, and refuses what does not fit."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.cases import (
    BACKENDS,
    Gradients,
    Group,
    Site,
    Spec,
    assert_same_bits,
    lay_out,
    specs,
    why_unusable,
)
from support.cut_training import ROUNDS, Params, Training, through_a_file
from support.kinds import KINDS, Kind

from yfkernels import WeightAverage

OPTIONS = {
    "YellowFin": [
        {},
        {"log_smooth": False, "window": 3, "max_norm": 0.5, "beta": 0.9},
        {"capturable": True},
        {"average": WeightAverage(power=2.0, every=2, dtype=torch.bfloat16)},
        ROUNDS,
    ],
    "YellowFin-robust": [
        {},
        {"sparsity_debias": True, "log_smooth": False, "window": 3, "max_norm": 0.5, "beta": 0.9},
        ROUNDS,
    ],
    "YellowFin-sketch": [{}, {"momentum_form": "polyak"}],
    "YellowFin-published": [{}],
    "YellowFin-trust": [{}, ROUNDS],
    "YellowFin-float8": [{}, {"window": 3, "max_norm": 0.5}, {"capturable": True}, ROUNDS],
    "YellowFin-diagonal": [{}, {"window": 3, "max_norm": 0.5}, {"capturable": True}, ROUNDS],
    "LAMB": [
        {},
        {"preset": "deepspeed"},
        {"capturable": True},
        {"average": WeightAverage(power=2.0, every=2)},
        ROUNDS,
    ],
    "QHM": [{}, ROUNDS],
    "QHAdam": [{"capturable": True}, ROUNDS],
    "LAMB-bytes": [{}, {"capturable": True}, ROUNDS],
    "QHAdam-bytes": [{}, ROUNDS],
}
CASES = [(kind, options) for kind in KINDS for options in OPTIONS.get(kind.name, [{}])]


def assert_same_training(a: Any, b: Any, p: Params, q: Params) -> None:
    assert_same_bits([x.detach() for x in p], [x.detach() for x in q], "parameters")
    assert_same_bits(a.state_dict(), b.state_dict(), "state_dict")
    assert_same_bits(a.diagnostics(), b.diagnostics(), "diagnostics")


@pytest.mark.parametrize("cut", [0, 1, 6])
@pytest.mark.parametrize(("kind", "options"), CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_resumes_bit_for_bit(
    dtype: torch.dtype,
    kind: Kind,
    options: dict[str, Any],
    cut: int,
    site: Site,
    rng: np.random.Generator,
) -> None:
    if site.interpreted and (cut != 6 or options or dtype == torch.float64):
        pytest.skip("a few of these are enough for the slow interpreter")
    if cut != 6 and kind.name not in ("YellowFin", "LAMB"):
        pytest.skip("YellowFin and LAMB stand for the others here")
    if options == ROUNDS and dtype != torch.bfloat16:
        pytest.skip("nothing is rounded")
    whole = Training(kind, site, rng, dtype, **options)
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
def test_resumes_over_an_optimizer_that_has_run(
    kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """Loading replaces the whole state: going back to a checkpoint repeats what followed it."""
    run = Training(kind, site, rng, torch.float32)
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
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.kernel_free
def test_copies_go_on_alone(
    dtype: torch.dtype,
    duplicate: Callable[[Any], Any],
    kind: Kind,
    site: Site,
    rng: np.random.Generator,
) -> None:
    run = Training(kind, site, rng, dtype)
    run.train(run.optimizer, run.params, 0, 6)
    twin, params = duplicate((run.optimizer, run.params))
    frozen = copy.deepcopy((twin.state_dict(), [p.detach() for p in params]))

    run.train(run.optimizer, run.params, 6, 12)
    assert_same_bits(frozen, (twin.state_dict(), [p.detach() for p in params]), "the copy")
    run.train(twin, params, 6, 12)
    assert_same_training(run.optimizer, twin, run.params, params)


@pytest.mark.kernel_free
def test_loaded_state_is_the_optimizers_own(
    kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    run = Training(kind, site, rng, torch.float32)
    run.train(run.optimizer, run.params, 0, 5)
    state = run.optimizer.state_dict()
    frozen = copy.deepcopy(state)
    params = run.copy_params()
    other = run.build(params)
    other.load_state_dict(state)
    run.train(other, params, 5, 10)
    assert_same_bits(frozen["state"], run.optimizer.state_dict()["state"], "the source")


@pytest.mark.parametrize(
    ("options", "dtype", "added"),
    [
        ({}, torch.float32, set()),
        ({}, torch.float64, set()),
        ({}, torch.bfloat16, {"master"}),
        ({}, torch.float16, {"master"}),
        (ROUNDS, torch.bfloat16, {"step"}),
        (ROUNDS, torch.float16, {"step"}),
        (ROUNDS, torch.float32, set()),
    ],
)
@pytest.mark.kernel_free
def test_what_the_state_holds(
    options: dict[str, Any],
    dtype: torch.dtype,
    added: set[str],
    kind: Kind,
    site: Site,
    rng: np.random.Generator,
) -> None:
    run = Training(kind, site, rng, dtype, **options)
    run.train(run.optimizer, run.params, 0, 12)
    state = run.optimizer.state_dict()
    assert set(state) == {"state", "param_groups"}
    width = torch.float64 if dtype == torch.float64 else torch.float32
    codes = {name: torch.uint8 for name in kind.state if name.endswith("_codes")}
    dtypes = {"step": torch.float32, **codes}
    for i, p in enumerate(run.params):
        held = state["state"][i]
        assert held.keys() == kind.state | added
        for name, value in held.items():
            assert value.shape == (() if name == "step" else p.shape)
            assert value.dtype == dtypes.get(name, width)
    name = kind.saves
    assert state["param_groups"][0][name].dtype == torch.float64
    assert all(name not in group for group in state["param_groups"][1:])


def test_state_follows_the_backend(kind: Kind, site: Site, rng: np.random.Generator) -> None:
    """A checkpoint of one backend continues on every other one, along the oracle."""
    for backend in BACKENDS:
        other = Site(backend, site.device)
        if why_unusable(other) is None:
            twin = kind.beside(site, (Group(specs((3, 5), (70,))),), rng)
            gradients = list(Gradients(8).draw(rng, twin.params))
            for g in gradients[:4]:
                twin.step(g)
            state = through_a_file(twin.optimizer.state_dict())
            twin.optimizer = kind.build(twin.params, backend=other.backend, **kind.measures)
            twin.optimizer.load_state_dict(state)
            for g in gradients[4:]:
                twin.step(g)


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "strided", "contiguous"])
def test_state_follows_the_layout(
    layout: str, kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """Saved from one layout, loaded into another: state belongs to elements, not addresses."""
    if kind.name == "YellowFin-sketch" or any(name.endswith("_codes") for name in kind.state):
        pytest.skip("the sketch's average and the codes' random bits belong to places in memory")
    spec = Spec((2, 3, 4, 5), layout="channels_last")
    twin = kind.beside(site, (Group((spec,)),), rng)
    gradients = list(Gradients(8).draw(rng, twin.params))
    for g in gradients[:4]:
        twin.step(g)
    reference = copy.deepcopy(twin)
    for g in gradients[4:]:
        reference.step(g)

    p = torch.nn.Parameter(lay_out(twin.params[0].detach(), layout)[0])
    optimizer = kind.build([p], backend=site.backend, **kind.measures)
    optimizer.load_state_dict(through_a_file(twin.optimizer.state_dict()))
    for g in gradients[4:]:
        assert g[0] is not None
        p.grad = torch.empty_like(p).copy_(g[0])
        optimizer.step()
    # Another order of summation is the only difference.
    torch.testing.assert_close(p, reference.params[0], rtol=1e-4, atol=1e-6)


@pytest.mark.kernel_free
def test_group_options_come_with_the_state(
    kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """As in torch: lr and the other per-group settings are those of the checkpoint."""
    run = Training(kind, site, rng, torch.float32)
    run.optimizer.param_groups[1]["lr"] = 0.125
    other = run.build(run.copy_params())
    other.load_state_dict(run.optimizer.state_dict())
    assert other.param_groups[1]["lr"] == 0.125
    assert other.param_groups[0]["weight_decay"] == 0.1
