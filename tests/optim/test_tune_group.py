"""`tune="group"`: each group as if it had an optimizer of its own, and one step for all."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from support.cases import MODES, Site, assert_same_bits
from torch import Tensor, nn

from yfkernels import ClosedLoop, WeightAverage, YellowFin

ROBUST = {name: options for name, options in MODES.items() if options.get("robust", True)}
each_mode = pytest.mark.parametrize("options", ROBUST.values(), ids=ROBUST)
SHAPES = (((3, 5), (17,), ()), ((1025,), (2, 0)))  # of the parameters of each group
SIZES = (1.0, 1e-3)  # of their gradients

Params = list[list[nn.Parameter]]


@pytest.fixture
def params(rng: np.random.Generator, site: Site) -> Params:
    torch.manual_seed(int(rng.integers(2**31)))
    return [
        [nn.Parameter(torch.randn(shape, device=site.device)) for shape in shapes]
        for shapes in SHAPES
    ]


def copied(params: Params) -> Params:
    return copy.deepcopy(params)


def give(params: Params, seed: int, groups: Sequence[int] = (0, 1)) -> None:
    generator = torch.Generator().manual_seed(seed)
    for index, group in enumerate(params):
        for p in group:
            noise = torch.randn(p.shape, generator=generator)
            p.grad = SIZES[index] * (0.3 + noise).to(p) if index in groups else None


def of_groups(params: Params, site: Site, tune: str = "group", **options: Any) -> YellowFin:
    groups = [{"params": group} for group in params]
    return YellowFin(groups, tune=tune, backend=site.backend, **options)


def alone(params: Params, group: int, site: Site, **options: Any) -> YellowFin:
    """Of one group; the others have no gradient, but their place in the model.

    It says where the random bits are for which codes are rounded.
    """
    groups = [{"params": own} for own in params]
    optimizer = YellowFin(groups, backend=site.backend, **options)
    optimizer.register_step_pre_hook(lambda *_: leave(params, group))
    return optimizer


def leave(params: Params, group: int) -> None:
    for p in (p for index, own in enumerate(params) if index != group for p in own):
        p.grad = None


def take(optimizer: YellowFin, params: Params, steps: int) -> None:
    for seed in range(steps):
        give(params, seed)
        optimizer.step()


def state_of(optimizer: YellowFin, params: Sequence[nn.Parameter]) -> list[Any]:
    return [[p.detach() for p in params], [optimizer.state[p] for p in params]]


def everything(optimizer: YellowFin, params: Params) -> Any:
    return [copy.deepcopy(optimizer.state_dict()), [p.detach().clone() for g in params for p in g]]


@each_mode
def test_one_group_is_the_whole(options: dict[str, Any], quick: Site, params: Params) -> None:
    of = {tune: copied(params[:1]) for tune in ("global", "group")}
    made = {tune: of_groups(own, quick, tune, **options) for tune, own in of.items()}
    for seed in range(6):
        for tune, own in of.items():
            give(own, seed)
            made[tune].step()
    saved = {tune: copy.deepcopy(optimizer.state_dict()) for tune, optimizer in made.items()}
    assert [saved[tune]["param_groups"][0].pop("tune") for tune in saved] == list(saved)
    assert_same_bits(saved["global"], saved["group"])
    assert_same_bits(of["global"], of["group"])
    made["group"].load_state_dict(made["global"].state_dict())
    assert made["group"].param_groups[0]["tune"] == "group"


def compare_with_each_alone(
    params: Params, site: Site, present: Sequence[Sequence[int]], **options: Any
) -> None:
    """Bit for bit over as many steps as there are sets of groups that have a gradient."""
    together, each = of_groups(params, site, **options), []
    for group in range(2):
        own = copied(params)
        each.append((own, alone(own, group, site, **options)))
    for seed, groups in enumerate(present):
        give(params, seed, groups)
        together.step()
        for own, optimizer in each:
            give(own, seed, groups)
            optimizer.step()
    for group, (own, optimizer) in enumerate(each):
        assert_same_bits(state_of(together, params[group]), state_of(optimizer, own[group]))
        assert together.diagnostics(group) == optimizer.diagnostics(group)
        assert together.diagnostics(group)["step"] == sum(group in groups for groups in present)
        assert together.tuned_lrs()[group] == optimizer.tuned_lrs()[group]
        for name in ("tuned_lr", "momentum"):
            value = together.param_groups[group][name]
            assert torch.equal(value, optimizer.param_groups[group][name]), name
        assert torch.equal(
            together.param_groups[group]["tuner"], optimizer.param_groups[0]["tuner"]
        )
    first, second = (together.diagnostics(group) for group in range(2))
    assert first["grad_norm"] > 30.0 * second["grad_norm"]
    assert first["distance_traveled"] != second["distance_traveled"]


@each_mode
def test_as_an_optimizer_for_each(options: dict[str, Any], site: Site, params: Params) -> None:
    options = {"average": WeightAverage(every=2), "maximize": True, **options}
    compare_with_each_alone(params, site, [(0, 1)] * 5, **options)


@each_mode
def test_a_group_without_gradients_waits(
    options: dict[str, Any], site: Site, params: Params
) -> None:
    """Its clock stands still, and another's goes on."""
    present = [(0,), (0,), (0, 1), (1,), (0, 1), (0,), (0, 1)]
    compare_with_each_alone(params, site, present, **options)


