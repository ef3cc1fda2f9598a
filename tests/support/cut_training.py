"""A training run to be cut and resumed: one fixed trace of gradients for every optimizer."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch

from support.cases import Gradients, Site, normal
from support.kinds import Kind

Params = list[torch.nn.Parameter]
ROUNDS = {"stochastic_rounding": True}


class Training:
    """Parameters, their optimizer and one fixed trace of gradients, to be cut and resumed."""

    def __init__(
        self,
        kind: Kind,
        site: Site,
        rng: np.random.Generator,
        dtype: torch.dtype,
        **options: Any,
    ):
        self.kind, self.site, self.options = kind, site, {**kind.measures, **options}
        self.params: Params = [
            torch.nn.Parameter(normal(rng, torch.empty(shape)).to(site.device, dtype))
            for shape in ((40, 3), (7,), ())
        ]
        trace = Gradients(
            12,
            factor={2: 1e2, 7: 1e2},
            poison={4: np.nan, 8: np.inf},
            present=lambda step, i: i != 1 or step > 7,  # gets its first gradient after the cut
        )
        self.gradients = list(trace.draw(rng, self.params))
        self.optimizer = self.build(self.params)

    def build(self, params: Params) -> Any:
        lr = 0.5 * self.kind.options.get("lr", 1.0)
        groups = [{"params": params[:1], "lr": lr, "weight_decay": 0.1}, {"params": params[1:]}]
        return self.kind.build(groups, backend=self.site.backend, **self.options)

    def train(self, optimizer: Any, params: Params, start: int, stop: int) -> None:
        for gradients in self.gradients[start:stop]:
            for p, g in zip(params, gradients, strict=True):
                p.grad = None if g is None else torch.empty_like(p).copy_(g)
            optimizer.step()

    def copy_params(self) -> Params:
        return [torch.nn.Parameter(p.detach().clone()) for p in self.params]


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
