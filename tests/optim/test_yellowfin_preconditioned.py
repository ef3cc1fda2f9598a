"""What is special to a preconditioner: no absolute scale, late move_sums, its own clocks."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from support.cases import SMALL, Gradients, Group, Site, assert_same_bits, normal, specs
from support.cut_training import ROUNDS, Training, through_a_file
from support.kinds import KINDS, Kind
from torch import Tensor, nn

from yfkernels import YellowFin
from yfkernels.ops.constants import STATE_FIELDS

KIND = next(kind for kind in KINDS if kind.name == "YellowFin-diagonal")
EPS = torch.finfo(torch.float32).eps
FLOOR = 2.0**-16  # of the metric, in units of the gradient's root mean square
each_storage = pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.preconditioned], ids=str
)


def build(params: Any, site: Site, **options: Any) -> YellowFin:
    optimizer: YellowFin = KIND.build(params, backend=site.backend, **options)
    return optimizer


def parameters(
    rng: np.random.Generator, site: Site, *shapes: tuple[int, ...]
) -> list[nn.Parameter]:
    return [nn.Parameter(normal(rng, torch.empty(s)).float().to(site.device)) for s in shapes]


def step(optimizer: YellowFin, params: list[nn.Parameter], gradients: list[Tensor | None]) -> None:
    for p, g in zip(params, gradients, strict=True):
        p.grad = None if g is None else torch.empty_like(p).copy_(g)
    optimizer.step()


def everything(optimizer: YellowFin, params: list[nn.Parameter]) -> Any:
    """Copies of the parameters and of all that is saved."""
    return copy.deepcopy(([p.detach() for p in params], optimizer.state_dict()))


# ---- the metric


@pytest.mark.kernel_free
@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_loss_has_no_scale(factor: float, site: Site, rng: np.random.Generator) -> None:
    """Another unit of the loss changes no move: 1e-4 of the path, as in gpu/test_same_as_cpu.py."""
    ours, theirs = (parameters(np.random.default_rng(7), site, (40, 3), (7,)) for _ in range(2))
    options = {"weight_decay": 0.1, "decoupled_weight_decay": True}
    one, other = build(ours, site, **options), build(theirs, site, **options)
    start = [p.detach().clone() for p in ours]
    paths = [torch.zeros_like(p.detach()) for p in ours]
    for gradients in Gradients(40, factor={5: 1e2, 20: 0.0}).draw(rng, ours):
        before = [p.detach().clone() for p in ours]
        step(one, ours, gradients)
        step(other, theirs, [factor * g for g in gradients if g is not None])
        for path, p, old in zip(paths, ours, before, strict=True):
            path.add_((p.detach() - old).abs())
    for p, q, path, old in zip(ours, theirs, paths, start, strict=True):
        allowed = 1e-4 * path + 40 * EPS * old.abs()
        assert bool(((p - q).detach().abs() <= allowed).all())
    a, b = one.diagnostics(), other.diagnostics()
    for name in ("lr", "momentum", "distance_traveled", "clip_coefficient"):
        assert b[name] == pytest.approx(a[name], rel=1e-4)
    assert b["variance"] == pytest.approx(a["variance"] * factor**2, rel=1e-4)


def test_first_step_moves_every_element_by_lr(site: Site, rng: np.random.Generator) -> None:
    """Whatever its gradient: twice 1e-2 (1 + ‖x_0‖) of travel in all, half of it at once."""
    params = [nn.Parameter(torch.zeros(n, device=site.device)) for n in (300, 5)]
    optimizer = build(params, site)
    gradients = [normal(rng, p) * 10.0 ** normal(rng, p) for p in params]
    gradients[1][2] = 0.0
    step(optimizer, params, gradients)
    lr = optimizer.diagnostics()["lr"]
    assert lr == pytest.approx(1e-2 / math.sqrt(305.0), rel=1e-6)
    size = math.sqrt(sum(float(g.square().sum()) for g in gradients) / 305.0)
    for p, g in zip(params, gradients, strict=True):
        # of a gradient that is FLOOR times the mean, half the metric is floor
        expected = -lr * g / (g.abs() + FLOOR * size)
        torch.testing.assert_close(p.detach().cpu().double(), expected, rtol=8 * EPS, atol=0.0)


def test_parameter_that_comes_late_has_its_own_clock(site: Site, rng: np.random.Generator) -> None:
    """Its first move is one of lr, too: its square is debiased by its own steps."""
    early, late = (nn.Parameter(torch.zeros(9, device=site.device)) for _ in range(2))
    optimizer = build([early, late], site, clip=None)
    for _ in range(8):
        step(optimizer, [early, late], [normal(rng, early), None])
    assert not optimizer.state.get(late)
    g = normal(rng, late)
    step(optimizer, [early, late], [normal(rng, early), g])
    lr = optimizer.diagnostics()["lr"]
    tuner = optimizer.state_dict()["param_groups"][0]["tuner"]
    size = float(tuner[STATE_FIELDS.index("scale")])
    expected = -lr * g / (g.abs() + FLOOR * size)
    torch.testing.assert_close(late.detach().cpu().double(), expected, rtol=16 * EPS, atol=0.0)
    assert float(optimizer.state[early]["step"]) == 9.0
    assert float(optimizer.state[late]["step"]) == 1.0


@each_storage
def test_free_run_in_double_precision(
    kind: Kind, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oracle on its own from start to end, on nothing that the optimizer keeps."""
    groups = (
        Group(specs((6, 7), (19,), dtype=torch.float64), {"weight_decay": 1e-3}),
        Group(
            specs((2, 3, 4), dtype=torch.float64),
            {"lr": 0.5, "weight_decay": 0.01, "decoupled_weight_decay": True},
        ),
    )
    twin = kind.beside(Site("torch", "cpu"), groups, rng)
    monkeypatch.setattr(twin, "compare", lambda trace: None)  # only at the end
    gradients = Gradients(
        120,
        factor={1: 1e3, 15: 1e6, 30: 1e3, 50: 0.0, 51: 0.0, 80: 1e6},
        poison={7: np.nan, 45: np.inf},
        present=lambda step, i: not (i == 1 and step < 10) and not (i == 2 and 60 <= step < 70),
    )
    twin.run(gradients, rng)
    trace = twin.oracle.last
    seen = twin.optimizer.diagnostics()
    assert seen == pytest.approx({name: getattr(trace, name) for name in seen}, rel=1e-8)
    twin.assert_near(
        [1e-8 * (1.0 + np.abs(p)) for g in twin.oracle.groups for p in g.params], trace.step
    )