@each_mode
def test_half_precision(options: dict[str, Any], quick: Site, params: Params) -> None:
    """And two tables in a group."""
    kinds = ((torch.bfloat16,) * 3, (torch.float16, torch.float64))
    params = [
        [nn.Parameter(p.detach().to(dtype)) for p, dtype in zip(group, dtypes)]
        for group, dtypes in zip(params, kinds)
    ]
    params[1].append(nn.Parameter(params[1][0].detach().double()))
    compare_with_each_alone(params, quick, [(0, 1)] * 4, **options)


@each_mode
def test_settings_of_the_groups(options: dict[str, Any], quick: Site, params: Params) -> None:
    apart, own = copied(params), ({"lr": 0.5, "weight_decay": 0.1}, {"maximize": True})
    options = {"decoupled_weight_decay": True, **options}
    groups = [{"params": group, **settings} for group, settings in zip(params, own)]
    together = YellowFin(groups, tune="group", backend=quick.backend, **options)
    first = YellowFin(apart[0], backend=quick.backend, **options, **own[0])
    for seed in range(4):
        give(params, seed)
        give(apart, seed)
        together.step()
        first.step()
    assert_same_bits(state_of(together, params[0]), state_of(first, apart[0]))


@each_mode
@pytest.mark.parametrize("poisoned", [0, 1])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_bad_gradient_stops_all(
    value: float, poisoned: int, options: dict[str, Any], quick: Site, params: Params
) -> None:
    optimizer = of_groups(params, quick, **options)
    for seed in range(2):
        give(params, seed)
        optimizer.step()
    before = everything(optimizer, params)
    give(params, 2)
    params[poisoned][0].grad.view(-1)[-1] = value
    optimizer.step()
    after = everything(optimizer, params)
    for group in range(2):
        assert optimizer.diagnostics(group)["skipped_steps"] == 1
        tuners = [saved[0]["param_groups"][group].pop("tuner") for saved in (before, after)]
        assert int((tuners[0] != tuners[1]).sum()) == 1
    assert_same_bits(before, after)


@each_mode
@pytest.mark.parametrize("found", [0.0, 1.0])
def test_grad_scaler(found: float, options: dict[str, Any], quick: Site, params: Params) -> None:
    plain = copied(params)
    expected, optimizer = (of_groups(own, quick, **options) for own in (plain, params))
    for seed in range(4):
        give(plain, seed)
        give(params, seed)
        refused = seed == 2 and found
        for p in (p for group in params for p in group):
            p.grad *= 1024.0
        device = quick.device
        optimizer.grad_scale = torch.tensor(1024.0, device=device)
        optimizer.found_inf = torch.tensor(found if seed == 2 else 0.0, device=device)
        optimizer.step()
        if not refused:
            expected.step()
    assert [optimizer.diagnostics(group)["skipped_steps"] for group in range(2)] == [found] * 2
    assert_same_bits(params, plain)


