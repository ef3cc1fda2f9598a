"""Bad input: the error names the argument, the value and the fix, and nothing has changed."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from support.cases import BACKENDS, SMALL, Gradients, Site, assert_same_bits, why_unusable
from support.twin import Twin
from torch import nn

from yfkernels import YellowFin

pytestmark = pytest.mark.kernel_free
NAN, INF = math.nan, math.inf
BAD_VALUES: list[tuple[str, Any]] = [
    ("lr", -0.1),
    ("lr", NAN),
    ("lr", INF),
    ("lr", torch.tensor([0.1, 0.2])),
    ("lr", torch.tensor(-1.0)),
    ("beta", -0.1),
    ("beta", 1.0),
    ("beta", 1.5),
    ("beta", NAN),
    ("window", 0),
    ("window", -3),
    ("window", 2.5),
    ("weight_decay", -0.1),
    ("weight_decay", NAN),
    ("weight_decay", INF),
    ("max_norm", -1.0),
    ("max_norm", NAN),
    ("initial_lr", -1.0),
    ("initial_lr", NAN),
    ("initial_lr", INF),
    ("initial_momentum", -0.1),
    ("initial_momentum", 1.0),
    ("initial_momentum", NAN),
]
BAD_CHOICES = {
    "clip": "adaptiv",
    "variance": "sketchy",
    "momentum_form": "nesterov",
    "backend": "cudnn",
}


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.ones(3))


@pytest.mark.parametrize(("name", "value"), BAD_VALUES, ids=str)
def test_value_out_of_range(name: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError)) as error:
        YellowFin([parameter()], **{name: value})
    message = str(error.value)
    assert name in message
    if not isinstance(value, torch.Tensor):
        assert str(value) in message


@pytest.mark.parametrize(("name", "value"), BAD_CHOICES.items())
def test_unknown_choice(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=name) as error:
        YellowFin([parameter()], **{name: value})
    message = str(error.value)
    assert value in message
    allowed = {
        "clip": ["adaptive", "None"],
        "variance": ["exact", "sketch"],
        "momentum_form": ["buffer", "polyak"],
        "backend": ["auto", "native", "triton", "torch"],
    }
    for choice in allowed[name]:
        assert choice in message


@pytest.mark.parametrize(
    "options",
    [{"momentum_form": "buffer"}, {"trust_ratio": True}, {"variance": "sketch"}],
    ids=lambda each: next(iter(each)),
)
def test_options_at_odds_with_the_robust_mode(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))) as error:
        YellowFin([parameter()], **options)
    assert "robust=False" in str(error.value)
    YellowFin([parameter()], **options, robust=False)


def warnings_of(lrs: Iterable[Any], **options: Any) -> list[Any]:
    """What a training says in which every step's lr, or those of all groups, are these."""
    lrs = list(lrs)
    first = lrs[0] if isinstance(lrs[0], tuple) else lrs[:1]
    groups = [{"params": [parameter()], "lr": lr} for lr in first]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer = YellowFin(groups, **options)
        for each in lrs:
            for group, lr in zip(
                optimizer.param_groups, each if isinstance(each, tuple) else [each]
            ):
                group["lr"] = lr
                group["params"][0].grad = torch.ones_like(group["params"][0])
            optimizer.step()
    return caught


RAMP = [k / 200 for k in range(1, 201)]


@pytest.mark.parametrize(
    "lrs",
    [
        [1e-3] * 12,
        [0.1] * 12,
        [torch.tensor(3e-4)] * 12,
        [0.0, *[1e-3] * 12],
        [*[k * 1e-4 for k in range(1, 11)], *[1e-3] * 12],  # a warm-up to 1e-3
        [1e-3 * (1 + math.cos(k / 20)) for k in range(60)],
        [(1e-3, 1e-4)] * 12,
    ],
    ids=["constant", "largest", "tensor", "from 0", "warm-up", "cosine", "groups"],
)
@pytest.mark.parametrize("preconditioner", ["auto", None])
def test_a_learning_rate_for_lr(lrs: list[Any], preconditioner: str | None) -> None:
    """AdamW's 1e-3 is no error, and trains next to nothing: the user's line is named, once."""
    caught = warnings_of(lrs, preconditioner=preconditioner)
    assert [warning.filename for warning in caught] == [__file__]
    assert "is not a learning rate but a multiplier" in str(caught[0].message)
    assert "lr=1.0" in str(caught[0].message)
    assert "Trainer" in str(caught[0].message)


