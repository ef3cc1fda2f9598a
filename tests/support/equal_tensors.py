"""Two equal tensors with equal gradients, which random rounding must tell apart."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from support.cases import Gradients, Site, assert_same_bits, normal


def codes_of_equal_tensors(
    build: Callable[[list[nn.Parameter]], Any], site: Site, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """The codes of their squares after some steps, which a second run repeats bit for bit."""
    values = normal(rng, torch.empty(500)).float().to(site.device)
    trace = [g for [g] in Gradients(6).draw(rng, [values])]
    results: list[Any] = []
    for _ in range(2):
        params = [nn.Parameter(values.clone()) for _ in range(2)]
        optimizer = build(params)
        for g in trace:
            for p in params:
                p.grad = torch.empty_like(p).copy_(g)
            optimizer.step()
        results.append(copy.deepcopy(optimizer.state_dict()))
    assert_same_bits(*results)
    one, other = (results[0]["state"][i]["exp_avg_sq_codes"] for i in range(2))
    return one, other