@each_mode
def test_a_late_group_begins_anew(options: dict[str, Any], quick: Site, params: Params) -> None:
    apart = copied(params)
    first = YellowFin(params[0], tune="group", backend=quick.backend, **options)
    for seed in range(5):
        give(params, seed)
        first.step()
    # a copy of a group, as progressive unfreezing makes it: with a state that is none of its own
    first.add_param_group({**first.param_groups[0], "params": params[1]})
    fresh = alone(apart, 1, quick, **options)
    for seed in range(5, 8):
        give(params, seed)
        give(apart, seed)
        first.step()
        fresh.step()
    assert_same_bits(state_of(first, params[1]), state_of(fresh, apart[1]))
    assert first.diagnostics(1) == fresh.diagnostics(1)
    assert first.diagnostics(0)["step"] == 8.0


@each_mode
@pytest.mark.parametrize("how", ["state_dict", "deepcopy", "torch.save"])
def test_resumes_bit_for_bit(
    how: str, options: dict[str, Any], quick: Site, params: Params
) -> None:
    optimizer = of_groups(params, quick, **options)
    for seed in range(3):
        give(params, seed)
        optimizer.step()
    if how == "deepcopy":
        resumed, others = copy.deepcopy((optimizer, params))
    else:
        others = copied(params)
        resumed = of_groups(others, quick, **options)
        saved = optimizer.state_dict()
        if how == "torch.save":
            file = io.BytesIO()
            torch.save(saved, file)
            saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
        resumed.load_state_dict(saved)
    assert [resumed.diagnostics(group) for group in range(2)] == [
        optimizer.diagnostics(group) for group in range(2)
    ]
    assert resumed.param_groups[1]["tuned_lr"] == optimizer.param_groups[1]["tuned_lr"]
    for seed in range(3, 5):
        for one, own in ((optimizer, params), (resumed, others)):
            give(own, seed)
            one.step()
    assert_same_bits(everything(optimizer, params), everything(resumed, others))


def test_groups_may_change_places(quick: Site, params: Params) -> None:
    """Each takes its state along."""
    others = copied(params)
    # codes are rounded by bits that depend on the place
    options = {"preconditioner": "diagonal"}
    stays, moves = of_groups(params, quick, **options), of_groups(others, quick, **options)
    for seed in range(4):
        if seed == 2:
            moves.param_groups.reverse()
        for optimizer, own in ((stays, params), (moves, others)):
            give(own, seed)
            optimizer.step()
    assert_same_bits(params, others)
    assert_same_bits(stays.param_groups[0]["tuner"], moves.param_groups[1]["tuner"])


@pytest.mark.parametrize("statistics", [True, False])
def test_reset(statistics: bool, quick: Site, params: Params) -> None:
    optimizer = of_groups(params, quick)
    for seed in range(3):
        give(params, seed)
        optimizer.step()
    optimizer.reset(statistics=statistics)
    steps = [optimizer.diagnostics(group)["step"] for group in range(2)]
    assert steps == ([0.0, 0.0] if statistics else [3.0, 3.0])
    fresh = copied(params)
    other = of_groups(fresh, quick)
    for one, own in ((optimizer, params), (other, fresh)):
        give(own, 3)
        one.step()
    if statistics:
        assert_same_bits(everything(optimizer, params), everything(other, fresh))


@pytest.mark.parametrize("saved", ["global", "group"])
def test_a_state_of_the_other_kind_is_refused(saved: str, quick: Site, params: Params) -> None:
    given = "group" if saved == "global" else "global"
    before = of_groups(params, quick, saved)
    give(params, 0)
    before.step()
    others = copied(params)
    optimizer = of_groups(others, quick, given)
    give(others, 0)
    optimizer.step()
    kept = everything(optimizer, others)
    with pytest.raises(RuntimeError, match=f"saved with tune='{saved}', .* has tune='{given}'"):
        optimizer.load_state_dict(before.state_dict())
    assert_same_bits(everything(optimizer, others), kept)


