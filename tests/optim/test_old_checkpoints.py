"""Checkpoints of earlier releases load and go on as they would have then, for ever.

But for a rule that has become another one since: then they go on by that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.cases import Site

import yfkernels
from yfkernels.ops.constants import STATE_FIELDS, STRETCH

OTHER_RULE = (
    "YellowFin",
    "YellowFin-diagonal",
)  # since format 6 without the metric's scale, and longer
BY_THE_GRADIENT_ALONE = ("grad_norm", "clip_coefficient", "step", "skipped_steps")
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
    if path.stem in OTHER_RULE:
        seen, expected = optimizer.diagnostics(), saved["diagnostics"]
        for name in BY_THE_GRADIENT_ALONE:
            assert seen[name] == pytest.approx(expected[name], rel=1e-5), name
        # the scale begins at 1 and has had few steps to move
        assert 0.5 < optimizer._tuner.state[STATE_FIELDS.index("metric_scale")] < 2.0
        assert 0.5 < seen["lr"] / (STRETCH * expected["lr"]) < 2.0
        for p, before, after in zip(params, saved["params"], saved["after"]):
            as_far = before + STRETCH * (after - before)
            assert (p.detach() - as_far).norm() < STRETCH * (after - before).norm()
        return
    for p, after in zip(params, saved["after"]):
        torch.testing.assert_close(p.detach(), after, rtol=1e-5, atol=1e-6)
    named = {"radius": "distance_traveled"}  # as it is called by now
    expected = {named.get(name, name): value for name, value in saved["diagnostics"].items()}
    seen = {name: optimizer.diagnostics()[name] for name in expected}  # others may have come since
    assert seen == pytest.approx(expected, rel=1e-5, nan_ok=True)


def test_every_class_has_one() -> None:
    classes = {path.stem.partition("-")[0] for path in CHECKPOINTS}
    assert classes == {"YellowFin", "LAMB", "QHM", "QHAdam"}