# ---- what an update move_sums is read in the step after it


def test_move_sums_are_read_one_step_late(site: Site, rng: np.random.Generator) -> None:
    """A gradient shows in the curvature, variance and radius of the next step, not of its own."""
    runs = []
    for seed in (1, 2):
        params = parameters(np.random.default_rng(0), site, (30,))
        runs.append((build(params, site), params, np.random.default_rng(seed)))
    late = ("h_min", "h_max", "variance", "distance", "distance_traveled", "momentum")
    first = normal(rng, torch.empty(30))

    def diagnostics() -> list[dict[str, float]]:
        return [{name: o.diagnostics()[name] for name in late} for o, _, _ in runs]

    for optimizer, params, _ in runs:
        step(optimizer, params, [first])
    for name in ("h_min", "h_max", "variance", "distance"):
        assert [seen[name] for seen in diagnostics()] == [0.0, 0.0]
    for optimizer, params, own in runs:
        step(optimizer, params, [normal(own, first)])
    one, other = diagnostics()
    assert one == other
    scale = float(first.norm()) / 30**0.5
    summed = (first.square() / (first.abs() + FLOOR * scale)).sum()  # in units of the scale
    assert one["h_max"] == pytest.approx(scale * float(summed), rel=1e-5)
    for optimizer, params, own in runs:
        step(optimizer, params, [normal(own, first)])
    one, other = diagnostics()
    assert all(one[name] != other[name] for name in ("variance", "distance"))


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