def test_a_state_dict_that_lost_one_is_refused(quick: Site, params: Params) -> None:
    optimizer = YellowFin([{"params": [p]} for p in params[0]], tune="group", backend=quick.backend)
    give(params[:1], 0)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][1]["tuner"] = "none"
    with pytest.raises(RuntimeError, match="the tuner's state is a str"):
        optimizer.load_state_dict(saved)
    del saved["param_groups"][1]["tuner"]
    with pytest.raises(RuntimeError, match="no 'tuner' in parameter group 1"):
        optimizer.load_state_dict(saved)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tune": "groups"}, "Invalid tune value: 'groups'; it must be 'global' or 'group'"),
        ({"tune": "group", "robust": False}, "Invalid tune value.* robust=False"),
        ({"tune": "group", "closed_loop": True}, "Invalid tune value.* closed_loop"),
        ({"tune": "group", "closed_loop": ClosedLoop()}, "Invalid tune value.* closed_loop"),
    ],
)
def test_bad_input(arguments: dict[str, Any], message: str, params: Params) -> None:
    with pytest.raises(ValueError, match=message):
        YellowFin(params[0], **arguments)


@pytest.mark.parametrize("tune", ["global", "group"])
def test_diagnostics_of_a_group(tune: str, quick: Site, params: Params) -> None:
    optimizer = of_groups(params, quick, tune)
    optimizer.param_groups[1]["lr"] = 0.5
    give(params, 0)
    optimizer.step()
    lrs = [optimizer.diagnostics(group)["lr"] for group in range(2)]
    assert lrs == optimizer.tuned_lrs() == [float(g["tuned_lr"]) for g in optimizer.param_groups]
    for group in (-1, 2):
        with pytest.raises(ValueError, match=f"Invalid group value: {group}"):
            optimizer.diagnostics(group)
    with pytest.raises(TypeError, match="Invalid group type: str"):
        optimizer.diagnostics("first")
    optimizer.param_groups.append({**optimizer.param_groups[1], "params": []})  # by hand
    assert optimizer.tuned_lrs() == [*lrs, 0.0]
    assert optimizer.diagnostics(2)["lr"] == 0.0


def test_its_options_may_not_differ_between_groups(quick: Site, params: Params) -> None:
    optimizer = of_groups(params[:1], quick)
    with pytest.raises(ValueError, match="tune"):
        optimizer.add_param_group({"params": params[1], "tune": "global"})
    optimizer.add_param_group({"params": params[1], "tune": "group"})
    assert "    tune: group\n" in repr(optimizer)


def test_an_lr_that_looks_like_a_learning_rate_is_told_once(quick: Site, params: Params) -> None:
    optimizer = of_groups(params, quick, lr=1e-3)
    healthy = of_groups(copied(params), quick)
    healthy.param_groups[1]["lr"] = 1e-3  # beside a group that moves, it is meant
    steps = partial(take, optimizer, params, 6)
    with pytest.warns(UserWarning, match="a multiplier on the step size") as told:
        steps()
    assert len(told) == 1
    take(healthy, params, 6)


def test_explanation(quick: Site, params: Params) -> None:
    optimizer = of_groups(params, quick)
    assert "group 1: 2 tensors of 1,025 elements, no step was taken yet" in optimizer.explain()
    for seed in range(3):
        give(params, seed, (0, 1) if seed else (0,))
        optimizer.step()
    text = optimizer.explain()
    assert text.startswith("YellowFin, each group tuned for itself\n")
    assert "\ngroup 0: 3 tensors of 33 elements, 3 steps taken\n" in text
    assert "\ngroup 1: 2 tensors of 1,025 elements, 2 steps taken\n" in text
    for lr in optimizer.tuned_lrs():
        assert f"step size  {lr:.3g} = 2 x lr 1 x" in text


def views(optimizer: YellowFin) -> list[Tensor]:
    return [group["tuner"] for group in optimizer.param_groups]


def test_states_stay_the_same_tensors(quick: Site, params: Params) -> None:
    optimizer = of_groups(params, quick)
    give(params, 0)
    optimizer.step()
    before = views(optimizer)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    give(params, 1)
    optimizer.step()
    assert all(a is b for a, b in zip(before, views(optimizer)))
