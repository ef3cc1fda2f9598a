"""Sums of tangents against a gradient on every backend, against NumPy in double precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracle import tangents as oracle
from oracle.vectors import Array
from support.cases import Site, assert_same_bits
from tangent_tables import SHAPES, STEPS, TOLERANCE, Model, Tensors, draw
from torch import Tensor

from yfkernels.ops.table import Column
from yfkernels.ops.tangents import (
    ADAM,
    MOMENTUM,
    PROJECTED,
    PROJECTION,
    Family,
    Projection,
    preconditioned,
    stored,
)

FORMS = {
    "own": stored(MOMENTUM.tangent()),
    "probe and tangent": stored(MOMENTUM.probe, MOMENTUM.tangent()),
    "buffer": stored(MOMENTUM.slot(0), MOMENTUM.tangent()),
    "tangent alone": stored(None, MOMENTUM.tangent()),
    "moments": preconditioned(ADAM.slot(0)),
    "moments and tangent": preconditioned(ADAM.slot(0), ADAM.tangent()),
}


def drawn_for(
    projection: Projection,
    shapes: Sequence[tuple[int, ...]],
    decays: bool,
    rng: np.random.Generator,
    dtype: torch.dtype = torch.float32,
) -> tuple[list[Tensors], Tensor]:
    """Tensors and coefficients of a projection. All have a Z; without a decay w is NaN."""
    family = ADAM if projection.columns == 2 else MOMENTUM
    tensors = [draw(family, shape, 3 * k + 1, dtype, rng) for k, shape in enumerate(shapes)]
    numbers = torch.from_numpy(rng.uniform(0.5, 2.0, (len(shapes), len(PROJECTION))))
    numbers[:, PROJECTION.index("scale")] *= -1.0
    if projection.own is None:
        decays = False
    if not decays:
        numbers[:, PROJECTION.index("decay")] = 0.0
        for each in tensors:
            each.values[Column.PARAM][...] = np.nan
    return tensors, numbers


def projected(projection: Projection, tensors: Tensors, numbers: Sequence[float]) -> Array:
    """The sums, and what they are relative to."""
    c, v = dict(zip(PROJECTION, numbers)), tensors.values
    e = v[Column.GRAD]
    own = reach = tangent = np.zeros_like(e)  # reach: of the terms of own
    if projection.own is not None:
        own = v[projection.own]
        if projection.columns == 2:
            second = v[Column(projection.own + 1)]
            own = c["averaged1"] * own / (np.sqrt(c["averaged2"] * second) + c["eps"])
        decayed = c["decay"] * v[Column.PARAM] if c["decay"] else np.zeros_like(e)
        own = c["scale"] * own + decayed
        reach = abs(own - decayed) + abs(decayed)
    if projection.tangent is not None:
        tangent = v[projection.tangent]
    sums = [
        oracle.dot(a, b)
        for a, b in ((e, own), (e, tangent), (e, e), (own, own), (tangent, tangent))
    ]
    sizes = [(e, reach), (e, tangent), (e, e), (reach, reach), (tangent, tangent)]
    return np.array([sums, [oracle.dot(abs(a), abs(b)) for a, b in sizes]])


def check_project(projection: Projection, model: Model, numbers: Tensor) -> Tensor:
    sums = torch.full((len(model.tensors), len(PROJECTED)), torch.nan, dtype=torch.float64)
    sums = sums.to(model.device)
    model.backend.project(projection, model.table, numbers.to(model.device), sums)
    for k, tensors in enumerate(model.tensors):
        if k not in model.present:
            assert sums[k].tolist() == [0.0] * len(PROJECTED)
            continue
        wanted, size = projected(projection, tensors, numbers[k].tolist())
        off = np.abs(sums[k].cpu().numpy() - wanted)
        assert (off <= TOLERANCE[model.table.dtype] * size).all(), f"tensor {k}: {off / size}"
    model.expect_untouched_but([set()] * len(model.tensors))
    return sums


@pytest.mark.parametrize("decays", [False, True], ids=["", "decay"])
@pytest.mark.parametrize("form", FORMS)
def test_project(site: Site, form: str, decays: bool, rng: np.random.Generator) -> None:
    projection = FORMS[form]
    shapes = [(1,), (3,), (1023,), (2049,), (5,)]
    tensors, numbers = drawn_for(projection, shapes, decays, rng)
    check_project(projection, Model(site, tensors, projection.reads, "offset"), numbers)


@pytest.mark.parametrize("form", FORMS)
def test_project_in_float64(form: str, rng: np.random.Generator) -> None:
    """On plain torch: to the last digits, and tensors without dimension."""
    projection = FORMS[form]
    drawn = drawn_for(projection, [(40, 3), (40_000,), (), (2,)], True, rng, torch.float64)
    site = Site("torch", "cpu")
    model = Model(site, drawn[0], projection.reads, "contiguous", torch.float64)
    check_project(projection, model, drawn[1])


@pytest.mark.parametrize("form", ["own", "moments and tangent"])
def test_project_several_chunks(site: Site, form: str, rng: np.random.Generator) -> None:
    """And the sums depend on no tensor's place in memory."""
    projection = FORMS[form]
    tensors, numbers = drawn_for(projection, [(65537,), (3000,), (5,)], True, rng)
    sums = [
        check_project(projection, Model(site, tensors, projection.reads, layout), numbers)
        for layout in ("contiguous", "offset")
    ]
    assert_same_bits(*sums)


@pytest.mark.parametrize("layout", ["transposed", "channels_last"])
def test_project_in_other_layouts(site: Site, layout: str, rng: np.random.Generator) -> None:
    projection = FORMS["probe and tangent"]
    tensors, numbers = drawn_for(projection, SHAPES[layout], True, rng)
    check_project(projection, Model(site, tensors, projection.reads, layout), numbers)


@pytest.mark.parametrize("family", [MOMENTUM, ADAM], ids=lambda family: family.name)
def test_the_step_leaves_enough_to_know_it(family: Family, rng: np.random.Generator) -> None:
    """B as own_derivatives has it before a step, from what is there after it."""
    tensors = [draw(family, (50,), k, torch.float64, rng) for k in (1, 3)]
    slots = [family.slot(k) for k in range(len(family.slots))]
    e = rng.standard_normal(50)
    wanted, numbers = [], []
    for each in tensors:
        m = each.options.momentum[0]
        each.options = o = replace(each.options, momentum=(m, 1.0, 0.0, 1.0), nus=(1.0, 1.0))
        own, v = each.own(), each.values
        wanted.append([oracle.dot(e, own), 0.0, oracle.dot(e, e), oracle.dot(own, own), 0.0])
        after = STEPS[family](o, o.lr, v[Column.PARAM], each.slots, v[Column.GRAD])
        v |= dict(zip((Column.PARAM, *slots), after))
        v[Column.GRAD] = e
        keep = 1.0 - o.lr * o.decoupled_decay
        debias = [1.0 / (1.0 - beta**o.step) for beta in o.betas]
        numbers.append([-1.0 / keep, -o.decoupled_decay / keep, *debias, o.eps])
    model = Model(Site("torch", "cpu"), [*tensors, tensors[0]], slots, dtype=torch.float64)
    sums = torch.zeros(3, len(PROJECTED), dtype=torch.float64)
    form = (preconditioned if family is ADAM else stored)(family.slot(0))
    given = torch.tensor([*numbers, numbers[0]], dtype=torch.float64)
    model.backend.project(form, model.table, given, sums)
    np.testing.assert_allclose(sums[:2].numpy(), wanted, rtol=1e-10, atol=1e-10)