@pytest.mark.parametrize(
    ("lrs", "options"),
    [
        ([1.0] * 12, {}),
        ([0.3] * 12, {}),
        ([0.0] * 12, {}),
        ([(0.01, 1.0)] * 12, {}),  # layers that are to move less than others
        ([1e-3, 1e-3, *[1.0] * 12], {}),  # a scheduler sets it later
        (RAMP, {}),
        ([0.0, *RAMP], {}),
        (RAMP[::-1], {}),  # a decay
        ([0.01] * 12, {"robust": False, "trust_ratio": True}),  # LAMB's
    ],
    ids=["1", "0.3", "0", "groups", "later", "warm-up", "warm-up from 0", "decay", "published"],
)
def test_multipliers_that_are_meant(lrs: list[Any], options: dict[str, Any]) -> None:
    assert not warnings_of(lrs, **options)


def test_the_warning_survives_a_copy() -> None:
    optimizer = YellowFin([parameter()], lr=1e-3)

    def step() -> None:
        (p,) = optimizer.param_groups[0]["params"]
        p.grad = torch.ones_like(p)
        optimizer.step()

    for _ in range(2):
        optimizer = copy.deepcopy(optimizer)
        step()
    with pytest.warns(UserWarning, match="multiplier"):
        step()


@pytest.mark.parametrize("name", ["momentum", "nesterov", "betas"])
def test_unknown_option(name: str) -> None:
    with pytest.raises(TypeError, match=name):
        YellowFin([parameter()], **{name: 1})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [("lr", -0.1), ("lr", NAN), ("weight_decay", -1.0), ("lr", torch.tensor([1.0, 2.0]))],
)
def test_bad_value_in_a_group(name: str, value: Any, site: Site, rng: np.random.Generator) -> None:
    with pytest.raises((ValueError, TypeError), match=name):
        YellowFin([{"params": [parameter()]}, {"params": [parameter()], name: value}])

    twin = Twin(site, SMALL, rng)
    gradients = list(Gradients(4).draw(rng, twin.params))
    twin.step(gradients[0])
    with pytest.raises((ValueError, TypeError), match=name):
        twin.optimizer.add_param_group({"params": [parameter()], name: value})
    assert len(twin.optimizer.param_groups) == 1
    for g in gradients[1:]:
        twin.step(g)


@pytest.mark.parametrize("name", ["beta", "window", "clip", "variance", "initial_lr"])
def test_global_option_in_a_group(name: str) -> None:
    """There is one tuner: to take such an override and ignore it would be a silent lie."""
    with pytest.raises((ValueError, TypeError), match=name):
        YellowFin([{"params": [parameter()], name: 0.5}])


def test_backend_that_cannot_serve(site: Site) -> None:
    for backend in BACKENDS:
        reason = why_unusable(Site(backend, site.device))
        if reason is not None:
            p = nn.Parameter(torch.ones(3, device=site.device))
            p.grad = torch.ones_like(p)
            with pytest.raises(RuntimeError, match=backend):
                YellowFin([p], backend=backend).step()
            assert_same_bits(p.detach(), torch.ones_like(p).detach())


BROKEN_EXTENSION = """
import sys, warnings
{sabotage}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch, yfkernels
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones_like(p)
    yfkernels.YellowFin([p]).step()
    yfkernels.YellowFin([p], variance="sketch", robust=False).step()
assert (p < 1).all()
lr, momentum = yfkernels.single_step(1.0, 1.0, 1.0, 2.0)
assert 0 < lr < 1 and 0 < momentum < 1
print(len([w for w in caught if "native" in str(w.message) or "_C" in str(w.message)]))
for w in caught:
    print(w.message)
yfkernels.show_config()
"""
SABOTAGE = {
    "missing": "sys.modules['yfkernels._C'] = None",
    "broken": """
import importlib.abc, importlib.machinery
class Broken(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name == 'yfkernels._C':
            return importlib.machinery.ModuleSpec(name, self)
    def create_module(self, spec):
        raise ImportError('undefined symbol: sabotage')
    def exec_module(self, module):
        pass
sys.meta_path.insert(0, Broken())
""",
}


@pytest.mark.parametrize("kind", SABOTAGE)
def test_extension_missing_or_broken(kind: str) -> None:
    """A warning with the reason and the next backend, never an import error."""
    script = BROKEN_EXTENSION.replace("{sabotage}", SABOTAGE[kind])
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first == "1", f"one warning about the extension is expected:\n{done.stdout}"
    if kind == "broken":
        assert "sabotage" in rest[0]
    assert any("torch" in line for line in rest)
