"""Awkward sizes, layouts and dtypes; the neighbours of a parameter stay untouched."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from support.cases import (
    Gradients,
    Group,
    Site,
    Spec,
    assert_same_bits,
    lay_out,
    memory_order,
    normal,
    specs,
)
from support.kinds import Kind

from yfkernels import YellowFin

SIZES = (0, 1, 3, 1023, 1025)
# channels_last and transposed are dense; offset is too, but out of line with vector loads
LAYOUTS = ("transposed", "channels_last", "strided", "offset")
HALF = (torch.bfloat16, torch.float16)
SHORT = Gradients(4)


@pytest.mark.parametrize("size", SIZES)
def test_one_tensor(size: int, kind: Kind, site: Site, rng: np.random.Generator) -> None:
    groups = (Group(specs((size,), (2,))),)  # a second one, so that some gradient exists
    kind.beside(site, groups, rng, weight_decay=0.1).run(SHORT, rng)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_sizes_at_once(
    dtype: torch.dtype, kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """Several chunks, empty tensors first, last and between."""
    sizes = (0, *SIZES, 65537, 0)
    groups = (Group(specs(*((n,) for n in sizes), dtype=dtype)), Group(specs((0, 3), dtype=dtype)))
    steps = 2 if site.interpreted else 5
    kind.beside(site, groups, rng).run(Gradients(steps), rng)


@pytest.mark.kernel_free
def test_only_empty_tensors(kind: Kind, site: Site) -> None:
    """There is nothing to measure and nothing to move."""
    params = [torch.nn.Parameter(torch.empty(s, device=site.device)) for s in ((0,), (3, 0))]
    optimizer = kind.build(params, backend=site.backend)
    for _ in range(3):
        for p in params:
            p.grad = torch.empty_like(p)
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())


def test_many_small_tensors(kind: Kind, site: Site, rng: np.random.Generator) -> None:
    count = 12 if site.interpreted else 700
    kind.beside(site, (Group(specs(*[(3,)] * count)),), rng).run(SHORT, rng)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout(
    layout: str, dtype: torch.dtype, kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    groups = (Group((Spec((3, 4, 5, 7), dtype, layout), Spec((9,), dtype))),)
    kind.beside(site, groups, rng).run(SHORT, rng)


@pytest.mark.parametrize("shift", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_gradient_and_parameter_aligned_differently(
    dtype: torch.dtype, shift: int, kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """Views of one flat buffer, as sharded and flattened training makes them."""
    twin = kind.beside(site, (Group((Spec((1021,), dtype, "offset"), Spec((37,), dtype))),), rng)
    flat = torch.zeros(2000, dtype=dtype, device=site.device)
    for gradients in SHORT.draw(rng, twin.params):
        start = shift
        for p, g in zip(twin.params, gradients, strict=True):
            p.grad = flat[start : start + p.numel()].copy_(g)
            start += p.numel()
        twin.step()
    twin.assert_canaries_alive()


@pytest.mark.parametrize("layout", [*LAYOUTS, "contiguous", "expanded"])
def test_gradient_strides_change(
    layout: str, kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """Autograd hands over whatever strides it has, stride 0 from `p.sum()` included."""
    groups = (Group((Spec((2, 3, 4, 5)), Spec((2, 3, 4, 5), layout="channels_last"))),)
    twin = kind.beside(site, groups, rng)
    for step, gradients in enumerate(SHORT.draw(rng, twin.params)):
        twin.set_gradients(gradients)
        if step >= 2:
            for p in twin.params:
                assert p.grad is not None
                if layout == "expanded":
                    p.grad = p.grad.mean().expand(p.shape)
                else:
                    p.grad = lay_out(p.grad, layout)[0]
        twin.step()


@pytest.mark.parametrize(
    "dtype", [*HALF, torch.float64, torch.complex64, torch.complex128], ids=str
)
def test_dtype(dtype: torch.dtype, kind: Kind, site: Site, rng: np.random.Generator) -> None:
    groups = (Group(specs((33, 31), (7,), (), dtype=dtype)),)
    options = {"weight_decay": 0.01}
    if kind.optimizer is YellowFin:
        forms = ["polyak"] if kind.robust else ["buffer", "polyak"]
        options["momentum_form"] = str(rng.choice(forms))
    gradients = Gradients(
        6, factor={3: 1e2}, poison={4: np.nan}, present=lambda k, i: k > 1 or i > 0
    )
    kind.beside(site, groups, rng, **options).run(gradients, rng)


def test_dtypes_mixed(kind: Kind, site: Site, rng: np.random.Generator) -> None:
    """One set of statistics over parameters that different kernels (and backends) serve."""
    kinds = (torch.float32, *HALF, torch.float64, torch.complex64)
    groups = tuple(Group((Spec((5, 9), dtype), Spec((4,), dtype))) for dtype in kinds)
    kind.beside(site, groups, rng).run(Gradients(5, factor={3: 1e2}), rng)


@pytest.mark.parametrize("dtype", HALF)
def test_half_gradients_do_not_overflow(
    dtype: torch.dtype, kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """Squares beyond float16, and a sum of squares far beyond it."""
    unclipped = {"clip": None} if kind.optimizer is YellowFin else {}
    twin = kind.beside(site, (Group(specs((2000,), dtype=dtype)),), rng, **unclipped)
    for _ in range(3):
        twin.step([1e3 * normal(rng, twin.params[0])])
    assert twin.optimizer.diagnostics()["grad_norm"] > 3e4


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.kernel_free
@pytest.mark.filterwarnings("ignore:lr=0.01 is not a learning rate")
def test_half_parameters_take_small_steps(
    dtype: torch.dtype, kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """Moves far below the parameter's own precision add up in the float32 master copy."""
    p = torch.nn.Parameter(torch.ones(8, dtype=dtype, device=site.device))
    slow = {"lr": 0.01 if kind.robust else 1e-4}
    if kind.optimizer is YellowFin and not kind.robust:
        slow = {}
    optimizer = kind.build([p], backend=site.backend, **slow)
    for step in range(100):
        p.grad = torch.ones_like(p)
        optimizer.step()
        if step == 0:
            assert (p.detach() == 1.0).all()
    assert (p.detach() < 1.0).all()
    state = optimizer.state[p]
    assert state.keys() == kind.state | {"master"}
    floats = {t.dtype for name, t in state.items() if not name.endswith("_codes")}
    assert floats == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float32, *HALF, torch.float64], ids=str)
