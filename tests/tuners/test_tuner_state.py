"""All that a tuner knows lies in one tensor after every step, and stays there."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from yfkernels import LAMB, YellowFin
from yfkernels.ops.backends import backend_status
from yfkernels.ops.constants import MOVE_SUMS, STATE_FIELDS, STATE_FORMAT
from yfkernels.ops.rules import YELLOWFIN

FIRST = STATE_FIELDS.index(MOVE_SUMS[0])
UNREAD = slice(FIRST, FIRST + len(MOVE_SUMS))
ONE_TABLE = (torch.float32, torch.float32)
TWO_TABLES = (torch.float32, torch.bfloat16)
each_backend = pytest.mark.parametrize(
    "backend", [name for name in ("native", "torch") if backend_status("cpu")[name] is None]
)
each_dtypes = pytest.mark.parametrize("dtypes", [ONE_TABLE, TWO_TABLES], ids=["one", "two"])
each_mode = pytest.mark.parametrize("preconditioner", [None, "diagonal", "compact"])


def parameters(dtypes: Sequence[torch.dtype]) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(40, generator=generator).to(dtype)) for dtype in dtypes]


def step(optimizer: Any, params: list[nn.Parameter], seed: int, factor: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = (factor * torch.randn(p.shape, generator=generator)).to(p.device, p.dtype)
    optimizer.step()


def growth(before: list[Tensor], after: list[Tensor]) -> float:
    return sum(
        float((a.double() ** 2 - b.double() ** 2).sum()) for b, a in zip(before, after, strict=True)
    )


def in_full(optimizer: Any, params: list[nn.Parameter]) -> list[Tensor]:
    return [optimizer.state[p].get("master", p).detach().clone() for p in params]


@each_backend
@each_dtypes
def test_what_an_update_sums_is_in_the_state_at_once(
    dtypes: Sequence[torch.dtype], backend: str
) -> None:
    params = parameters(dtypes)
    optimizer = YellowFin(params, preconditioner=None, backend=backend)
    state = optimizer._tuner.state
    step(optimizer, params, 0)
    for seed in (1, 2):
        before = in_full(optimizer, params)
        step(optimizer, params, seed)
        expected = growth(before, in_full(optimizer, params))
        assert float(state[FIRST]) == pytest.approx(expected, rel=1e-4)
        tables = optimizer._planner.tables
        if dtypes is ONE_TABLE:  # written there by the update itself
            assert tables[0].move_sums.data_ptr() == state[UNREAD].data_ptr()
        else:
            assert float(state[FIRST]) == sum(float(table.move_sums[0]) for table in tables)
    assert optimizer._tuner.state is state


@pytest.mark.cuda
@each_dtypes
@pytest.mark.parametrize("capturable", [False, True])
def test_on_a_gpu_it_lies_beside_the_parameters(
    capturable: bool, dtypes: Sequence[torch.dtype]
) -> None:
    """So that the host, if it tunes, does not wait for the update too."""
    params = [nn.Parameter(p.detach().cuda()) for p in parameters(dtypes)]
    optimizer = YellowFin(params, preconditioner=None, capturable=capturable)
    step(optimizer, params, 0)
    state = optimizer._tuner.state
    for seed in (1, 2):
        before = in_full(optimizer, params)
        step(optimizer, params, seed)
        expected = growth(before, in_full(optimizer, params))
        assert float(state[FIRST]) == pytest.approx(expected, rel=1e-4)
    assert optimizer._tuner.state is state
    assert state.is_cuda
    if dtypes is ONE_TABLE:
        assert optimizer._planner.tables[0].move_sums.data_ptr() == state[UNREAD].data_ptr()


@each_backend
@each_dtypes
@each_mode
@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("factor", [0.0, math.nan])
def test_a_step_that_is_none_leaves_it(
    factor: float,
    loaded: bool,
    preconditioner: str | None,
    dtypes: Sequence[torch.dtype],
    backend: str,
) -> None:
    params = parameters(dtypes)
    optimizer = YellowFin(params, preconditioner=preconditioner, backend=backend)
    for seed in (0, 1):
        step(optimizer, params, seed)
    if loaded:  # the tables are new, and have summed nothing yet
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    before = optimizer._tuner.state.clone()
    assert before[FIRST] != 0.0
    step(optimizer, params, 2, factor)
    before[STATE_FIELDS.index("skipped")] += math.isnan(factor)
    assert torch.equal(optimizer._tuner.state, before)


@each_dtypes
@each_mode
def test_a_new_plan_goes_on_from_it(
    preconditioner: str | None, dtypes: Sequence[torch.dtype]
) -> None:
    """As with the tables from before: bit for bit."""
    results = []
    for anew in (False, True):
        params = parameters(dtypes)
        optimizer = YellowFin(params, preconditioner=preconditioner)
        for seed in range(4):
            if anew:
                optimizer._planner.drop()
            step(optimizer, params, seed)
        results.append([*(p.detach() for p in params), optimizer._tuner.state])
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("kind", [YellowFin, LAMB])
def test_it_stays_the_same_tensor(kind: Any) -> None:
    params = parameters(TWO_TABLES)
    optimizer = kind(params)
    tuner = optimizer._tuner
    state, begin = tuner.state, tuner.state.clone()
    for seed in range(3):
        step(optimizer, params, seed)
    if kind is LAMB:
        step(optimizer, params, 3, math.nan)
        state[1] = 3.0  # steps skipped
    saved = copy.deepcopy(optimizer.state_dict())
    trained = state.clone()
    tuner.clear()
    assert torch.equal(state.nan_to_num(7.0), begin.nan_to_num(7.0))
    assert not torch.equal(trained.nan_to_num(7.0), begin.nan_to_num(7.0))
    optimizer.load_state_dict(saved)
    assert torch.equal(state.nan_to_num(7.0), trained.nan_to_num(7.0))
    assert tuner.state is state


@pytest.mark.parametrize(
    "arguments",
    [{}, {"robust": False}, {"robust": False, "momentum_form": "polyak"}, {"log_smooth": False}],
    ids=str,
)
def test_it_describes_itself(arguments: dict[str, Any]) -> None:
    params = parameters(ONE_TABLE)
    optimizer = YellowFin(params, **arguments)
    options = optimizer._tuner.options
    for seed in range(3):
        head = dict(zip(STATE_FIELDS, optimizer._tuner.state.tolist()))
        assert head["format"] == STATE_FORMAT
        for name in ("robust", "preconditioned", "polyak", "log_smooth"):
            assert head[name] == float(getattr(options, name)), name
        step(optimizer, params, seed)


@each_backend
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"preconditioner": None, "weight_decay": 1e6},
        {"robust": False, "lr": 1e9},
        {"robust": False, "momentum_form": "polyak"},
    ],
    ids=str,
)
def test_lr_of_each_group_is_a_coefficient(arguments: dict[str, Any], backend: str) -> None:
    """In place, so that a view of it is always the last step's; a skipped step leaves it."""
    params = parameters(ONE_TABLE)
    groups = [{"params": params[:1]}, {"params": params[1:], "lr": 0.5}]
    optimizer = YellowFin(groups, backend=backend, **arguments)
    step(optimizer, params, 0)
    column = YELLOWFIN.fields.index("lr")
    views = [optimizer._tuner.coefficients[i, column] for i in range(2)]
    gain = "velocity_gain" if optimizer._tuner.options.polyak else "param_gain"
    for seed in range(1, 4):
        step(optimizer, params, seed)
        if seed == 2:
            optimizer._planner.drop()
        lrs = [float(view) for view in views]
        assert lrs == optimizer.tuned_lrs()
        assert lrs[0] == optimizer.diagnostics()["lr"] > 0.0
        coefficients = optimizer._tuner.coefficients[:, YELLOWFIN.fields.index(gain)]
        assert lrs == (-coefficients).tolist()
    step(optimizer, params, 4, math.nan)
    assert lrs == optimizer.tuned_lrs()


@each_backend
@each_mode
def test_what_is_assigned_to_a_readout_lasts_until_the_next_step(
    preconditioner: str | None, backend: str
) -> None:
    """And has no effect on it."""
    params, twins = parameters(ONE_TABLE), parameters(ONE_TABLE)
    optimizer = YellowFin(params, preconditioner=preconditioner, backend=backend)
    expected = YellowFin(twins, preconditioner=preconditioner, backend=backend)
    for seed in range(4):
        step(optimizer, params, seed)
        step(expected, twins, seed)
        [group], [other] = optimizer.param_groups, expected.param_groups
        for name in ("tuned_lr", "momentum"):
            assert torch.equal(group[name], other[name])
            group[name] = 0.75
    for p, q in zip(params, twins):
        assert torch.equal(p, q)
