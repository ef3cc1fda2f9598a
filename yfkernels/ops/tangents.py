"""Tangents of optimizer steps as the backends see them; mirrors csrc/tangents.h word for word.

A hypergradient tuner keeps Z = d(w, slots)/d(lr) of every parameter beside the optimizer's slots.
Over a table that has those columns a backend offers three passes:

    advance_tangents   before the optimizer's step, with the same w, g and slots: advances Z
    own_derivatives    in its place for mu = 0: only B, the step's own derivative of w to lr
    project            after a step: sums of e B, e Zw, e², B² and Zw² over each tensor

The columns of a table are GRAD (g; or e, whatever gradient is projected on) and PARAM (w), then
from STATE on the probe, the optimizer's slots, and Z: Zw, then one column for each slot. A column
that the passes in use do not touch may be left out. All are float32 on the fused backends.

With h = H z the Hessian-vector product for z = mu Zw, and Z damped first, Z <- mu Z (if mu is 0,
nothing that Z or h hold counts):

    g' = sign g + coupled_decay w,    dg = sign h + coupled_decay Zw

    PLAIN      u = g',                                        du = dg
    MOMENTUM   v' = momentum v + fresh g'                     Zv <- momentum Zv + fresh dg
               u = plain g' + averaged v'                     du = plain dg + averaged Zv
    ADAM       M' = beta1 M + fresh1 g'                       ZM <- beta1 ZM + fresh1 dg
               V' = beta2 V + fresh2 g'²                      ZV <- beta2 ZV + 2 fresh2 g' dg
               N = plain1 g' + averaged1 M'                   dN = plain1 dg + averaged1 ZM
               s² = plain2 g'² + averaged2 V',  D = s + eps   dS = 2 plain2 g' dg + averaged2 ZV
               u = N / D                                      du = (dN - u dS / (2 s)) / D

    B = -u - decoupled_decay w
    Zw <- (1 - lr decoupled_decay) Zw - lr du + B

dS / (2 s) is 0 where s is. `advance_tangents` reads h from the probe and leaves B there if
`keeps_own` is not 0; `own_derivatives` leaves B where Zw is. The slots and w stay as they are.

`project` finds B where a pass has left it (scale 1, decay 0), or works it out once more from what
the step has left, B = scale x + decay w with x = u, u being a momentum buffer or made of Adam's
moments. With k = 1 - lr decoupled_decay of that step, and w as it is after it, scale is -1 / k and
decay is -decoupled_decay / k: 0 for most, and then w is not read.

Sources: Donini et al., arXiv 1910.08525; Baydin et al., ICLR 2018.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from yfkernels.ops.table import Column

TANGENTS = ("damping", "sign", "coupled_decay", "decoupled_decay", "lr", "keeps_own")
"""How the coefficients of every family begin. damping is mu; sign is -1 to maximize."""

PROJECTION = ("scale", "decay", "averaged1", "averaged2", "eps")
"""The coefficients of a projection, for each tensor. Where decay is 0, w is not read."""

PROJECTED = ("e_dot_own", "e_dot_tangent", "e_sq", "own_sq", "tangent_sq")
"""What a projection sums over a tensor: e·B, e·Zw, ‖e‖², ‖B‖² and ‖Zw‖²."""


@dataclass(frozen=True, eq=False)  # each is one object
class Family:
    """Steps of one kind, and where the columns of their tangents are.

    Attributes:
        id: number of the family in csrc/tangents.h.
        name: as in "adam".
        slots: what the optimizer keeps.
        fields: the coefficients, float64, a row a tensor: Row.group is that row's number.
    """

    id: int
    name: str
    slots: tuple[str, ...]
    fields: tuple[str, ...]

    @property
    def tangents(self) -> int:
        """Columns of Z: Zw, then one for each slot."""
        return 1 + len(self.slots)

    @property
    def probe(self) -> Column:
        """Where h is before a step, and B after it."""
        return Column.STATE

    def slot(self, k: int) -> Column:
        """The optimizer's slot k, from 0."""
        return Column.state(1 + k)

    def tangent(self, k: int = 0) -> Column:
        """Zw, or the tangent of slot k - 1."""
        return Column.state(1 + len(self.slots) + k)


PLAIN = Family(0, "plain", (), fields=TANGENTS)
MOMENTUM = Family(
    1,
    "momentum",
    ("momentum_buffer",),
    fields=(*TANGENTS, "momentum", "fresh", "plain", "averaged"),
)
ADAM = Family(
    2,
    "adam",
    ("exp_avg", "exp_avg_sq"),
    fields=(
        *TANGENTS,
        *("beta1", "fresh1", "beta2", "fresh2"),
        *("plain1", "averaged1", "plain2", "averaged2"),
        "eps",
    ),
)
FAMILIES = (PLAIN, MOMENTUM, ADAM)


@dataclass(frozen=True, eq=False)  # those below are one object for the same arguments
class Projection:
    """Where `project` finds the x of B = scale x + decay w, and Zw.

    Attributes:
        id: number of its form in csrc/tangents.h.
        name: of the form.
        columns: that x is made of, side by side.
        own: the first of them; None if B is not wanted: then x is 0.
        tangent: the column of Zw; None if it is not wanted: then its sum is 0.
    """

    id: int
    name: str
    columns: int
    own: Column | None = None
    tangent: Column | None = None

    @property
    def sources(self) -> list[Column]:
        """What x is made of."""
        return [] if self.own is None else [Column(self.own + k) for k in range(self.columns)]

    @property
    def reads(self) -> list[Column]:
        """The columns that it reads beside e and, where it decays, w."""
        return [*self.sources, *([] if self.tangent is None else [self.tangent])]


@cache
def stored(own: Column | None, tangent: Column | None = None) -> Projection:
    """x is a column: B itself, say, or the momentum buffer."""
    return Projection(0, "stored", 1, own, tangent)


@cache
def preconditioned(own: Column, tangent: Column | None = None) -> Projection:
    """x is averaged1 M / (sqrt(averaged2 V) + eps), of moments M in `own` and V in the next."""
    return Projection(1, "preconditioned", 2, own, tangent)


PROJECTIONS = (stored(None), preconditioned(Column.STATE))
"""One of each form."""
