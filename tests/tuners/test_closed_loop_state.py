"""What the closed loop remembers: saved, resumed, begun anew, and refused."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from yfkernels import ClosedLoop, YellowFin


def course(optimizer: YellowFin, w: nn.Parameter, steps: range) -> list[Tensor]:
    points = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        w.grad = w.detach() + 0.1 * torch.randn(w.shape, generator=generator)
        optimizer.step(staleness=step % 4)
        points.append(w.detach().clone())
    return points


def through_a_file(optimizer: YellowFin, w: nn.Parameter) -> tuple[YellowFin, nn.Parameter]:
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    v = nn.Parameter(w.detach().clone())
    other = YellowFin([v], closed_loop=True)
    other.load_state_dict(torch.load(file, weights_only=True))
    return other, v


def a_copy(optimizer: YellowFin, w: nn.Parameter) -> tuple[YellowFin, nn.Parameter]:
    other = copy.deepcopy(optimizer)
    return other, other.param_groups[0]["params"][0]


def a_pickle(optimizer: YellowFin, w: nn.Parameter) -> tuple[YellowFin, nn.Parameter]:
    other = pickle.loads(pickle.dumps(optimizer))
    return other, other.param_groups[0]["params"][0]


@pytest.mark.parametrize("way", [through_a_file, a_copy, a_pickle])
@pytest.mark.parametrize("stop", [1, 2, 4, 7, 16])  # up to 4 the history grows
def test_resumes_bit_for_bit(way: Any, stop: int, rng: np.random.Generator) -> None:
    w = nn.Parameter(torch.from_numpy(rng.normal(size=300)).float())
    optimizer = YellowFin([w], closed_loop=True)
    course(optimizer, w, range(stop))
    other, v = way(optimizer, w)
    expected = course(optimizer, w, range(stop, 30))
    found = course(other, v, range(stop, 30))
    assert all(torch.equal(a, b) for a, b in zip(expected, found))
    assert other.diagnostics() == optimizer.diagnostics()
    assert optimizer.diagnostics()["total_momentum"] == optimizer.diagnostics()["total_momentum"]


def test_a_reset_begins_anew(rng: np.random.Generator) -> None:
    start = torch.from_numpy(rng.normal(size=100)).float()
    w = nn.Parameter(start.clone())
    optimizer = YellowFin([w], closed_loop=True)
    first = course(optimizer, w, range(20))
    optimizer.reset()
    w.data.copy_(start)
    assert all(torch.equal(a, b) for a, b in zip(first, course(optimizer, w, range(20))))


def test_states_of_open_and_closed_loops(rng: np.random.Generator) -> None:
    """One takes the other's; the loop begins anew."""
    w = nn.Parameter(torch.from_numpy(rng.normal(size=100)).float())
    closed, open_loop = YellowFin([w], closed_loop=True), YellowFin([w])
    course(closed, w, range(20))
    course(open_loop, w, range(3))
    saved = copy.deepcopy(closed.state_dict()), copy.deepcopy(open_loop.state_dict())
    open_loop.load_state_dict(saved[0])
    closed.load_state_dict(saved[1])
    assert closed.diagnostics()["staleness"] == 0.0
    course(closed, w, range(20))
    course(open_loop, w, range(3))
    assert "total_momentum" not in open_loop.diagnostics()


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(
    poison: float, rng: np.random.Generator
) -> None:
    w = nn.Parameter(torch.from_numpy(rng.normal(size=100)).float())
    optimizer = YellowFin([w], closed_loop=True)
    course(optimizer, w, range(9))
    before = optimizer.diagnostics()
    saved = copy.deepcopy(optimizer.state_dict())
    w.grad = torch.full_like(w, poison)
    optimizer.step(staleness=50)
    after = optimizer.diagnostics()
    assert after.pop("skipped_steps") == before.pop("skipped_steps") + 1
    assert after == before
    for name in ("closed_loop", "velocity_history"):
        group = optimizer.param_groups[0]
        torch.testing.assert_close(
            group[name], saved["param_groups"][0][name], rtol=0, atol=0, equal_nan=True
        )


def test_parameters_that_come_later_begin_a_new_history(rng: np.random.Generator) -> None:
    w, v = (nn.Parameter(torch.from_numpy(rng.normal(size=50)).float()) for _ in range(2))
    optimizer = YellowFin([w], closed_loop=ClosedLoop(every=1, compensate=False))
    course(optimizer, w, range(9))
    optimizer.add_param_group({"params": [v]})
    known = optimizer.diagnostics()["total_momentum"]
    w.grad, v.grad = torch.ones(50), torch.ones(50)
    optimizer.step()
    assert optimizer.diagnostics()["total_momentum"] == known  # one move of it all is no history
    optimizer.step()
    shown = optimizer.diagnostics()
    assert shown["total_momentum"] == pytest.approx(shown["momentum"], abs=1e-4)