def test_values_written_by_the_user(
    dtype: torch.dtype, kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """Loading weights or clamping them between steps counts, master copy or not."""
    twin = kind.beside(site, (Group(specs((50,), (3,), dtype=dtype)),), rng)
    gradients = list(Gradients(6).draw(rng, twin.params))
    for g in gradients[:3]:
        twin.step(g)
    param, group = twin.params[0], twin.oracle.groups[0]
    before = memory_order(param, param).copy()
    with torch.no_grad():
        param.copy_(normal(rng, param))
    written = memory_order(param, param)
    # a half that happens to be written over by itself leaves its master as it was
    group.params[0] = np.where(written == before, group.params[0], written)
    for g in gradients[3:]:
        twin.step(g)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
def test_data_replaced_by_another_tensor(
    layout: str, kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """`p.data = ...`: a new address, and after module.to(memory_format=...) new strides."""
    twin = kind.beside(site, (Group((Spec((2, 3, 4, 5)), Spec((6,)))),), rng)
    before = twin.params[0]
    gradients = list(Gradients(6).draw(rng, twin.params))
    for g in gradients[:3]:
        twin.step(g)
    old = before.data
    kept = old.clone()
    before.data = lay_out(old, layout)[0]
    if layout != "contiguous":
        # The oracle keeps flat arrays in memory order: put them in the new order, too.
        order = torch.arange(old.numel(), dtype=torch.float64).view(old.shape)
        new_order = memory_order(order, before).astype(int)
        for arrays in twin.elementwise():
            arrays[0] = arrays[0][new_order]
    for g in gradients[3:]:
        twin.step(g)
    assert_same_bits(old, kept, "the tensor that was replaced")


def test_data_transposed_in_place(kind: Kind, site: Site, rng: np.random.Generator) -> None:
    """The same address and shape, but other strides: element (i, j) is now (j, i)."""
    twin = kind.beside(site, (Group(specs((6, 6), (4,))),), rng)
    gradients = list(Gradients(6).draw(rng, twin.params))
    for g in gradients[:3]:
        twin.step(g)
    p = twin.params[0]
    p.data = p.data.t()
    # State belongs to logical elements: in the new memory order it is transposed, values are not,
    # nor are their errors, to which those of the state are added.
    group = twin.oracle.groups[0]
    path = group.path[0]
    for arrays in twin.elementwise():
        if arrays is not group.params and arrays is not getattr(twin, "roundings", None):
            arrays[0] = arrays[0].reshape(6, 6).T.reshape(-1)
    group.path[0] = np.maximum(path, group.path[0])
    for g in gradients[3:]:
        twin.step(g)


def test_gradient_tensors_may_be_reused_or_fresh(
    kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """The same address, a new one, one of another parameter: pointers are read every step."""
    twin = kind.beside(site, (Group(specs((40,), (40,), (40,))),), rng)
    pool = [torch.zeros(40, device=site.device) for _ in range(4)]
    for k, gradients in enumerate(Gradients(8).draw(rng, twin.params)):
        for i, (p, g) in enumerate(zip(twin.params, gradients, strict=True)):
            p.grad = pool[(i + k) % 4].copy_(g) if k % 3 else g.to(site.device, p.dtype)
        twin.step()
    addresses = [p.data_ptr() for p in twin.params]
    assert all(a != b for a, b in pairwise(addresses))
