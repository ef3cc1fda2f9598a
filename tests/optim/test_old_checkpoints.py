"""Checkpoints of earlier releases load and go on as they would have then, for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.cases import Site

import yfkernels

CHECKPOINTS = sorted(Path(__file__).parents[1].joinpath("checkpoints").glob("*/*.pt"))


def optimizer_of(saved: dict[str, Any], backend: str) -> tuple[Any, list[torch.nn.Parameter]]:
    params = [torch.nn.Parameter(p.clone()) for p in saved["params"]]
    groups = [
        {"params": members, "weight_decay": decay}
        for members, decay in zip((params[:2], params[2:]), saved["weight_decays"])
    ]
    kind = getattr(yfkernels, saved["class"])
    return kind(groups, backend=backend, **saved["options"]), params


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_goes_on(path: Path, site: Site) -> None:
    if site.device != "cpu":
        pytest.skip("the checkpoints were trained on a CPU")
    saved = torch.load(path, weights_only=True)
    optimizer, params = optimizer_of(saved, site.backend)
    optimizer.load_state_dict(saved["state_dict"])
    for gradients in saved["grads"]:
        for p, gradient in zip(params, gradients):
            p.grad = gradient
        optimizer.step()
    for p, after in zip(params, saved["after"]):
        torch.testing.assert_close(p.detach(), after, rtol=1e-5, atol=1e-6)
    expected = saved["diagnostics"]
    seen = {name: optimizer.diagnostics()[name] for name in expected}  # others may have come since
    assert seen == pytest.approx(expected, rel=1e-5, nan_ok=True)


def test_every_class_has_one() -> None:
    classes = {path.stem.partition("-")[0] for path in CHECKPOINTS}
    assert classes == {"YellowFin", "LAMB", "QHM", "QHAdam"}
