"""The closed loop: its readings, the momentum that follows from them, and what it refuses."""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from support.cases import Site
from torch import Tensor, nn

from yfkernels import ClosedLoop, YellowFin
from yfkernels.analysis import stability_limit
from yfkernels.asynchronous import Server
from yfkernels.ops.constants import STATE_FIELDS
from yfkernels.sharding.shards import ShardGroup, Sharding
from yfkernels.tuners.closed_loop import require_whole

PAPERS = ClosedLoop(every=1, compensate=False)
MODES: dict[str, dict[str, Any]] = {
    "published": {"robust": False},
    "robust": {"preconditioner": None},
    "diagonal": {"preconditioner": "diagonal"},
}


class Workers:
    """A noisy quadratic loss whose gradients arrive late, in float64.

    Attributes:
        points: x before each step, and after the last.
        own: the part of each move that its gradient alone made.
    """

    def __init__(self, rng: np.random.Generator, staleness: int, **options: Any) -> None:
        self.rng, self.staleness = rng, staleness
        self.curvatures = torch.from_numpy(rng.uniform(0.5, 1.0, 41))
        self.x = nn.Parameter(torch.from_numpy(rng.normal(size=41)))
        self.optimizer = YellowFin([self.x], **options)
        self.diagonal = options.get("preconditioner") == "diagonal"
        self.points = [self.x.detach().numpy().copy()]
        self.own: list[np.ndarray[Any, Any]] = []
        self.late = deque([self.gradient()], maxlen=staleness + 1)

    def gradient(self) -> Tensor:
        noise = torch.from_numpy(self.rng.normal(scale=0.1, size=41))
        return self.curvatures * self.x.detach() + noise

    def step(self) -> dict[str, float]:
        staleness = min(len(self.late), self.staleness + 1) - 1
        self.x.grad = self.late[0].clone()
        self.optimizer.step(staleness=staleness)
        shown = self.optimizer.diagnostics()
        u = self.x.grad.numpy() * shown["clip_coefficient"]
        if self.diagonal:  # docs/optimizers/yellowfin.md: d / q
            own_state = self.optimizer.state[self.x]
            debias = 1.0 - 0.999 ** float(own_state["step"])
            metric = np.sqrt(own_state["exp_avg_sq"].numpy() / debias) + 2.0**-16
            u = u / self.saved("scale") / metric
        self.own.append(-shown["lr"] * u)
        self.points.append(self.x.detach().numpy().copy())
        self.late.append(self.gradient())
        return shown

    def saved(self, name: str) -> float:
        tuner = self.optimizer.param_groups[0]["tuner"]
        return float(tuner[STATE_FIELDS.index(name)])

    def reading(self, staleness: int) -> float | None:
        """The specification's estimator, of positions."""
        now = len(self.points) - 1
        at = now - staleness - 1
        if at < 1:
            return None
        before = self.points[at] - self.points[at - 1]
        after = self.points[at + 1] - self.points[at]
        return float(np.median((after - self.own[-1]) / before))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_the_papers_loop(mode: str, staleness: int, rng: np.random.Generator) -> None:
    """mu <- mu + gain (mu* - mu_T), mu_T as the specification has it."""
    workers = Workers(rng, staleness, closed_loop=PAPERS, **MODES[mode])
    expected: float | None = None
    for step in range(30):
        shown = workers.step()
        if expected is None:
            assert shown["momentum"] == shown["target_momentum"]
        else:
            assert shown["momentum"] == pytest.approx(expected, rel=1e-6, abs=1e-6)
        total = workers.reading(min(step, staleness))
        if total is not None:
            assert shown["total_momentum"] == pytest.approx(total, rel=1e-6, abs=1e-6)
            expected = shown["momentum"] + 0.01 * (shown["target_momentum"] - total)
            expected = min(max(expected, -0.95), 0.999)
    if staleness == 0:
        assert shown["total_momentum"] == pytest.approx(shown["momentum"], abs=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_momentum_may_be_negative(mode: str, rng: np.random.Generator) -> None:
    """mu* - q, and a move is mu times the last one plus the gradient's own."""
    workers = Workers(rng, 15, closed_loop=True, **MODES[mode])
    for _ in range(40):
        shown = workers.step()
        assert shown["momentum"] <= shown["target_momentum"] - shown["staleness"] / (
            1.0 + shown["staleness"]
        )
    assert shown["momentum"] < 0.0
    last, now = np.diff(workers.points[-3:], axis=0)
    np.testing.assert_allclose(
        now, shown["momentum"] * last + workers.own[-1], rtol=1e-4, atol=1e-9
    )


def test_feedback_lowers_what_is_compensated(rng: np.random.Generator) -> None:
    """And without any it is mu* - q itself."""
    seed = int(rng.integers(2**31))
    lowest = {}
    for gain in (0.0, 0.3):
        loop = ClosedLoop(gain=gain, every=1)
        workers = Workers(np.random.default_rng(seed), 2, closed_loop=loop)
        shown = [workers.step() for _ in range(60)]
        momenta = [each["momentum"] for each in shown]
        q = [each["staleness"] / (1.0 + each["staleness"]) for each in shown]
        exact = [each["target_momentum"] - own for each, own in zip(shown, q)]
        assert all(m <= e + 1e-12 for m, e in zip(momenta, exact))
        if not gain:
            assert momenta == pytest.approx(exact, abs=1e-12)
        lowest[gain] = min(m - e for m, e in zip(momenta, exact))
    assert lowest[0.3] < -0.01


def test_a_loop_that_only_reads(rng: np.random.Generator) -> None:
    workers = Workers(rng, 2, robust=False, closed_loop=ClosedLoop(gain=0.0, compensate=False))
    shown = [workers.step() for _ in range(40)]
    assert all(each["momentum"] == each["target_momentum"] for each in shown)
    assert len({each["target_momentum"] for each in shown}) > 20
    assert np.isfinite(shown[-1]["total_momentum"])


def test_it_reads_every_nth_step(rng: np.random.Generator) -> None:
    """The feedback is then n times as strong."""
    workers = Workers(rng, 1, closed_loop=ClosedLoop(gain=0.02, every=3, compensate=False))
    shown = [workers.step() for _ in range(30)]
    for before, now in pairwise(shown[9:]):
        step = before["step"]
        change = 0.0
        if step % 3 == 0:
            change = 0.06 * (before["target_momentum"] - before["total_momentum"])
        assert now["momentum"] - before["momentum"] == pytest.approx(change, abs=1e-12)
        if step % 3:
            assert now["total_momentum"] == before["total_momentum"] or (step + 1) % 3 == 0


def test_lr_stays_where_the_delay_is_stable(rng: np.random.Generator) -> None:
    options = {"robust": False, "closed_loop": ClosedLoop(limit_lr=True), "weight_decay": 0.1}
    workers = Workers(rng, 15, decoupled_weight_decay=True, **options)
    limited = 0
    velocity = np.zeros(41)
    for _ in range(120):
        before = workers.x.detach().clone()
        shown = workers.step()
        expected = shown["momentum"] * velocity + workers.own[-1]
        velocity = workers.optimizer.state[workers.x]["momentum_buffer"].numpy().copy()
        np.testing.assert_allclose(velocity, expected, rtol=1e-4, atol=1e-9)
        limit = stability_limit(round(shown["staleness"]), round(shown["momentum"], 3))
        assert shown["lr"] * shown["h_max"] <= limit * (1 + 1e-9)
        if shown["lr"] * shown["h_max"] >= limit * (1 - 1e-9):
            limited += 1
            decay = (1.0 - 0.1 * shown["lr"]) * before.numpy()
            np.testing.assert_allclose(workers.points[-1], decay + velocity, rtol=1e-6, atol=1e-9)
    assert limited > 10


@pytest.mark.parametrize("mode", [*MODES, "compact"])
def test_every_backend(mode: str, site: Site, rng: np.random.Generator) -> None:
    """Against torch in float64; negative momenta too."""
    start = torch.from_numpy(rng.normal(size=(7, 5)))
    courses = {}
    for dtype, backend, device in (
        (torch.float64, "torch", "cpu"),
        (torch.float32, site.backend, site.device),
    ):
        w = nn.Parameter(start.to(device, dtype).clone())
        optimizer = YellowFin([w], backend=backend, closed_loop=True, **MODES.get(mode, {}))
        shown = []
        noise = np.random.default_rng(5)
        for step in range(6):
            noisy = torch.from_numpy(noise.normal(size=(7, 5)))
            w.grad = (w.detach().double().cpu() + 0.1 * noisy).to(device, dtype)
            optimizer.step(staleness=min(step, 3))
            shown.append(optimizer.diagnostics())
        courses[dtype] = shown, w.detach().double().cpu()
    exact, single = courses[torch.float64], courses[torch.float32]
    names = ("momentum", "target_momentum", "total_momentum", "staleness", "lr")
    for a, b in zip(exact[0], single[0]):
        for name in names:
            tolerance = 0.05 if mode == "compact" else 2e-3  # its codes are rounded at random
            assert b[name] == pytest.approx(a[name], rel=tolerance, abs=tolerance, nan_ok=True)
    assert exact[0][-1]["momentum"] < 0.2
    torch.testing.assert_close(single[1], exact[1], rtol=0.05, atol=0.02)


def test_moves_that_roundings_drown_are_left_out() -> None:
    """Most coordinates hardly moved two steps ago, and move more and more now."""
    w = nn.Parameter(torch.zeros(50))
    optimizer = YellowFin([w], robust=False, closed_loop=PAPERS)
    gradient = torch.ones(50)
    for growing in (1e-9, 1.0, 3.0):
        w.grad = gradient.clone()
        w.grad[20:] = growing
        optimizer.step(staleness=1)
    shown = optimizer.diagnostics()
    velocity = optimizer.state[w]["momentum_buffer"]
    assert velocity[:20].unique().numel() == 1
    assert abs(shown["total_momentum"]) < 2.0


def test_a_staleness_beyond_the_history_gives_no_reading() -> None:
    w = nn.Parameter(torch.ones(20))
    loop = ClosedLoop(every=1, compensate=False, max_staleness=5)
    optimizer = YellowFin([w], closed_loop=loop)
    for staleness, reads in ((6, False), (5, True)):
        for step in range(9):
            w.grad = torch.linspace(1.0, 2.0, 20) + 0.1 * (step % 3)
            optimizer.step(staleness=staleness)
        assert np.isfinite(optimizer.diagnostics()["total_momentum"]) == reads
    assert optimizer.param_groups[0]["velocity_history"].shape == (7, 20)


def test_a_group_that_stands_still_does(rng: np.random.Generator) -> None:
    w, v = (nn.Parameter(torch.from_numpy(rng.normal(size=50)).float()) for _ in range(2))
    optimizer = YellowFin([{"params": [w]}, {"params": [v]}], closed_loop=True)
    for lr in (1.0, 0.0, 0.0):
        optimizer.param_groups[1]["lr"] = lr
        before = v.detach().clone()
        w.grad, v.grad = torch.ones(50), torch.ones(50)
        optimizer.step(staleness=9)
        assert optimizer.diagnostics()["momentum"] < -0.3
        assert torch.equal(v.detach(), before) == (lr == 0.0)


def test_the_server_tells_the_staleness() -> None:
    w = nn.Parameter(torch.ones(40))
    optimizer = YellowFin([w], closed_loop=True)
    server = Server([w], optimizer)
    version = server.version
    for _ in range(3):
        server.push(torch.ones_like(server.gradients[0]), version=version)
    assert optimizer.diagnostics()["staleness"] == pytest.approx(1.0, rel=0.01)  # of 0, 1, 2


def test_the_readouts_show_the_momentum_in_use() -> None:
    w = nn.Parameter(torch.ones(40))
    optimizer = YellowFin([w], closed_loop=True)
    for _ in range(4):
        w.grad = torch.ones(40)
        optimizer.step(staleness=9)
        shown = optimizer.diagnostics()
        assert float(optimizer.param_groups[0]["momentum"]) == shown["momentum"] < 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"closed_loop": "yes"}, "Invalid closed_loop type: str; give True, False or"),
        ({"robust": False, "momentum_form": "buffer"}, "Invalid momentum_form value: 'buffer'"),
        ({"robust": False, "trust_ratio": True}, "Invalid trust_ratio value: True"),
        ({"capturable": True}, "Invalid capturable value: True"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        YellowFin([nn.Parameter(torch.ones(1))], **{"closed_loop": True, **options})


def test_bad_numbers_are_named() -> None:
    with pytest.raises(ValueError, match=r"Invalid gain value: -1; it must be in \[0, 1\]"):
        ClosedLoop(gain=-1)
    with pytest.raises(ValueError, match="Invalid every value: 0"):
        ClosedLoop(every=0)
    with pytest.raises(ValueError, match="Invalid coordinates value: 0"):
        ClosedLoop(coordinates=0)
    with pytest.raises(ValueError, match="Invalid max_staleness value: -1"):
        ClosedLoop(max_staleness=-1)
    w = nn.Parameter(torch.ones(1))
    w.grad = torch.ones(1)
    with pytest.raises(ValueError, match="Invalid staleness value: -1; it must be >= 0"):
        YellowFin([w]).step(staleness=-1)


def test_sharded_parameters_are_refused() -> None:
    require_whole(Sharding())
    with pytest.raises(RuntimeError, match="closed_loop takes whole parameters"):
        require_whole(Sharding(shards=(ShardGroup((), torch.device("cpu")),)))
