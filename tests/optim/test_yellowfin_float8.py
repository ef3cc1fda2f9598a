"""What is special to momentum_dtype=torch.float8_e4m3fn: bytes, their unit, and conversions."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from oracle.codes import LARGEST, numbers_of_float8
from support.cases import Gradients, Site, assert_same_bits, lay_out, normal
from support.cut_training import through_a_file
from support.kinds import KINDS
from torch import Tensor, nn

from yfkernels import YellowFin
from yfkernels.ops import float8
from yfkernels.ops.constants import STATE_FIELDS

pytestmark = pytest.mark.kernel_free
KIND = next(kind for kind in KINDS if kind.name == "YellowFin-float8")
COMPACT = next(kind for kind in KINDS if kind.name == "YellowFin")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.complex64)
UNIT = STATE_FIELDS.index("unit")


def step(optimizer: YellowFin, params: list[nn.Parameter], gradients: list[Tensor | None]) -> None:
    for p, g in zip(params, gradients, strict=True):
        p.grad = None if g is None else torch.empty_like(p).copy_(g)
    optimizer.step()


def unit_of(optimizer: YellowFin) -> float:
    return float(optimizer.param_groups[0]["tuner"][UNIT])


def velocity_of(optimizer: YellowFin, p: nn.Parameter) -> Tensor:
    return unit_of(optimizer) * float8.numbers(optimizer.state[p]["momentum_codes"]).double()


def trained(
    kind: Any, site: Site, rng: np.random.Generator, steps: int = 5, **options: Any
) -> tuple[YellowFin, nn.Parameter]:
    p = nn.Parameter(normal(rng, torch.empty(300)).float().to(site.device))
    optimizer = kind.build([p], backend=site.backend, **options)
    for gradients in Gradients(steps).draw(rng, [p]):
        step(optimizer, [p], gradients)
    return optimizer, p


# ---- what is kept


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bytes_stay_bytes(dtype: torch.dtype, site: Site, rng: np.random.Generator) -> None:
    """Loading into parameters of another dtype or layout neither casts nor moves them."""
    values = normal(rng, torch.empty((2, 3, 4, 5), dtype=dtype)).to(site.device, dtype)
    p = nn.Parameter(lay_out(values, "channels_last")[0])
    optimizer = KIND.build([p], backend=site.backend)
    for gradients in Gradients(4).draw(rng, [p]):
        step(optimizer, [p], gradients)
    bits = optimizer.state[p]["momentum_codes"]
    like = torch.view_as_real(p.detach()) if p.is_complex() else p.detach()
    assert (bits.dtype, bits.shape, bits.stride()) == (torch.uint8, like.shape, like.stride())
    assert len(bits.unique()) > 10
    saved = through_a_file(optimizer.state_dict())
    for layout in ("channels_last", "contiguous"):
        q = nn.Parameter(lay_out(values, layout)[0])
        other = KIND.build([q], backend=site.backend)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            other.load_state_dict(saved)
        assert torch.equal(other.state[q]["momentum_codes"], bits)
        assert_same_bits(other.state_dict()["state"], saved["state"])


def test_takes_two_bytes_a_parameter(site: Site, rng: np.random.Generator) -> None:
    optimizer, p = trained(KIND, site, rng)
    held = [t for name, t in optimizer.state[p].items() if name != "step"]
    assert sum(t.numel() * t.element_size() for t in held) == 2 * p.numel()


def test_follows_the_float32_velocity(site: Site, rng: np.random.Generator) -> None:
    """Right on average: each step's rounding is a coin of its own."""
    size, steps = 3000, 60
    p, q = (nn.Parameter(torch.zeros(size, device=site.device)) for _ in range(2))
    ours, theirs = KIND.build([p], backend=site.backend), COMPACT.build([q], backend=site.backend)
    for _ in range(steps):
        g = [normal(rng, p) + 0.5]
        step(ours, [p], g)
        step(theirs, [q], g)
    seen, exact = velocity_of(ours, p), theirs.state[q]["momentum_buffer"].double()
    # a rounding's deviation is at most an eighth of what is rounded; seven of their mean, for
    # two hundred steps of memory at most
    allowed = 7.0 * float(exact.abs().max()) / 8.0 * (steps / size) ** 0.5
    assert float(seen.mean()) == pytest.approx(float(exact.mean()), abs=allowed)
    assert float((seen - exact).abs().mean()) < 0.5 * float(exact.abs().mean())
    assert torch.equal(torch.sign(p.sum()), torch.sign(q.sum()))