def test_the_history_is_the_same_tensor(rng: np.random.Generator) -> None:
    """As programs that keep the state expect."""
    w = nn.Parameter(torch.from_numpy(rng.normal(size=50)).float())
    optimizer = YellowFin([w], closed_loop=True)
    course(optimizer, w, range(1))
    group = optimizer.param_groups[0]
    held = group["closed_loop"], group["velocity_history"]
    course(optimizer, w, range(1, 20))
    assert group["closed_loop"] is held[0]
    assert group["velocity_history"] is held[1]


def test_other_options_begin_a_new_history(rng: np.random.Generator) -> None:
    """What was learned stays."""
    w = nn.Parameter(torch.from_numpy(rng.normal(size=50)).float())
    optimizer = YellowFin([w], closed_loop=True)
    course(optimizer, w, range(20))
    other = YellowFin([w], closed_loop=ClosedLoop(max_staleness=7, coordinates=16))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    total = optimizer.diagnostics()["total_momentum"]
    assert other.diagnostics()["total_momentum"] == total
    course(other, w, range(20, 30))
    assert other.param_groups[0]["velocity_history"].shape == (9, 16)


def test_a_history_of_another_dtype_is_cast(rng: np.random.Generator) -> None:
    w = nn.Parameter(torch.from_numpy(rng.normal(size=50)).float())
    optimizer = YellowFin([w], closed_loop=True)
    course(optimizer, w, range(9))
    saved = copy.deepcopy(optimizer.state_dict())
    group = saved["param_groups"][0]
    group["velocity_history"] = group["velocity_history"].double()
    other, v = through_a_file(optimizer, w)
    other.load_state_dict(saved)
    expected, found = (course(o, p, range(9, 30)) for o, p in ((optimizer, w), (other, v)))
    assert all(torch.equal(a, b) for a, b in zip(expected, found))


@pytest.mark.parametrize("wrong", [torch.zeros(3), "text"])
def test_a_state_of_something_else_is_refused(wrong: Any, rng: np.random.Generator) -> None:
    w = nn.Parameter(torch.from_numpy(rng.normal(size=50)).float())
    optimizer = YellowFin([w], closed_loop=True)
    course(optimizer, w, range(9))
    before = optimizer.diagnostics()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["closed_loop"] = wrong
    with pytest.raises(RuntimeError, match="'closed_loop' and 'velocity_history' in the first"):
        optimizer.load_state_dict(saved)
    assert optimizer.diagnostics() == before


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_through_torchs_distributed_checkpoint(tmp_path: Path, rng: np.random.Generator) -> None:
    """Which loads into the tensors that a fresh optimizer has."""
    model = nn.Linear(7, 5)
    optimizer = YellowFin(model.parameters(), closed_loop=True)

    def train(model: nn.Module, optimizer: YellowFin, steps: range) -> None:
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            for p in model.parameters():
                p.grad = p.detach() + 0.1 * torch.randn(p.shape, generator=generator)
            optimizer.step(staleness=step % 4)

    train(model, optimizer, range(12))
    model_state, state = get_state_dict(model, optimizer)
    dcp.save({"model": model_state, "optimizer": state}, checkpoint_id=tmp_path)
    other = nn.Linear(7, 5)
    fresh = YellowFin(other.parameters(), closed_loop=True)
    model_state, state = get_state_dict(other, fresh)
    dcp.load({"model": model_state, "optimizer": state}, checkpoint_id=tmp_path)
    set_state_dict(other, fresh, model_state_dict=model_state, optim_state_dict=state)
    assert fresh.diagnostics() == optimizer.diagnostics()
    train(model, optimizer, range(12, 30))
    train(other, fresh, range(12, 30))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))


def test_what_is_loaded_in_place_counts(rng: np.random.Generator) -> None:
    """As torch.distributed.checkpoint loads: into the tensors that state_dict() has given."""
    w = nn.Parameter(torch.from_numpy(rng.normal(size=50)).float())
    optimizer = YellowFin([w], closed_loop=True)
    course(optimizer, w, range(20))
    other, v = through_a_file(optimizer, w)
    course(other, v, range(30, 40))
    with torch.no_grad():
        v.copy_(w)
        for mine, saved in zip(tensors_of(other), tensors_of(optimizer)):
            mine.copy_(saved)
    expected, found = (course(o, p, range(20, 30)) for o, p in ((optimizer, w), (other, v)))
    assert all(torch.equal(a, b) for a, b in zip(expected, found))


def tensors_of(optimizer: YellowFin) -> list[Tensor]:
    """All that a state_dict has."""
    state = optimizer.state_dict()
    nested = [*state["state"].values(), *state["param_groups"]]
    return [value for each in nested for value in each.values() if isinstance(value, Tensor)]
