"""Tables of tangents with what is in them, for the tests of the passes over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from oracle import tangents as oracle
from oracle.tangents import Options
from oracle.vectors import Array
from support.cases import Site, assert_same_bits, lay_out
from torch import Tensor

from yfkernels.ops.backends import backend_of
from yfkernels.ops.table import Column, Row, TensorTable
from yfkernels.ops.tangents import ADAM, MOMENTUM, PLAIN, Family

STEPS = {
    PLAIN: oracle.momentum_step,
    MOMENTUM: oracle.momentum_step,
    ADAM: oracle.adam_step,
}
SHAPES: dict[str, Sequence[tuple[int, ...]]] = {
    "contiguous": [(1,), (3,), (1023,), (1025,), (33,)],
    "offset": [(1,), (3,), (1023,), (2049,), (33,)],
    "transposed": [(7, 5), (64, 33), (3, 1), (2, 9)],
    "channels_last": [(2, 3, 5, 7), (4, 8, 3, 3), (1, 2, 2, 2)],
}
# Rounding in float32, relative to the terms that are added.
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12}


@dataclass
class Tensors:
    """What a step of one parameter is made of.

    Attributes:
        mu: by which Z is damped.
        keeps_own: whether the probe is to hold B afterwards.
        values: all columns in float64.
    """

    family: Family
    options: Options
    mu: float
    keeps_own: bool
    values: dict[Column, Array] = field(default_factory=dict)

    @property
    def slots(self) -> list[Array]:
        return [self.values[self.family.slot(k)] for k in range(len(self.family.slots))]

    @property
    def z(self) -> list[Array]:
        return [self.values[self.family.tangent(k)] for k in range(self.family.tangents)]

    def advanced(self) -> list[Array]:
        v, step = self.values, STEPS[self.family]
        given = (v[Column.PARAM], self.slots, v[Column.GRAD], v[self.family.probe], self.z)
        return oracle.advance(step, self.options, self.mu, *given)

    def own(self) -> Array:
        w, g = self.values[Column.PARAM], self.values[Column.GRAD]
        return oracle.own(STEPS[self.family], self.options, w, self.slots, g)

    def coefficients(self) -> list[float]:
        """As a tuner works them out."""
        o = self.options
        (b1, b2), (n1, n2) = o.betas, o.nus
        known = {
            "damping": self.mu,
            "sign": -1.0 if o.maximize else 1.0,
            "coupled_decay": o.coupled_decay,
            "decoupled_decay": o.decoupled_decay,
            "lr": o.lr,
            "keeps_own": float(self.keeps_own),
            **dict(zip(("momentum", "fresh", "plain", "averaged"), o.momentum)),
            **{"beta1": b1, "fresh1": 1.0 - b1, "beta2": b2, "fresh2": 1.0 - b2, "eps": o.eps},
            **{"plain1": 1.0 - n1, "averaged1": n1 / (1.0 - b1**o.step)},
            **{"plain2": 1.0 - n2, "averaged2": n2 / (1.0 - b2**o.step)},
        }
        return [known[name] for name in self.family.fields]

    def sizes(self) -> tuple[list[Array], Array]:
        """Of the terms that Z and B are sums of."""
        o, counts = self.options, self.mu != 0.0
        all_there = {
            c: np.abs(np.where(counts | ~np.isnan(x), x, 0.0)) for c, x in self.values.items()
        }
        g, w = all_there[Column.GRAD], all_there[Column.PARAM]
        size = g + o.coupled_decay * w
        zw, *z = (self.mu * all_there[self.family.tangent(k)] for k in range(self.family.tangents))
        tilt = counts * all_there[self.family.probe] + o.coupled_decay * zw
        slots = [all_there[self.family.slot(k)] for k in range(len(self.family.slots))]
        if self.family is ADAM:
            (b1, b2), (n1, n2) = o.betas, o.nus
            debias1, debias2 = n1 / (1.0 - b1**o.step), n2 / (1.0 - b2**o.step)
            d = np.abs(self._uphill())
            m, zm = b1 * slots[0] + (1.0 - b1) * size, b1 * z[0] + (1.0 - b1) * tilt
            zv = b2 * z[1] + 2.0 * (1.0 - b2) * size * tilt
            square = (1.0 - n2) * d**2 + debias2 * (b2 * slots[1] + (1.0 - b2) * d**2)
            over = 1.0 / (np.sqrt(square) + o.eps)
            numerator = (1.0 - n1) * size + debias1 * m
            d_square = 2.0 * (1.0 - n2) * size * tilt + debias2 * zv
            half = np.where(
                square == 0.0, 0.0, 0.5 * d_square / np.sqrt(np.where(square, square, 1))
            )
            # a sum of squares that is small because g' is a difference is less exact than its size
            loss = 1.0 + (size / np.where(d == 0.0, np.inf, d))
            u = loss * numerator * over
            du = loss * ((1.0 - n1) * tilt + debias1 * zm + numerator * over * half) * over
            after = [zm, zv]
        else:
            m, c, a, b = o.momentum if slots else (0.0, 0.0, 1.0, 0.0)
            after = [m * z[0] + c * tilt] if slots else []
            u = a * size + (b * (m * slots[0] + c * size) if slots else 0.0)
            du = a * tilt + (b * after[0] if slots else 0.0)
        own = u + o.decoupled_decay * w
        return [zw + o.lr * du + own, *after], own

    def _uphill(self) -> Array:
        g = -self.values[Column.GRAD] if self.options.maximize else self.values[Column.GRAD]
        return g + self.options.coupled_decay * self.values[Column.PARAM]


def some_options(k: int, rng: np.random.Generator) -> Options:
    """Of tensor k: decay of both kinds, both signs, and all forms of momentum in turn."""
    m = rng.uniform(0.5, 0.99)
    nu = rng.uniform(0.5, 0.99)
    forms = [(m, 1.0, 0.0, 1.0), (m, 1.0, 1.0, m), (m, 1.0 - m, 1.0 - nu, nu), (m, 0.7, 0.0, 1.0)]
    return Options(
        lr=rng.uniform(0.01, 0.5),
        weight_decay=0.0 if k == 4 else rng.uniform(0.01, 0.3),
        decoupled=k % 2 == 1,
        maximize=k % 3 == 1,
        step=int(rng.integers(1, 50)),
        momentum=forms[k % 4],
        betas=(rng.uniform(0.5, 0.95), rng.uniform(0.9, 0.999)),
        nus=(1.0, 1.0) if k % 2 else (0.7, 0.9),
        eps=(1e-8, 1e-3)[k % 2],
    )


def draw(
    family: Family, shape: tuple[int, ...], k: int, dtype: torch.dtype, rng: np.random.Generator
) -> Tensors:
    """A tensor in the middle of a run. With mu = 0 all that must not count is NaN."""
    made = Tensors(family, some_options(k, rng), (0.9, 1.0, 0.0)[k % 3], keeps_own=k % 2 == 0)
    slots = [family.slot(i) for i in range(len(family.slots))]
    rest = [family.probe, *(family.tangent(i) for i in range(family.tangents))]
    for column in (Column.GRAD, Column.PARAM, *slots, *rest):
        values = torch.from_numpy(rng.standard_normal(shape)).to(dtype).double().numpy()
        made.values[column] = (
            np.full(shape, np.nan) if made.mu == 0.0 and column in rest else values
        )
    never = rng.random(shape) < 0.1  # elements that no gradient has reached, and no decay
    for column in (Column.GRAD, Column.PARAM, *slots):
        made.values[column][never] = 0.0
    if family is ADAM:
        made.values[slots[1]] **= 2
        made.values[slots[1]] = torch.from_numpy(made.values[slots[1]]).to(dtype).double().numpy()
    return made


class Model:
    """Tensors in a table of a backend; the last of several has no gradient."""

    def __init__(
        self,
        site: Site,
        tensors: Sequence[Tensors],
        columns: Sequence[Column],
        layout: str = "contiguous",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.backend = backend_of(site.backend, site.device)
        self.tensors = tensors
        self.device = site.device
        self.columns = [
            {
                c: self._put(t.values[c], layout, dtype)
                for c in (Column.GRAD, Column.PARAM, *columns)
            }
            for t in tensors
        ]
        self.grads = [c[Column.GRAD] for c in self.columns]
        rows = [
            Row(k, k, 0, {c: x for c, x in of.items() if c != Column.GRAD})
            for k, of in enumerate(self.columns)
        ]
        self.table = TensorTable(self.backend, rows)
        self.present = [k for k in range(len(tensors)) if k == 0 or k < len(tensors) - 1]
        self.bind()
        self.before = self.copies()

    def _put(self, values: Array, layout: str, dtype: torch.dtype) -> Tensor:
        view, _ = lay_out(torch.from_numpy(values).to(self.device, dtype), layout)
        return view

    def bind(self) -> None:
        grads = [g if k in self.present else None for k, g in enumerate(self.grads)]
        self.table.bind(grads)
        pointers = [0 if g is None else g.data_ptr() for g in grads]
        self.backend.upload(self.table, Column.GRAD, pointers)

    def copies(self) -> list[dict[Column, Tensor]]:
        return [{c: x.clone() for c, x in of.items()} for of in self.columns]

    def coefficients(self) -> Tensor:
        numbers = [t.coefficients() for t in self.tensors]
        return torch.tensor(numbers, dtype=torch.float64, device=self.device)

    def expect(self, k: int, column: Column, wanted: Array, size: Array) -> None:
        got = self.columns[k][column]
        worst = np.abs(got.double().cpu().numpy() - wanted) - TOLERANCE[got.dtype] * size
        assert (worst <= 0.0).all(), f"tensor {k}, {column.name}: off by {np.nanmax(worst)}"

    def expect_untouched_but(self, written: Sequence[set[Column]]) -> None:
        for k, (now, before) in enumerate(zip(self.columns, self.before, strict=True)):
            untouched = now.keys() - (written[k] if k in self.present else set())
            for column in untouched:
                assert_same_bits(now[column], before[column], f"tensor {k}, {column.name}")


def all_columns(family: Family) -> list[Column]:
    return [Column.state(k) for k in range(1 + len(family.slots) + family.tangents)]
