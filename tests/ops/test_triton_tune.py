"""Triton's tuner against the plain-torch one and the host's, on the GPU or interpreted."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from support.cases import assert_same_bits
from tables import DEVICE, ON_DEVICE, backend
from torch import Tensor

from yfkernels.ops.backends import backend_of
from yfkernels.ops.constants import (
    GROUP_FIELDS,
    MOVE_SUMS,
    OPTIONS_IN_STATE,
    STATE_FIELDS,
    STATE_FORMAT,
    SUMS,
    TILE,
)
from yfkernels.ops.options import YellowFinOptions
from yfkernels.ops.rules import YELLOWFIN

native = backend_of("native", "cpu")
plain = backend_of("torch", "cpu")
REASON = backend.unusable(DEVICE)
pytestmark = [*ON_DEVICE, pytest.mark.skipif(REASON is not None, reason=str(REASON))]

OPTIONS = YellowFinOptions(
    beta=0.9,
    max_norm=math.inf,
    initial_lr=1e-3,
    initial_momentum=0.3,
    window=5,
    momentum_form="buffer",
    robust=False,
    preconditioner=None,
)
DIAGONAL = {"robust": True, "momentum_form": "polyak", "preconditioner": "diagonal"}
VARIATIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "linear": {"log_smooth": False},
    "unclipped": {"clip": None},
    "max_norm": {"max_norm": 2.5},
    "polyak": {"momentum_form": "polyak"},
    "trust_ratio": {"trust_ratio": True, "initial_momentum": 0.0},
    "no momentum": {"initial_momentum": 0.0},
    "sparse": {"sparsity_debias": True},
    "sketch": {"variance": "sketch"},
    "robust": {"robust": True, "momentum_form": "polyak"},
    "diagonal": DIAGONAL,
    "diagonal linear": {**DIAGONAL, "log_smooth": False, "initial_momentum": 0.7, "window": 1},
    "diagonal unclipped": {**DIAGONAL, "clip": None, "max_norm": 2.5},
    "window=1": {"window": 1},
    "window=33": {"window": 33},
    "beta=0": {"beta": 0.0},
}


class Tuning:
    """A tuner's memory on one device, for one backend."""

    def __init__(self, options: YellowFinOptions, groups: Tensor, device: str) -> None:
        self.options = options
        self.state = torch.zeros(options.state_words, dtype=torch.float64, device=device)
        self.state[STATE_FIELDS.index("format")] = STATE_FORMAT
        self.state[STATE_FIELDS.index("beta_power")] = 1.0
        for name in OPTIONS_IN_STATE:
            self.state[STATE_FIELDS.index(name)] = getattr(options, name)
        self.leave_move_sums([0.25, 0.25])
        self.groups = groups.to(device)
        shape = (len(groups), len(YELLOWFIN.fields))
        self.coefficients = torch.zeros(shape, dtype=torch.float64, device=device)
        self.scratch = torch.zeros(TILE + 1, dtype=torch.float64, device=device)

    def leave_move_sums(self, values: Sequence[float]) -> None:
        """As an update leaves them."""
        for name, value in zip(MOVE_SUMS, values, strict=True):
            self.state[STATE_FIELDS.index(name)] = value

    def run(self, module: Any, *sums: Tensor | None) -> None:
        here = [None if x is None else x.to(self.state.device) for x in sums]
        memory = (self.state, self.groups, self.coefficients, self.scratch)
        module.tune_yellowfin(self.options, *here, *memory)


def draw_sums(
    rng: np.random.Generator, slots: int, sketch: bool, factor: float = 1.0
) -> tuple[Tensor, Tensor | None]:
    """Sums as a measurement leaves them: Cauchy's inequality holds."""
    g = factor * rng.standard_normal((slots, 30))
    average = rng.standard_normal((slots, 30))
    sums = [
        (g * g).sum(1),
        (average * g).sum(1),
        (average * average).sum(1),
        rng.integers(0, 30, slots).astype(float),
        np.full(slots, 30.0),
        10.0 ** rng.uniform(0.0, 14.0, slots),  # the start: now and then weight decay bounds lr
    ]
    sketches = factor * torch.from_numpy(rng.standard_normal((slots, TILE))) if sketch else None
    return torch.from_numpy(np.stack(sums, 1)), None if sketches is None else sketches.float()


def draw_move_sums(rng: np.random.Generator, factor: float = 1.0) -> list[float]:
    """Growth, and <d, u>."""
    return [float(rng.standard_normal()), factor * float(rng.random())]


def draw_groups(rng: np.random.Generator, count: int) -> Tensor:
    groups = torch.from_numpy(rng.random((count, len(GROUP_FIELDS))))
    groups[:, GROUP_FIELDS.index("decoupled")] = torch.from_numpy(rng.integers(0, 2, count)) * 1.0
    groups[:, GROUP_FIELDS.index("sign")] = torch.from_numpy(rng.choice([-1.0, 1.0], count))
    return groups


