"""Bad input to any optimizer: the error names argument, value and fix; nothing has changed."""

from __future__ import annotations

import copy
import gc
import math
import warnings
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from support.cases import SMALL, Gradients, Site, assert_same_bits
from support.kinds import KINDS, Kind
from support.side_by_side import SideBySide
from torch import nn

from yfkernels import LAMB, QHM, QHAdam

pytestmark = pytest.mark.kernel_free
NAN, INF = math.nan, math.inf
BAD: dict[type, dict[str, list[Any]]] = {
    LAMB: {
        "betas": [(NAN, 0.9), (0.9, 1.0), (-0.1, 0.9), (0.9,), 0.9, None, ("a", 0.9)],
        "eps": [0.0, -1.0, NAN, INF, "1e-6"],
        "max_grad_norm": [-1.0, NAN, INF, "1"],
        "bias_correction": ["no", None, 0.5],
        "trust_clip": [-1.0, 0.0, NAN, (2.0, 1.0), (NAN, 1.0), (-1.0, 1.0), (1.0,), "1"],
        "trust_norm_bounds": [3.0, (), (2.0, 1.0), (0.0, NAN), (-1.0, 1.0), (1.0, 2.0, 3.0)],
    },
    QHM: {"nu": [NAN, INF, "0.7", None], "beta": [1.0, -0.1, NAN, "0.9", None]},
    QHAdam: {
        "nus": [(NAN, 1.0), (INF, 1.0), (0.7, 1.5), (0.7, -0.1), (0.7, NAN), 0.7, (0.7,), "ab"],
        "betas": [(1.0, 0.9), (0.9, NAN), (0.9, -0.1), 0.9, None],
        "eps": [0.0, -1.0, NAN, INF, None],
    },
}
ANY = {
    "lr": [-0.1, NAN, INF, None, "0.1", torch.tensor([0.1, 0.2]), torch.tensor(-1.0)],
    "weight_decay": [-0.1, NAN, INF, None, "0.1"],
}
CASES = [
    pytest.param(kind, name, value, id=f"{kind}-{name}-{value}")
    for kind in KINDS
    if kind.name not in ("YellowFin-sketch", "YellowFin-trust")
    for name, values in {**ANY, **BAD.get(kind.optimizer, {})}.items()
    for value in values
]


def parameter(site: Site | None = None) -> nn.Parameter:
    p = nn.Parameter(torch.ones(3, device=site.device if site else "cpu"))
    p.grad = torch.full_like(p, 0.5)
    return p


def refusal(name: str, value: Any) -> Any:
    """The message names the option and, unless it is a tensor, its value."""
    shown = value
    if isinstance(value, tuple) and len(value) == 2:  # an entry of a pair may be named
        shown = next((v for v in value if not (isinstance(v, float) and 0.0 < v < 1.0)), value)
    pattern = f"Invalid {name}.*" + ("" if isinstance(value, torch.Tensor) else f"{shown}")
    return pytest.raises((ValueError, TypeError), match=pattern)


@pytest.mark.parametrize(("kind", "name", "value"), CASES)
def test_value_out_of_range(kind: Kind, name: str, value: Any) -> None:
    """In the constructor, in a group, in a group added later, and written to a group: a scheduler's
    NaN would reach every parameter."""
    with refusal(name, value):
        kind.build([parameter()], **{name: value})
    with refusal(name, value):
        kind.build([{"params": [parameter()]}, {"params": [parameter()], name: value}])
    p = parameter()
    optimizer = kind.build([p])
    optimizer.step()
    with refusal(name, value):
        optimizer.add_param_group({"params": [parameter()], name: value})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(("kind", "name", "value"), CASES)
def test_value_spoilt_between_steps(kind: Kind, name: str, value: Any) -> None:
    """A scheduler's NaN would pass the guard on gradients and reach every parameter."""
    p, q = parameter(), parameter()
    optimizer = kind.build([{"params": [p]}, {"params": [q]}])
    optimizer.step()
    group = optimizer.param_groups[1]
    kept, group[name] = group[name], value
    before = copy.deepcopy((p.detach(), q.detach(), dict(optimizer.state[q])))
    diagnostics = optimizer.diagnostics()
    with refusal(name, value) as error:
        optimizer.step()
    assert "parameter group 1" in str(error.value)
    assert_same_bits(before, (p.detach(), q.detach(), dict(optimizer.state[q])))
    assert_same_bits(diagnostics, optimizer.diagnostics())
    group[name] = kept
    optimizer.step()
    assert not torch.equal(before[1], q)


GLOBAL = ("skip_nonfinite", "stochastic_rounding", "capturable", "backend")


@pytest.mark.parametrize("name", GLOBAL)
@pytest.mark.parametrize("optimizer", [LAMB, QHM, QHAdam])
def test_global_option_in_a_group(optimizer: Any, name: str) -> None:
    """To take such an override and ignore it would be a silent lie."""
    with pytest.raises(ValueError, match=f"{name}.*constructor"):
        optimizer([{"params": [parameter()], name: "torch"}])


def test_backend_unknown(kind: Kind) -> None:
    with pytest.raises(ValueError, match=r"backend value: 'cudnn'.*auto, native, triton, torch"):
        kind.build([parameter()], backend="cudnn")


@pytest.mark.parametrize("name", ["momentum", "betaz", "amsgrad"])
def test_unknown_option(name: str, kind: Kind) -> None:
    with pytest.raises(TypeError, match=name):
        kind.build([parameter()], **{name: 1})


# ---- LAMB's presets


