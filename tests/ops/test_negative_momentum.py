"""Momentum below zero, which a tuner may decide on where steps are asynchronous: no rule minds.

A user's own is refused where it is typed (tests/optim/test_yellowfin_bad_input.py).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy_rules import PRECONDITIONED, YELLOWFINS, direction
from oracle.codes import VALUES
from support.cases import Site, normal

from yfkernels.ops import float8
from yfkernels.ops.backends import backend_of
from yfkernels.ops.constants import LARGEST_FLOAT8
from yfkernels.ops.rules import Rule
from yfkernels.ops.table import Column, Row, TensorTable

SIZE, TAKEN = 1025, 3.0


@pytest.mark.parametrize("rule", [*YELLOWFINS, *PRECONDITIONED], ids=lambda rule: rule.name)
def test_an_update(rule: Rule, site: Site, rng: np.random.Generator) -> None:
    backend = backend_of(site.backend, site.device)
    values = dict(zip(rule.fields, rng.uniform(0.1, 0.9, len(rule.fields))))
    values |= {"active": 1.0, "momentum": float(rng.uniform(-0.9, -0.1)), "velocity_keep": 1.0}
    values |= {"param_keep": 1.0, "average_decay": 0.9, "average_gain": 0.1}
    if rule in PRECONDITIONED:
        values |= {"param_gain": 1.0}
    if rule.stored.coded:
        values["coupled_decay"] = 0.0

    like = torch.empty(SIZE)
    grad, param, velocity = (normal(rng, like).float() for _ in range(3))
    if rule.stored.in_float8:
        bits = float8.nearest(velocity)
        velocity = float8.numbers(bits)
    columns = {
        Column.PARAM: param.clone(),
        Column.state(0): bits if rule.stored.in_float8 else velocity.clone(),
    }
    states = [velocity.double().numpy()]
    if rule.stored.coded:
        codes = torch.from_numpy(rng.integers(120, 180, SIZE).astype(np.uint8))
        columns[Column.state(1)] = codes
        states.append(VALUES[codes.numpy()])
    elif rule.states == 2:
        average = normal(rng, like).float().square()
        columns[Column.state(1)] = average.clone()
        states.append(average.double().numpy())
    if rule.counts:
        columns[Column.STEP] = torch.tensor(TAKEN)
    columns = {column: tensor.to(site.device) for column, tensor in columns.items()}
    table = TensorTable(backend, [Row(0, 0, 0, columns)])
    given = grad.to(site.device)
    table.bind([given])
    backend.upload(table, Column.GRAD, [given.data_ptr()])
    row = torch.tensor([[values[f] for f in rule.fields]], dtype=torch.float64)
    backend.update(rule, table, row.to(site.device))

    p = param.double().numpy()
    g = grad.double().numpy()
    u, after, gain, _ = direction(rule, values, g, p, states, TAKEN + 1.0)
    if rule.stored.in_float8:  # two neighbors are an eighth of the lower one apart at most
        seen = float8.numbers(columns[Column.state(0)].cpu())
        inside = np.clip(after[0], -LARGEST_FLOAT8, LARGEST_FLOAT8)
        np.testing.assert_allclose(seen, inside, rtol=0.125, atol=2.0**-17)
    else:
        np.testing.assert_allclose(columns[Column.state(0)].cpu(), after[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(columns[Column.PARAM].cpu(), p + gain * u, rtol=1e-5, atol=1e-5)