def test_a_parameter_without_gradients_keeps_its_bits(site: Site, rng: np.random.Generator) -> None:
    """So its velocity keeps its size beside that of the others."""
    params = [nn.Parameter(torch.zeros(50, device=site.device)) for _ in range(2)]
    optimizer = KIND.build(params, backend=site.backend)
    for _ in range(4):
        step(optimizer, params, [normal(rng, p) for p in params])
    before, unit = optimizer.state[params[1]]["momentum_codes"].clone(), unit_of(optimizer)
    for _ in range(4):
        step(optimizer, params, [normal(rng, params[0]), None])
    assert torch.equal(optimizer.state[params[1]]["momentum_codes"], before)
    assert unit_of(optimizer) != unit


def test_a_parameter_that_moves_to_another_group(site: Site, rng: np.random.Generator) -> None:
    """With a tuner for each group: it takes its velocity along, whatever the unit there."""
    moves = []
    for kind in (KIND, COMPACT):
        draws = np.random.default_rng(7)
        sizes = (0.01, 100.0, 0.01)
        *params, moved = [
            nn.Parameter(torch.full((40,), size, device=site.device)) for size in sizes
        ]
        groups = [{"params": [params[0], moved]}, {"params": [params[1]]}]
        optimizer = kind.build(groups, backend=site.backend, tune="group")
        for _ in range(12):
            given = [normal(draws, p).float().to(site.device) for p in (*params, moved)]
            step(optimizer, [*params, moved], [given[0], given[1], given[2] + 1.0])
        first, second = optimizer.param_groups
        first["params"].pop()
        second["params"].append(moved)
        before = moved.detach().clone()
        step(optimizer, [*params, moved], [given[0], given[1], torch.zeros(40)])
        moves.append(float((moved.detach() - before).norm()))
    assert moves[0] == pytest.approx(moves[1], rel=0.1)


@pytest.mark.parametrize("first", [1e-5, 1e-8, 1e-10])
def test_a_first_gradient_that_is_tiny(first: float, site: Site, rng: np.random.Generator) -> None:
    """The next one is clipped to nearly nothing, and the unit follows the move, not the clip."""
    moves = []
    for kind in (KIND, COMPACT):
        draws = np.random.default_rng(7)
        p = nn.Parameter(torch.full((2000,), 0.5, device=site.device))
        optimizer = kind.build([p], backend=site.backend)
        for k in range(8):
            before = p.detach().clone()
            g = normal(draws, p).float() * (first if k == 0 else 1.0)
            step(optimizer, [p], [g])
        moves.append(p.detach() - before)
    assert float((moves[0] - moves[1]).norm()) < 0.2 * float(moves[1].norm())


def test_velocities_that_the_unit_has_no_room_for(site: Site, rng: np.random.Generator) -> None:
    """When steps become a million times shorter at once: the largest number, no infinity."""
    optimizer, p = trained(KIND, site, rng)
    saved = optimizer.state_dict()
    saved["param_groups"][0]["tuner"][UNIT] *= 1e6
    optimizer.load_state_dict(saved)
    before = optimizer.state[p]["momentum_codes"].clone()
    step(optimizer, [p], [torch.zeros(300)])  # nothing is learnt from that, and nothing moves
    assert torch.equal(optimizer.state[p]["momentum_codes"], before)
    step(optimizer, [p], [normal(rng, p)])
    seen = numbers_of_float8(optimizer.state[p]["momentum_codes"].cpu().numpy())
    assert float(np.median(abs(seen))) == LARGEST
    assert bool(p.isfinite().all())


def test_reset_of_the_statistics_forgets_velocities(site: Site, rng: np.random.Generator) -> None:
    """Without their unit they stand for nothing."""
    optimizer, p = trained(KIND, site, rng)
    optimizer.reset(state=False)
    old = optimizer.state[p]["momentum_codes"].clone()
    fresh_p = nn.Parameter(p.detach().clone())
    fresh = KIND.build([fresh_p], backend=site.backend)
    for name in ("exp_avg_sq_codes", "step"):
        fresh.state[fresh_p][name] = optimizer.state[p][name].clone()
    fresh.state[fresh_p]["momentum_codes"] = torch.zeros_like(old)
    g: list[Tensor | None] = [normal(rng, p)]
    step(optimizer, [p], g)
    step(fresh, [fresh_p], g)
    assert_same_bits(p.detach(), fresh_p.detach())


# ---- from float32 and back


def converted(optimizer: YellowFin, kind: Any, p: nn.Parameter, site: Site) -> Any:
    q = nn.Parameter(p.detach().clone())
    other = kind.build([q], backend=site.backend)
    with pytest.warns(UserWarning, match="saved with another momentum_dtype"):
        other.load_state_dict(through_a_file(optimizer.state_dict()))
    return other, q


