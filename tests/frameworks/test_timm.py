"""timm: Lookahead resumes bit for bit, its factory builds ours, its schedules drive them."""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from support.resume import (
    EQUALS,
    IN_FRAMEWORKS,
    STEPS,
    Build,
    Snapshot,
    assert_close,
    assert_resumes,
    batch,
    make_model,
    snapshot,
)
from torch import nn

from yfkernels.integrations import log_dict


def without_models(spec: ModuleSpec) -> None:
    """Leaves timm itself and its models hollow.

    They import torchvision, which loads only beside the very build of torch that it was made for;
    optimizers and schedules do without.
    """
    sys.modules["timm"] = module_from_spec(spec)
    models = sys.modules["timm.models"] = ModuleType("timm.models")
    models.group_parameters = None  # for learning rates by layer


if (spec := find_spec("timm")) is None:
    reason = "timm is not installed; `make test-frameworks` installs it"
    pytest.skip(reason, allow_module_level=True)
if "timm" not in sys.modules:
    without_models(spec)

factory = import_module("timm.optim._optim_factory")
Lookahead = import_module("timm.optim.lookahead").Lookahead
CosineLRScheduler = import_module("timm.scheduler.cosine_lr").CosineLRScheduler

Wrap = Any


def run(
    build: Build,
    *,
    until: int = STEPS,
    save: Path | None = None,
    load: Path | None = None,
    wrap: Wrap = None,
) -> Snapshot:
    """Trains under a cosine schedule; `wrap` puts another optimizer around."""
    model = make_model()
    inner = build(model.parameters())
    optimizer = inner if wrap is None else wrap(inner)
    schedule = CosineLRScheduler(optimizer, t_initial=STEPS, warmup_t=2, t_in_epochs=False)
    start = 0
    if load is not None:
        saved = torch.load(load / "last.pt", weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        start = saved["step"]
    for step in range(start, until):
        schedule.step_update(step)
        x, y = batch(step)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    if save is not None:
        saved = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "step": until,
        }
        torch.save(saved, save / "last.pt")
    return snapshot(model, inner)


@pytest.mark.parametrize("wrap", [None, partial(Lookahead, k=2)], ids=["plain", "lookahead"])
@pytest.mark.parametrize("name", IN_FRAMEWORKS)
def test_resumes_bit_for_bit(name: str, wrap: Wrap, tmp_path: Path) -> None:
    """With the slow weights, which Lookahead keeps in the state of the optimizer inside."""
    assert_resumes(partial(run, wrap=wrap), IN_FRAMEWORKS[name], tmp_path)


@pytest.mark.parametrize("name", EQUALS)
def test_equals_torch(name: str) -> None:
    ours, theirs = (run(build, wrap=partial(Lookahead, k=2)) for build in EQUALS[name])
    assert_close(ours, theirs)


@pytest.mark.parametrize("foreach", [None, True, False])
@pytest.mark.parametrize("name", ["yellowfin", "yflamb", "qhm", "qhadam"])
def test_is_built_by_the_factory(name: str, foreach: bool | None) -> None:
    """By its name; timm hands on its own foreach."""
    known = import_module("yfkernels.integrations.timm").NAMES
    model = make_model()
    before = [p.detach().clone() for p in model.parameters()]
    made = factory.create_optimizer_v2(
        model, f"lookahead_{name}", lr=1.0, weight_decay=0.1, foreach=foreach
    )
    assert isinstance(made, Lookahead)
    assert type(made._base_optimizer) is known[name][0]
    for step in range(STEPS):
        x, y = batch(step)
        nn.functional.mse_loss(model(x), y).backward()
        made.step()
    assert not any(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize("name", ["yellowfin", "yflamb", "qhm", "qhadam"])
def test_without_a_learning_rate_the_optimizer_has_its_own(name: str) -> None:
    known = import_module("yfkernels.integrations.timm").NAMES
    made = factory.create_optimizer_v2(make_model(), name)
    own = known[name][0](make_model().parameters()).defaults["lr"]
    assert {group["lr"] for group in made.param_groups} == {own}
    assert own == 1.0 or name != "yellowfin"


@pytest.mark.parametrize("name", ["yellowfin", "yflamb", "qhm", "qhadam"])
def test_is_built_from_the_arguments_of_the_script(name: str) -> None:
    """Those that an optimizer does not take are left out, those of its own arrive."""
    import_module("yfkernels.integrations.timm")
    given = SimpleNamespace(
        opt=name,
        lr=0.5,
        weight_decay=2e-5,
        momentum=0.9,
        opt_eps=1e-7,
        opt_betas=(0.8, 0.99),
        opt_args={"stochastic_rounding": True},
    )
    made = factory.create_optimizer(given, make_model())
    decays = {group["weight_decay"] for group in made.param_groups}
    assert decays == {0.0, 2e-5}, "vectors do not decay"
    assert {group["lr"] for group in made.param_groups} == {0.5}
    if name in ("yflamb", "qhadam"):
        assert {(group["eps"], group["betas"]) for group in made.param_groups} == {
            (1e-7, (0.8, 0.99))
        }


def test_names_are_new_ones() -> None:
    """Those that timm has are as they were."""
    known = import_module("yfkernels.integrations.timm").NAMES
    listed = dict(factory.list_optimizers(with_description=True))
    assert all(listed[name] == description for name, (_, description) in known.items())
    assert factory.get_optimizer_class("lamb") is factory.Lamb
    theirs = factory.OptimizerRegistry()
    families = ("sgd_variants", "adam_variants", "lamb_lars", "other_optimizers")
    for family in families:
        getattr(factory, f"_register_{family}")(theirs)
    assert not known.keys() & set(theirs.list_optimizers())


@pytest.mark.parametrize("name", ["YellowFin", "LAMB", "QHM", "QHAdam"])
def test_is_logged_from_inside_lookahead(name: str) -> None:
    model = make_model()
    inner = IN_FRAMEWORKS[name](model.parameters())
    wrapped = Lookahead(inner)
    x, y = batch(0)
    nn.functional.mse_loss(model(x), y).backward()
    wrapped.step()
    assert log_dict(wrapped) == log_dict(inner) != {}
