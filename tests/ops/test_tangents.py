"""Tangents of steps on every backend, against the steps themselves differentiated in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.cases import Site, assert_same_bits, why_unusable
from tangent_tables import SHAPES, Model, all_columns, draw

from yfkernels.ops.table import Column
from yfkernels.ops.tangents import FAMILIES, PROJECTED, PROJECTION, Family, stored

of_every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
in_every_layout = pytest.mark.parametrize("layout", SHAPES)


def check_advance(model: Model, family: Family) -> None:
    model.backend.advance_tangents(family, model.table, model.coefficients())
    z = [family.tangent(k) for k in range(family.tangents)]
    for k in model.present:
        tensors = model.tensors[k]
        (sizes, own_size), wanted = tensors.sizes(), tensors.advanced()
        for column, values, size in zip(z, wanted, sizes, strict=True):
            model.expect(k, column, values, size)
        if tensors.keeps_own:
            model.expect(k, family.probe, tensors.own(), own_size)
    kept = [{family.probe} if tensors.keeps_own else set() for tensors in model.tensors]
    model.expect_untouched_but([{*z, *own} for own in kept])


@in_every_layout
@of_every_family
def test_advance(site: Site, family: Family, layout: str, rng: np.random.Generator) -> None:
    tensors = [draw(family, s, k, torch.float32, rng) for k, s in enumerate(SHAPES[layout])]
    check_advance(Model(site, tensors, all_columns(family), layout), family)


@of_every_family
def test_advance_of_several_chunks(site: Site, family: Family, rng: np.random.Generator) -> None:
    tensors = [draw(family, (n,), k, torch.float32, rng) for k, n in enumerate((65537, 5))]
    check_advance(Model(site, tensors, all_columns(family), "offset"), family)


@of_every_family
def test_advance_in_float64(family: Family, rng: np.random.Generator) -> None:
    """On plain torch: to the last digits, and tensors without dimension."""
    tensors = [
        draw(family, shape, k, torch.float64, rng)
        for k, shape in enumerate([(40, 3), (200,), (), (), (2,)])
    ]
    site = Site("torch", "cpu")
    check_advance(Model(site, tensors, all_columns(family), "contiguous", torch.float64), family)


@of_every_family
def test_advance_of_half_parameters(family: Family, rng: np.random.Generator) -> None:
    """On plain torch, with float32 tangents: as of the same numbers in float32."""
    tensors = [draw(family, (100,), k, torch.bfloat16, rng) for k in range(3)]
    model = Model(Site("torch", "cpu"), tensors, all_columns(family))
    for k, row in enumerate(model.table.rows):
        row.columns[Column.PARAM] = row.param.bfloat16()
        model.grads[k] = model.grads[k].bfloat16()
    model.bind()
    check_advance(model, family)


@in_every_layout
@of_every_family
def test_own_derivatives(site: Site, family: Family, layout: str, rng: np.random.Generator) -> None:
    """Without a probe, and without the slots' tangents."""
    tensors = [draw(family, s, k, torch.float32, rng) for k, s in enumerate(SHAPES[layout])]
    columns = [family.slot(k) for k in range(len(family.slots))] + [family.tangent()]
    model = Model(site, tensors, columns, layout)
    model.backend.own_derivatives(family, model.table, model.coefficients())
    for k in model.present:
        model.expect(k, family.tangent(), tensors[k].own(), tensors[k].sizes()[1])
    model.expect_untouched_but([{family.tangent()}] * len(tensors))


# ---- threads

NATIVE = Site("native", "cpu")


@pytest.mark.skipif(why_unusable(NATIVE) is not None, reason=str(why_unusable(NATIVE)))
@of_every_family
def test_the_same_on_any_number_of_threads(
    family: Family, rng: np.random.Generator, threads: None
) -> None:
    tensors = [draw(family, (n,), 0, torch.float32, rng) for n in (150_001, 70_000, 3)]
    projection = stored(family.probe, family.tangent())
    found = []
    for num_threads in (1, 2, 5):
        torch.set_num_threads(num_threads)
        model = Model(NATIVE, tensors, all_columns(family))
        model.backend.advance_tangents(family, model.table, model.coefficients())
        sums = torch.zeros(len(tensors), len(PROJECTED), dtype=torch.float64)
        numbers = torch.ones(len(tensors), len(PROJECTION), dtype=torch.float64)
        model.backend.project(projection, model.table, numbers, sums)
        found.append([sums, *model.columns])
    assert_same_bits(found[1:], [found[0], found[0]])