class TestTune:
    @pytest.mark.parametrize("variation", VARIATIONS.values(), ids=VARIATIONS.keys())
    def test_equals_the_plain_tuner(
        self, variation: dict[str, Any], rng: np.random.Generator
    ) -> None:
        options = dataclasses.replace(OPTIONS, **variation)
        groups = draw_groups(rng, 3)
        ours, theirs = Tuning(options, groups, DEVICE), Tuning(options, groups, "cpu")
        factors = {4: 1e3, 6: 0.0, 11: 5.0}  # an explosion, a pause, a spike
        for step in range(13):
            factor = factors.get(step, 1.0)
            sums, move_sums = draw_sums(rng, 5, options.sketch, factor), draw_move_sums(rng, factor)
            scale = torch.tensor(1024.0) if step == 5 else None
            for tuning, module in ((ours, backend), (theirs, plain)):
                tuning.leave_move_sums(move_sums)
                tuning.run(module, *sums, scale, torch.tensor(0.0))
            for seen, expected in (
                (ours.state, theirs.state),
                (ours.coefficients, theirs.coefficients),
            ):
                assert_allclose(seen.cpu(), expected, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize(
        "variation", ["linear", "sparse", "polyak", "max_norm", "robust", "diagonal"]
    )
    def test_equals_the_host_bit_for_bit(self, variation: str, rng: np.random.Generator) -> None:
        """From one slot and without ln and exp there is nothing left that may round otherwise."""
        if reason := native.unusable("cpu"):
            pytest.skip(reason)
        options = dataclasses.replace(OPTIONS, **VARIATIONS[variation] | {"log_smooth": False})
        groups = draw_groups(rng, 3)
        ours, theirs = Tuning(options, groups, DEVICE), Tuning(options, groups, "cpu")
        for step in range(30):
            factor = 1e3 if step == 20 else 1.0
            sums, move_sums = draw_sums(rng, 1, False, factor), draw_move_sums(rng, factor)
            for tuning, module in ((ours, backend), (theirs, native)):
                tuning.leave_move_sums(move_sums)
                tuning.run(module, *sums, torch.tensor(3.0), None)
            assert_same_bits(ours.state.cpu(), theirs.state, f"step {step}")
            assert_same_bits(ours.coefficients.cpu(), theirs.coefficients, f"step {step}")

    @pytest.mark.parametrize("reason", ["found_inf", "inf", "nan"])
    @pytest.mark.parametrize("variation", ["defaults", "sketch", "diagonal"])
    def test_skips(self, reason: str, variation: str, rng: np.random.Generator) -> None:
        options = dataclasses.replace(OPTIONS, **VARIATIONS[variation])
        tuning = Tuning(options, draw_groups(rng, 2), DEVICE)
        tuning.run(backend, *draw_sums(rng, 2, options.sketch), None, None)
        before = tuning.state.clone()
        partials, sketches = draw_sums(rng, 2, options.sketch)
        if reason != "found_inf":
            partials[1, SUMS.index("grad_sq")] = float(reason)
        found_inf = torch.tensor(1.0 if reason == "found_inf" else 0.0)
        tuning.run(backend, partials, sketches, None, found_inf)
        before[STATE_FIELDS.index("skipped")] += 1.0
        assert_same_bits(tuning.state, before)
        assert (tuning.coefficients[:, YELLOWFIN.fields.index("active")] == 0.0).all()

    @pytest.mark.parametrize("variation", ["defaults", "sketch", "diagonal"])
    def test_many_slots_and_groups(self, variation: str, rng: np.random.Generator) -> None:
        options = dataclasses.replace(OPTIONS, **VARIATIONS[variation])
        groups = draw_groups(rng, 40)
        ours, theirs = Tuning(options, groups, DEVICE), Tuning(options, groups, "cpu")
        for slots in (300, 17):
            sums = draw_sums(rng, slots, options.sketch)
            ours.run(backend, *sums, None, None)
            theirs.run(plain, *sums, None, None)
        assert_allclose(ours.state.cpu(), theirs.state, rtol=1e-9, atol=1e-12)
        assert_allclose(ours.coefficients.cpu(), theirs.coefficients, rtol=1e-9, atol=1e-12)
        assert not ours.scratch[TILE:].any(), "the ticket is not ready for the next step"

    def test_numbers_make_no_new_kernel(
        self, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
    ) -> None:
        from yfkernels.ops.triton import tune

        launches = []

        class Recorder:
            def __getitem__(self, grid: tuple[int, ...]) -> Any:
                return lambda *args, **structure: launches.append((args, structure))

        monkeypatch.setattr(tune, "yellowfin_tune", Recorder())
        numbers = {"beta": 0.99, "max_norm": 1.0, "initial_lr": 0.1, "initial_momentum": 0.9}
        for options in (OPTIONS, dataclasses.replace(OPTIONS, **numbers)):
            tuning = Tuning(options, draw_groups(rng, 2), DEVICE)
            tuning.run(backend, *draw_sums(rng, 2, False), None, None)
        (_, first), (args, second) = launches
        assert first == second
        assert not any(isinstance(arg, float) for arg in args)
