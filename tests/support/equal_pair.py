"""Two equal optimizers, of which something is done to one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from support.cases import Site, assert_same_bits, normal
from support.kinds import Kind

SHAPES = ((5, 3), (7,), (), (1025,))


class Pair:
    """Two equal optimizers with equal gradients: what is done to one must not be seen."""

    def __init__(self, kind: Kind, site: Site, rng: np.random.Generator, **options: Any):
        self.rng = rng
        self.params = [
            nn.Parameter(normal(rng, torch.empty(s)).float().to(site.device)) for s in SHAPES
        ]
        self.expected_params = [nn.Parameter(p.detach().clone()) for p in self.params]
        self.optimizer = kind.build(self.params, backend=site.backend, **options)
        self.expected = kind.build(self.expected_params, backend=site.backend, **options)

    def train(self, steps: int) -> None:
        for _ in range(steps):
            for p, q in zip(self.params, self.expected_params):
                q.grad = 0.3 * q.detach() + 0.1 * normal(self.rng, q).float().to(q.device)
                p.grad = q.grad.clone()
            self.optimizer.step()
            self.expected.step()

    def assert_equal(self) -> None:
        assert_same_bits(
            [p.detach() for p in self.params], [q.detach() for q in self.expected_params]
        )
        assert_same_bits(self.optimizer.state_dict(), self.expected.state_dict())