@pytest.mark.parametrize("preset", ["Apex", "", "adam", 3, True, ["apex"]])
def test_unknown_preset(preset: Any) -> None:
    with pytest.raises(ValueError, match="Invalid preset value") as error:
        LAMB([parameter()], preset=preset)
    assert repr(preset) in str(error.value)
    for name in ("paper", "apex", "timm", "nvlamb", "deepspeed", "v3"):
        assert repr(name) in str(error.value)


@pytest.mark.parametrize(
    ("preset", "name", "value"),
    [
        ("paper", "max_grad_norm", 1.0),
        ("apex", "always_adapt", True),
        ("timm", "trust_clip", 1.0),
        ("nvlamb", "grad_averaging", False),
        ("deepspeed", "bias_correction", True),
        ("deepspeed", "eps", 1e-6),
        ("v3", "trust_norm_bounds", None),
        ("v3", "decoupled_weight_decay", True),
    ],
)
def test_preset_contradicted(preset: str, name: str, value: Any) -> None:
    """By an argument, and by a parameter group, at once or later."""
    with pytest.raises(ValueError, match=f"Invalid {name} value: {value}; preset '{preset}' fixes"):
        LAMB([parameter()], preset=preset, **{name: value})
    override = {"params": [parameter()], name: value}
    with pytest.raises(ValueError, match=f"Invalid {name} value: {value}; preset '{preset}' fixes"):
        LAMB([override], preset=preset)
    optimizer = LAMB([parameter()], preset=preset)
    with pytest.raises(ValueError, match=f"Invalid {name} value: {value}; preset '{preset}' fixes"):
        optimizer.add_param_group(override)
    assert len(optimizer.param_groups) == 1


def test_preset_in_a_group() -> None:
    with pytest.raises(ValueError, match=r"preset.*constructor"):
        LAMB([{"params": [parameter()], "preset": "apex"}])


@pytest.mark.parametrize(
    ("preset", "name", "value"),
    [("paper", "max_grad_norm", 0), ("deepspeed", "trust_clip", [0.01, 10.0])],
)
def test_preset_repeated_in_other_words(preset: str, name: str, value: Any) -> None:
    """0 and None both mean no clip; a list is as good as a tuple."""
    LAMB([parameter()], preset=preset, **{name: value})


# ---- parameters and gradients


def test_a_module_instead_of_its_parameters(kind: Kind) -> None:
    with pytest.raises(TypeError, match=r"Linear.*model\.parameters\(\)"):
        kind.build(torch.nn.Linear(2, 2))


def test_no_parameters(kind: Kind) -> None:
    with pytest.raises(ValueError, match="empty parameter list"):
        kind.build([])


def test_a_bare_tensor(kind: Kind) -> None:
    with pytest.raises(TypeError, match="params"):
        kind.build(torch.ones(3, requires_grad=True))


@pytest.mark.parametrize("params", [[1.0], [np.ones(3)], ["weight"]])
def test_not_a_tensor(params: list[Any], kind: Kind) -> None:
    with pytest.raises(TypeError):
        kind.build(params)


def test_not_a_leaf(kind: Kind) -> None:
    with pytest.raises(ValueError, match="leaf"):
        kind.build([parameter() * 2])


@pytest.mark.parametrize("when", [0, 3])
def test_sparse_gradient(when: int, kind: Kind, site: Site, rng: np.random.Generator) -> None:
    twin = kind.beside(site, SMALL, rng)
    gradients = list(Gradients(6).draw(rng, twin.params))
    for g in gradients[:when]:
        twin.step(g)
    twin.set_gradients(gradients[when])
    dense = twin.params[0].grad
    twin.params[0].grad = torch.zeros_like(twin.params[0]).to_sparse()
    before = snapshot(twin)
    with pytest.raises(RuntimeError, match="sparse"):
        twin.optimizer.step()
    assert_same_bits(before, snapshot(twin), "after the error")
    twin.params[0].grad = dense
    twin.step()
    for g in gradients[when + 1 :]:
        twin.step(g)


def snapshot(twin: SideBySide) -> Any:
    return copy.deepcopy((twin.optimizer.state_dict(), [p.detach() for p in twin.params]))


def test_sparse_embedding(kind: Kind, site: Site) -> None:
    embedding = nn.Embedding(10, 4, sparse=True, device=site.device)
    optimizer = kind.build(embedding.parameters(), backend=site.backend)
    embedding(torch.tensor([1, 2], device=site.device)).sum().backward()
    before = embedding.weight.detach().clone()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    assert_same_bits(before, embedding.weight.detach())


def test_closure_that_raises(kind: Kind, site: Site, rng: np.random.Generator) -> None:
    twin = kind.beside(site, SMALL, rng)
    gradients = list(Gradients(4).draw(rng, twin.params))
    twin.step(gradients[0])
    before = snapshot(twin)

    def closure() -> float:
        raise ArithmeticError("the model failed")

    with pytest.raises(ArithmeticError, match="the model failed"):
        twin.optimizer.step(closure)
    assert_same_bits(before, snapshot(twin))
    for g in gradients[1:]:
        twin.step(g)


def test_no_warnings_in_ordinary_use(kind: Kind, site: Site, rng: np.random.Generator) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kind.beside(site, SMALL, rng).run(Gradients(3), rng)


def test_no_reference_cycle_holds_the_parameters(
    kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """A dropped optimizer frees its state at once, without the garbage collector."""
    p = nn.Parameter(torch.ones(3, device=site.device))
    p.grad = torch.ones_like(p)
    optimizer = kind.build([p], backend=site.backend)
    optimizer.step()
    buffer = weakref.ref(optimizer.state[p][min(kind.state)])
    gc.disable()
    try:
        del optimizer
        assert buffer() is None
    finally:
        gc.enable()