@pytest.mark.kernel_free
@each_storage
@pytest.mark.parametrize("cut", [1, 2, 9])
@pytest.mark.parametrize("options", [{}, ROUNDS], ids=["masters", "rounded"])
def test_move_sums_survive_every_way_of_saving(
    options: dict[str, Any], cut: int, kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """What was summed and not read goes along: bit for bit as without the cut."""
    run = Training(kind, site, rng, torch.bfloat16, **options)
    run.train(run.optimizer, run.params, 0, cut)
    copies: list[tuple[Any, Any]] = [
        duplicate((run.optimizer, run.params)) for duplicate in (copy.deepcopy, pickled)
    ]
    fresh = run.copy_params()
    loaded = run.build(fresh)
    loaded.load_state_dict(through_a_file(run.optimizer.state_dict()))
    copies.append((loaded, fresh))
    twice = run.copy_params()  # saved again before a step has read anything
    again = run.build(twice)
    again.load_state_dict(through_a_file(loaded.state_dict()))
    copies.append((again, twice))

    run.train(run.optimizer, run.params, cut, 12)
    for optimizer, params in copies:
        run.train(optimizer, params, cut, 12)
        assert_same_bits(
            everything(run.optimizer, run.params), everything(optimizer, params), "after the cut"
        )
        assert_same_bits(run.optimizer.diagnostics(), optimizer.diagnostics())


@pytest.mark.kernel_free
def test_move_sums_survive_a_new_plan(site: Site, rng: np.random.Generator) -> None:
    """A parameter group that is added, settings that change: read with what was summed before."""
    twin = KIND.beside(site, SMALL, rng, weight_decay=0.1)
    gradients = Gradients(3)
    twin.run(gradients, rng)
    twin.add_group(
        Group(specs((8,)), {"lr": 0.3, "weight_decay": 0.2, "decoupled_weight_decay": True}), rng
    )
    twin.run(gradients, rng)
    for index, lr in ((0, 0.0), (0, 2.0), (1, 0.0)):
        twin.optimizer.param_groups[index]["lr"] = lr
        twin.oracle.groups[index].lr = lr
        twin.run(gradients, rng)


# ---- steps that are none


@pytest.mark.kernel_free
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("taken", [0, 1, 5])
@pytest.mark.parametrize("value", [0.0, math.nan, math.inf, -math.inf, 1e25])
def test_nothing_to_learn_from(
    value: float, taken: int, decoupled: bool, site: Site, rng: np.random.Generator
) -> None:
    """Zeros and what is not finite leave parameters, state, clocks and tuner alone."""
    params = parameters(rng, site, (30, 5), (7,))
    options = {"weight_decay": 0.1, "decoupled_weight_decay": decoupled}
    optimizer = build(params, site, **options)
    witnesses = [nn.Parameter(p.detach().clone()) for p in params]
    witness = build(witnesses, site, **options)
    trace = list(Gradients(taken + 3).draw(rng, params))
    for gradients in trace[:taken]:
        step(optimizer, params, gradients)
        step(witness, witnesses, gradients)
    bad = [torch.zeros_like(p) for p in params]
    if value:
        bad = [torch.ones_like(p) for p in params]
        bad[0][3, 2] = value
    before = everything(optimizer, params)
    step(optimizer, params, list(bad))
    after = everything(optimizer, params)
    assert optimizer.diagnostics()["skipped_steps"] == (1.0 if value else 0.0)
    if taken:
        tuner = before[1]["param_groups"][0]["tuner"]
        changed = (tuner != after[1]["param_groups"][0]["tuner"]).nonzero().flatten().tolist()
        assert len(changed) == (1 if value else 0)  # the count of skipped steps
        tuner[changed] += 1.0
        assert_same_bits(before, after, "everything")
    else:
        assert_same_bits(before[0], after[0], "parameters")
        assert not any(t.any() for state in after[1]["state"].values() for t in state.values())
    for gradients in trace[taken:]:  # and as if it had not been
        step(optimizer, params, gradients)
        step(witness, witnesses, gradients)
    assert_same_bits([p.detach() for p in witnesses], [p.detach() for p in params])
    assert_same_bits(witness.state_dict()["state"], optimizer.state_dict()["state"])


@pytest.mark.kernel_free
@pytest.mark.parametrize("decoupled", [False, True])
def test_group_of_lr_0_stands_still(decoupled: bool, site: Site, rng: np.random.Generator) -> None:
    """At once, whatever momentum it had; it goes on from rest."""
    params = parameters(rng, site, (12,), (5, 5))
    options = {"weight_decay": 0.1, "decoupled_weight_decay": decoupled}
    optimizer = build([{"params": [p]} for p in params], site, **options)
    trace = list(Gradients(8).draw(rng, params))
    for gradients in trace[:4]:
        step(optimizer, params, gradients)
    assert bool(optimizer.state[params[1]]["momentum_buffer"].any())
    optimizer.param_groups[1]["lr"] = 0.0
    for gradients in trace[4:7]:
        before = [p.detach().clone() for p in params]
        step(optimizer, params, gradients)
        assert_same_bits(before[1], params[1].detach(), "lr 0")
        assert not torch.equal(before[0], params[0])
        assert not bool(optimizer.state[params[1]]["momentum_buffer"].any())
        assert optimizer.tuned_lrs()[1] == 0.0
    assert float(optimizer.state[params[1]]["step"]) == 7.0  # its metric is up to date
    optimizer.param_groups[1]["lr"] = 1.0
    step(optimizer, params, trace[7])
    assert not torch.equal(before[1], params[1])


# ---- decoupled decay


@pytest.mark.kernel_free
@pytest.mark.parametrize("decay", [0.01, 1.0, 1e4])
def test_decoupled_decay(decay: float, site: Site, rng: np.random.Generator) -> None:
    """x keeps 1 - lr wd / (1 - mu), which compares with AdamW's, and is never turned around."""
    params = parameters(rng, site, (50,))
    optimizer = build(params, site, lr=3.0, weight_decay=decay, decoupled_weight_decay=True)
    for gradients in Gradients(8).draw(rng, params):
        before = params[0].detach().double()
        step(optimizer, params, gradients)
        seen = optimizer.diagnostics()
        travel = seen["lr"] / (1.0 - seen["momentum"])
        assert travel * decay <= 1.0 + 1e-12
        velocity = optimizer.state[params[0]]["momentum_buffer"].double()
        expected = (1.0 - travel * decay) * before + velocity
        allowed = 2.0 * EPS * (before.abs() + velocity.abs())
        assert bool(((params[0].detach() - expected).abs() <= allowed).all())
    if decay == 1e4:
        assert travel * decay == pytest.approx(1.0, rel=1e-12)


@pytest.mark.kernel_free
def test_coupled_decay_has_no_bound(site: Site, rng: np.random.Generator) -> None:
    """It goes through the metric: u is of order 1 however strong the decay."""
    params = parameters(rng, site, (50,))
    optimizer = build(params, site, weight_decay=1e4)
    expected = 1e-2 * (1.0 + float(params[0].detach().norm())) / math.sqrt(50.0)
    step(optimizer, params, [normal(rng, params[0])])
    assert optimizer.diagnostics()["lr"] == pytest.approx(expected, rel=1e-5)
    assert expected > 0.5 / 1e4