def test_a_float32_state_is_rounded(site: Site, rng: np.random.Generator) -> None:
    optimizer, p = trained(COMPACT, site, rng)
    frozen = copy.deepcopy(optimizer.state_dict())
    other, q = converted(optimizer, KIND, p, site)
    assert_same_bits(optimizer.state_dict(), frozen)
    assert unit_of(other) == unit_of(optimizer) > 0.0
    exact = optimizer.state[p]["momentum_buffer"].double()
    seen = velocity_of(other, q)
    assert bool(((seen - exact).abs() <= 0.126 * exact.abs() + 2.0**-17 * unit_of(other)).all())
    assert other.state[q].keys() == KIND.state
    step(other, [q], [normal(rng, q)])


def test_a_float8_state_is_widened(site: Site, rng: np.random.Generator) -> None:
    optimizer, p = trained(KIND, site, rng)
    other, q = converted(optimizer, COMPACT, p, site)
    seen = other.state[q]["momentum_buffer"]
    assert seen.dtype is torch.float32
    torch.testing.assert_close(seen.double(), velocity_of(optimizer, p), rtol=1e-6, atol=0.0)
    assert other.state[q].keys() == COMPACT.state
    step(other, [q], [normal(rng, q)])


def test_what_a_reset_has_forgotten_stays_forgotten(site: Site, rng: np.random.Generator) -> None:
    """The bytes are still there, and stand for nothing."""
    optimizer, p = trained(KIND, site, rng)
    optimizer.reset(state=False)
    assert optimizer.state[p]["momentum_codes"].any()
    other, q = converted(optimizer, COMPACT, p, site)
    assert not other.state[q]["momentum_buffer"].any()


def test_nothing_is_converted_before_the_first_step(site: Site, rng: np.random.Generator) -> None:
    optimizer, p = trained(COMPACT, site, rng, steps=1)
    optimizer.reset(state=False)
    optimizer.state[p]["momentum_buffer"].zero_()
    other, q = converted(optimizer, KIND, p, site)
    assert not other.state[q]["momentum_codes"].any()


def test_a_state_that_was_saved_without_a_unit(site: Site, rng: np.random.Generator) -> None:
    """It gets that of the last step without the clip, and its velocities are counted in that."""
    optimizer, p = trained(COMPACT, site, rng, steps=8, clip=None)
    unit = unit_of(optimizer)
    saved = optimizer.state_dict()
    tuner = saved["param_groups"][0]["tuner"]
    without = torch.cat([tuner[:UNIT], tuner[UNIT + 1 :]])
    without[1] = len(STATE_FIELDS) - 1.0
    saved["param_groups"][0]["tuner"] = without
    q = nn.Parameter(p.detach().clone())
    other = KIND.build([q], backend=site.backend, clip=None)
    with pytest.warns(UserWarning, match="momentum_dtype"):
        other.load_state_dict(saved)
    assert unit_of(other) == pytest.approx(unit, rel=1e-9)
    exact = optimizer.state[p]["momentum_buffer"].double()
    far = (velocity_of(other, q) - exact).abs() > 0.126 * exact.abs() + 2.0**-17 * unit
    assert not far.any()


# ---- bad input


@pytest.mark.parametrize("unit", [np.nan, np.inf, -1.0])
def test_a_damaged_unit_is_refused(unit: float, site: Site, rng: np.random.Generator) -> None:
    optimizer, _ = trained(KIND, site, rng)
    before = copy.deepcopy(optimizer.state_dict())
    saved = copy.deepcopy(before)
    saved["param_groups"][0]["tuner"][UNIT] = unit
    with pytest.raises(RuntimeError, match=rf"unit of {unit} .*finite"):
        optimizer.load_state_dict(saved)
    assert_same_bits(optimizer.state_dict(), before)


@pytest.mark.parametrize(
    "options",
    [
        {"momentum_dtype": torch.float16},
        {"momentum_dtype": "float8"},
        {"momentum_dtype": torch.float8_e5m2},
        {"momentum_dtype": torch.float8_e4m3fn, "preconditioner": None},
        {"momentum_dtype": torch.float8_e4m3fn, "preconditioner": "diagonal"},
        {"momentum_dtype": torch.float8_e4m3fn, "robust": False},
        {"momentum_dtype": torch.float8_e4m3fn, "closed_loop": True},
    ],
    ids=str,
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"Invalid momentum_dtype value: .*torch\.float32"):
        YellowFin([nn.Parameter(torch.ones(3))], **options)


def test_float32_goes_with_everything() -> None:
    for options in ({}, {"preconditioner": None}, {"robust": False}, {"closed_loop": True}):
        given: dict[str, Any] = {**options, "momentum_dtype": torch.float32}
        YellowFin([nn.Parameter(torch.ones(3))], **given)
