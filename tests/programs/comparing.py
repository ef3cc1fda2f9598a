"""How near two sides have to be after every action.

Subject and plain are the same optimizer, so parameters, state and groups are equal to the bit.

Tolerances beside the reference. Its step is the same formula, rounded at other places. It rounds a
parameter by half a unit in its last place a few times, and a move by a few units of the move: two
averages, a root, a quotient, each 2^-24. An average carries the roundings of earlier steps, but
forgets them as it forgets the gradients. So each action may add ULPS units of the largest element
of the parameter, of the tensor as a whole: where terms cancel, what is left has the error of the
terms. YellowFin's step size is tuned from differences of sums that nearly cancel, so its moves may
differ by TUNED of themselves. Faults of the kind that is looked for here, old momentum or another
tensor's memory, are off by a whole move. Half-precision parameters round to 2^-8 (2^-11), and to
the neighbour where the two results lie on either side of a middle. So do averages of squares in
8-bit codes, four to an octave: where a last bit decides, an element moves by a code more or less.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from programs.side import Mismatch, Side, claim, same_bits, working
from torch import Tensor

from yfkernels.ops.constants import STATE_FIELDS

ULPS = 8.0
TUNED = 2.0**-12
TIPPED = 2  # elements of a tensor whose code may be the next one
A_CODE = 0.25  # of the largest move: more than a code changes one
_UNIT = {
    torch.float64: 2.0**-53,
    torch.complex128: 2.0**-53,
    torch.bfloat16: 2.0**-7,
    torch.float16: 2.0**-10,
}
_USERS = ("params", "initial_lr", "foreach", "differentiable")  # in groups, of neutral actions


def assert_same(subject: Side, plain: Side) -> None:
    """All that two optimizers of one class hold, to the bit; what users put there aside."""
    claim(_sizes(subject) == _sizes(plain), "other groups than the plain run's")
    for i, (p, q) in enumerate(zip(subject.params, plain.params)):
        if not same_bits(p, q):
            raise Mismatch("parameter differs from the plain run's", f"{i}: {_gap(p, q)}")
    mine, other = (side.optimizer.state_dict() for side in (subject, plain))
    for what, ours, theirs in (
        ("group", mine["param_groups"], other["param_groups"]),
        ("state", list(_states(mine)), list(_states(other))),
    ):
        for i, (a, b) in enumerate(zip(ours, theirs)):
            for name in sorted(a.keys() | b.keys()):
                if name in _USERS or str(name).startswith("user_"):
                    continue
                if name not in a or name not in b:
                    if what == "group" and _as_it_begins(name, a.get(name, b.get(name))):
                        continue
                    whose = "the plain run" if name in b else "the subject"
                    raise Mismatch(f"only {whose} has {name!r} in its {what}", f"{what} {i}")
                dtype = working(plain.params[i]) if what == "state" else None
                if not equal(a[name], b[name], dtype):
                    kind = f"{what}'s {name!r} differs from the plain run's"
                    raise Mismatch(kind, f"{what} {i}: {_gap(a[name], b[name])}")


def _as_it_begins(name: str, value: Any) -> bool:
    """Whether a group's entry is one of the optimizer's own that no step has written to yet."""
    if name == "gate":
        return bool(value[0].isnan()) and bool(value[1] == 0.0)
    if name == "tuner":
        taken = [float(value[STATE_FIELDS.index(field)]) for field in ("step", "skipped")]
        return taken == [0.0, 0.0]
    return name in ("tuned_lr", "momentum") and float(value) == 0.0


def _states(saved: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for group in saved["param_groups"]:
        for i in group["params"]:
            yield saved["state"].get(i, {})


def _sizes(side: Side) -> list[int]:
    return [len(group["params"]) for group in side.optimizer.param_groups]


def equal(a: Any, b: Any, dtype: torch.dtype | None = None) -> bool:
    """The same numbers; neutral actions may have put them in another dtype or in no tensor."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        a, b = torch.as_tensor(a), torch.as_tensor(b)
        if dtype is not None or a.dtype != b.dtype:
            a, b = (x.to(dtype or torch.float32) for x in (a, b))
        return a.shape == b.shape and same_bits(a, b)
    return bool(a == b)


def _gap(a: Any, b: Any) -> str:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return f"{a!r}, {b!r}"
    a, b = torch.as_tensor(a).detach(), torch.as_tensor(b).detach()
    if a.shape != b.shape or a.dtype != b.dtype or not a.numel():
        return f"{tuple(a.shape)} of {a.dtype}, {tuple(b.shape)} of {b.dtype}"
    gap = (a.double() - b.double() if not a.is_complex() else a - b).abs().reshape(-1)
    worst = int(gap.argmax())
    here = f"{a.reshape(-1)[worst]:.8g} where it is {b.reshape(-1)[worst]:.8g}"
    return f"{int((gap != 0).sum())} of {gap.numel()} elements differ, one is {here}"


class Drift:
    """How far the subject may be from a reference that rounds otherwise, by parameter."""

    def __init__(self, reference: Side, *, tunes: bool) -> None:
        self.of_the_move = TUNED if tunes else 0.0
        # of the reference's parameters, which are kept alive: the allowance, the values
        self.known: dict[int, tuple[Tensor, float, Tensor]] = {}
        for q in reference.params:
            self.known[id(q)] = (q, 0.0, q.detach().clone())
        self.unit = 2.0**-24  # the coarsest so far

    @staticmethod
    def _move(before: Tensor, now: Tensor) -> float:
        """The largest of an element; 0 where the tensor is another."""
        same = before.shape == now.shape and before.dtype == now.dtype
        return _largest(now - before) if same else 0.0

    def assert_near(self, subject: Side, reference: Side) -> None:
        """Both after one more action."""
        claim(_sizes(subject) == _sizes(reference), "other groups than the reference's")
        coded = bool(getattr(getattr(subject.optimizer, "_layout", None), "coded", ()))
        inherited = max((allowed for _, allowed, _ in self.known.values()), default=0.0)
        for i, (p, q) in enumerate(zip(subject.params, reference.params)):
            same = p.shape == q.shape and p.dtype == q.dtype
            if not same:
                raise Mismatch("other shape or dtype than the reference's", f"{i}: {_gap(p, q)}")
            if not p.numel():
                continue
            self.unit = max(self.unit, _UNIT.get(q.dtype, 2.0**-24))
            now = q.detach().clone()
            _, allowed, before = self.known.get(id(q), (q, inherited, now))
            allowed += ULPS * self.unit * max(_largest(before), _largest(now))
            allowed += self.of_the_move * self._move(before, now)
            self.known[id(q)] = (q, allowed, now)
            gaps = (p.detach() - q.detach()).abs().nan_to_num(0.0, posinf=0.0)
            gap = float(gaps.max())
            if coded and gap > allowed and int((gaps > allowed).sum()) <= TIPPED:
                allowed += A_CODE * self._move(before, now)
                self.known[id(q)] = (q, allowed, now)
            near = gap <= allowed and torch.equal(p.isfinite(), q.isfinite())
            if not near:
                details = f"{i}: {_gap(p, q)}; allowed {allowed:.3g}"
                raise Mismatch("parameter is not near the reference's", details)


def _largest(values: Tensor) -> float:
    return float(values.abs().nan_to_num(0.0, posinf=0.0).max()) if values.numel() else 0.0
