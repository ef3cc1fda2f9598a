"""Random programs over an optimizer: drawn from a number, run beside two others, shortened."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from programs import actions as _registers_actions  # noqa: F401
from programs.comparing import Drift, assert_same
from programs.notation import draw_spec, groups_from_text, groups_to_text, make
from programs.pairs import PAIRS, Pair
from programs.registry import ACTIONS, Action
from programs.side import Mismatch, Side
from support.cases import Spec
from torch import Tensor
from torch.nn import Parameter

LENGTHS = (6, 10, 16, 24)


@dataclass(frozen=True)
class Program:
    """What to drive (a name of PAIRS), over which parameters, and how."""

    pair: str
    groups: tuple[tuple[Spec, ...], ...]
    actions: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        steps = [f"{name}:{seed}" for name, seed in self.actions]
        return (
            "from programs.program import replay\n\n"
            "replay(\n"
            f'    "{self.pair}",\n'
            f'    "{groups_to_text(self.groups)}",\n'
            + "".join(f'    "{step}",\n' for step in steps)
            + ")"
        )


def replay(pair: str, groups: str, *actions: str) -> None:
    """Runs a program as it was printed."""
    parts = (action.partition(":") for action in actions)
    steps = tuple((name, int(seed)) for name, _, seed in parts)
    run(Program(pair, groups_from_text(groups), steps))


def draw(seed: tuple[int, ...], pairs: Sequence[Pair]) -> Program:
    """The program of some numbers."""
    rng = np.random.default_rng(seed)
    pair = pairs[rng.integers(len(pairs))]
    specs = [draw_spec(rng, pair.dtypes) for _ in range(1 + rng.integers(4))]
    cut = int(rng.integers(1, len(specs) + 1))
    groups = tuple(tuple(part) for part in (specs[:cut], specs[cut:]) if part)
    return Program(pair.name, groups, tuple(_draw_actions(rng, pair)))


def _draw_actions(rng: np.random.Generator, pair: Pair) -> Iterator[tuple[str, int]]:
    suitable = [action for action in ACTIONS.values() if action.suits(pair)]
    weights = np.array([action.weight for action in suitable])
    for _ in range(LENGTHS[rng.integers(len(LENGTHS))]):
        chosen = suitable[rng.choice(len(suitable), p=weights / weights.sum())]
        yield chosen.name, int(rng.integers(10**6))
    yield "step_of_all", int(rng.integers(10**6))


def run(program: Program, before_action: Callable[[str], object] = lambda name: None) -> None:
    """Runs a program, and says before each action which it is.

    Raises:
        Mismatch: the optimizer is not where the others are, or did what it must not do.
    """
    pair = PAIRS[program.pair]
    sides = {
        role: _side(role, build, program.groups)
        for role, build in (
            ("subject", pair.subject),
            ("plain", pair.subject),
            ("reference", pair.reference),
        )
    }
    drift = Drift(sides["reference"], tunes=pair.tunes)
    for number, (name, seed) in enumerate(program.actions):
        where = f"after action {number}, {name}"
        before_action(name)
        try:
            _act(ACTIONS[name], seed, sides)
            sides["subject"].check_surroundings()
            assert_same(sides["subject"], sides["plain"])
            drift.assert_near(sides["subject"], sides["reference"])
        except Exception as error:
            mismatch = error
            if not isinstance(error, Mismatch):  # of state_dict(), for one
                mismatch = Mismatch(f"after {name}: {_words(error)}", "")
                mismatch.__cause__ = error
            details = f"{where}, {mismatch.details}"
            raise Mismatch(mismatch.kind, details) from mismatch.__cause__


def _side(role: str, build: Callable[..., object], groups: tuple[tuple[Spec, ...], ...]) -> Side:
    params: list[list[Parameter]] = []
    guards: list[tuple[Tensor, Tensor | None]] = []
    for i, group in enumerate(groups):
        params.append([])
        for k, spec in enumerate(group):
            p, base = make(spec, 10 * i + k)
            params[-1].append(p)
            outside = torch.ones_like(base, dtype=torch.bool)
            torch.as_strided(outside, p.shape, p.stride(), p.storage_offset()).fill_(False)
            if bool(outside.any()):
                guards.append((base, outside))
    return Side(role, build, params, guards)


def _act(action: Action, seed: int, sides: dict[str, Side]) -> None:
    raised: dict[str, Exception] = {}
    for role, side in sides.items():
        if action.neutral and (role != "subject" or side.waits):
            continue
        if action.loads and not side.loads_as_it_is:
            continue
        try:
            action.do(side, np.random.default_rng(seed))
        except Mismatch:
            raise
        except Exception as error:
            raised[role] = error
    if raised:
        role, error = next(iter(raised.items()))
        kind = f"{action.name}: {' and '.join(raised)} raised {_words(error)}"
        raise Mismatch(kind, str(error)) from error


def _words(error: Exception) -> str:
    """The error without what differs from one program to the next."""
    words = re.sub(r"yfkernels\.\w+|[\d.]+", "#", str(error))[:70]
    return f"{type(error).__name__} ({words})"


def shorten(program: Program, fails: Callable[[Program], bool]) -> Program:
    """Leaves out actions and parameters, greedily, as long as it still fails."""
    while True:
        for shorter in _shorter(program):
            if fails(shorter):
                program = shorter
                break
        else:
            return program


def _shorter(program: Program) -> Iterator[Program]:
    actions = program.actions
    size = len(actions) // 2
    while size:
        for start in range(len(actions) - size, -1, -size):
            yield replace(program, actions=actions[:start] + actions[start + size :])
        size //= 2
    for i, group in enumerate(program.groups):
        for k in range(len(group)):
            rest = (group[:k] + group[k + 1 :],) if len(group) > 1 else ()
            groups = program.groups[:i] + rest + program.groups[i + 1 :]
            if groups:
                yield replace(program, groups=groups)
    if len(program.groups) > 1:
        yield replace(program, groups=(sum(program.groups, ()),))
