"""What a tuner hands to the base, and what it keeps: gradients, learning rates, copies."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from yfkernels import HD, MARTHE
from yfkernels.tuners.hypergradient import Normalized, normalized_step

SGD, AdamW = torch.optim.SGD, torch.optim.AdamW
BASES: dict[str, Callable[..., Any]] = {
    "AdamW fused": partial(AdamW, lr=0.01, fused=True),
    "AdamW foreach": partial(AdamW, lr=0.01, foreach=True),
    "SGD fused": partial(SGD, lr=0.01, momentum=0.9, fused=True),
    "SGD Nesterov foreach": partial(SGD, lr=0.01, momentum=0.9, nesterov=True, foreach=True),
}


@pytest.fixture
def seed(rng: Any) -> int:
    return int(rng.integers(2**31))


class Awkward(nn.Module):
    """Gradients that are transposed, expanded, shared by two parameters, channels_last."""

    def __init__(self) -> None:
        super().__init__()
        self.einsum = nn.Parameter(torch.randn(6, 5))
        self.spread = nn.Parameter(torch.randn(7, 5))
        self.left, self.right = nn.Parameter(torch.randn(5)), nn.Parameter(torch.randn(5))
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor, images: Tensor) -> Tensor:
        rows = torch.einsum("bi,io->bo", x, self.einsum)
        both = (rows + self.left + self.right).square().mean()
        return both + self.spread.sum() * 0.1 + self.convolution(images).square().mean()


@pytest.mark.parametrize("name", BASES)
def test_the_base_steps_as_after_backward(name: str, seed: int) -> None:
    models = []
    for tuned in (False, True):
        torch.manual_seed(seed)
        model = Awkward()
        x, images = torch.randn(8, 6), torch.randn(2, 3, 8, 8)
        images = images.to(memory_format=torch.channels_last)
        base = BASES[name](model.parameters())
        loss = partial(model, x, images)
        tuner = MARTHE(base, mu=0.9, hyper_lr=0.0) if tuned else None
        for _ in range(4):
            if tuner is not None:
                tuner.step(loss, loss)
            else:
                base.zero_grad()
                loss().backward()
                base.step()
        models.append(model)
    for (which, wanted), found in zip(models[0].named_parameters(), models[1].parameters()):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6, msg=which)


def test_a_frozen_parameter_stays(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
    x = torch.randn(8, 4)
    tuner = MARTHE(SGD(model.parameters(), lr=0.1, momentum=0.9), mu=0.9)
    for _ in range(2):
        tuner.step(lambda: model(x).square().mean(), lambda: model(x).square().mean())
    model[0].requires_grad_(False)
    before = model[0].weight.detach().clone()
    for _ in range(2):
        tuner.step(lambda: model(x).square().mean(), lambda: model(x).square().mean())
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_a_copy_under_a_schedule_steps_itself(way: str) -> None:
    w = nn.Parameter(torch.ones(3))
    optimizer = HD(SGD([w], lr=0.1))
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5**t)  # which replaces step
    twin = copy.deepcopy(optimizer) if way == "deepcopy" else pickle.loads(pickle.dumps(optimizer))
    own = twin.param_groups[0]["params"][0]
    own.grad = torch.ones(3)
    twin.step()
    assert torch.equal(w, torch.ones(3))
    torch.testing.assert_close(own.detach(), torch.full((3,), 0.9))


@pytest.mark.parametrize("kind", [HD, MARTHE])
def test_groups_that_share_a_tensor_for_lr(kind: Callable[..., Any], seed: int) -> None:
    torch.manual_seed(seed)
    u, v = nn.Parameter(torch.randn(4).double()), nn.Parameter(torch.randn(4).double())
    shared = torch.tensor(0.1, dtype=torch.float64)
    base = SGD([{"params": [u]}, {"params": [v]}], lr=shared, foreach=False)
    tuner = kind(base)
    for _ in range(4):
        before = u.detach().clone(), v.detach().clone()
        loss = lambda: 0.5 * u.square().sum() + 4.5 * v.square().sum()  # noqa: E731
        used = tuner.diagnostics()["lr"]
        if kind is HD:
            base.zero_grad()
            loss().backward()
            tuner.step()
            used = tuner.diagnostics()["lr"]  # decided before the move
        else:
            tuner.step(loss, lambda: (u - 1).square().sum() + v.square().sum())
        for p, was, curvature, lr in zip((u, v), before, (1.0, 9.0), used):
            torch.testing.assert_close(was - p.detach(), lr * curvature * was)
    assert all(group["lr"] is shared for group in base.param_groups)
    assert float(shared) == 0.1


def test_an_older_tuner_is_refused_before_anything_changes() -> None:
    w = nn.Parameter(torch.ones(3))
    base = SGD([w], lr=0.1)
    for older, step in (
        (HD(base), lambda tuner: tuner.step()),
        (MARTHE(base), lambda tuner: tuner.step(lambda: w.square().sum())),
    ):
        newer = HD(base)
        for _ in range(2):
            w.grad = torch.ones(3)
            newer.step()
        groups = copy.deepcopy([{k: g[k] for k in g if k != "params"} for g in base.param_groups])
        w.grad = torch.full((3,), -1.0)
        with pytest.raises(RuntimeError, match="Another tuner was made over this SGD"):
            step(older)
        now = [{k: g[k] for k in g if k != "params"} for g in base.param_groups]
        assert now == groups
        assert torch.equal(w.grad, torch.full((3,), -1.0))


@pytest.mark.parametrize(
    ("dot", "norms", "state", "hyper_lr"),
    [
        (1e-170, (1.0, 1.0), Normalized(), 0.3),
        (-1.0, (1.0, 1.0), Normalized(), 1000.0),
        (1.0, (1.0, 1.0), Normalized(), 1e6),
        (1e-200, (1e-200, 1.0), Normalized(1.0, 1e200, 0.1, 3.0), 0.3),
        (1e200, (1e200, 1.0), Normalized(1.0, 1e-200, 0.0, 0.0), 0.3),
    ],
)
def test_extreme_numbers(
    dot: float, norms: tuple[float, float], state: Normalized, hyper_lr: float
) -> None:
    lr, after = normalized_step(0.1, dot, norms, state, hyper_lr)
    assert math.isfinite(lr)
    assert lr >= 0.0
    assert all(map(math.isfinite, after))


def test_hooks_of_saving_run_and_come_with_no_copy() -> None:
    w = nn.Parameter(torch.ones(2))
    optimizer = HD(SGD([w], lr=0.1))
    called: list[str] = []
    optimizer.register_state_dict_pre_hook(lambda *_: called.append("before saving"))
    optimizer.register_state_dict_post_hook(lambda *_: called.append("after saving"))
    optimizer.register_load_state_dict_pre_hook(lambda *_: called.append("before loading"))
    optimizer.register_load_state_dict_post_hook(lambda *_: called.append("after loading"))
    optimizer.load_state_dict(optimizer.state_dict())
    order = ["before saving", "after saving", "before loading", "after loading"]
    assert called == order
    twin = copy.deepcopy(optimizer)
    twin.load_state_dict(twin.state_dict())
    assert called == order
    twin.register_state_dict_pre_hook(lambda *_: called.append("of the copy"))
    twin.state_dict()
    optimizer.state_dict()
    assert called == [*order, "of the copy", "before saving", "after saving"]


def test_loading_twice_is_loading_once(seed: int) -> None:
    torch.manual_seed(seed)
    w = nn.Parameter(torch.randn(5))
    for tuner in (HD(SGD([w], lr=0.1, momentum=0.9)), MARTHE(SGD([w], lr=0.1, momentum=0.9))):
        for _ in range(3):
            if isinstance(tuner, HD):
                w.grad = 2.0 * w.detach()
                tuner.step()
            else:
                tuner.step(lambda: w.square().sum(), lambda: (w - 1.0).square().sum())
        saved = copy.deepcopy(tuner.state_dict())
        tuner.load_state_dict(saved)
        once = copy.deepcopy(tuner.state_dict())
        tuner.load_state_dict(saved)
        torch.testing.assert_close(tuner.state_dict(), once, rtol=0, atol=0)
        torch.testing.assert_close(once, saved, rtol=0, atol=0)


def test_the_additive_forms_end_at_zero() -> None:
    """Neither a learning rate nor the step size of one goes below."""
    w = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = HD(SGD([w], lr=0.1), form="additive", hyper_lr=10.0)
    for gradient in (1.0, -1.0):
        w.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
    assert optimizer.diagnostics()["lr"] == [0.0]
    tuner = MARTHE(SGD([w], lr=0.1), mu=0.0, alpha=1e6)
    for sign in (1.0, -1.0):  # two hypergradients of opposite sign
        tuner.step(lambda: w.square().sum(), lambda sign=sign: sign * w.sum())  # type: ignore[misc]
    assert tuner.diagnostics()["hyper_lr"] == [0.0]


FORMS: dict[str, Callable[[Any], Any]] = {
    "HD": HD,
    "HD multiplicative": lambda base: HD(base, form="multiplicative"),
    "HD additive": lambda base: HD(base, form="additive", hyper_lr=1e-5),
    "MARTHE": lambda base: MARTHE(base, mu=0.9),
    "MARTHE additive": lambda base: MARTHE(base, mu=0.9, hyper_lr=1e-5),
}


def one_step(tuner: Any, w: Tensor) -> None:
    if isinstance(tuner, HD):
        w.grad = 2.0 * w.detach()
        tuner.step()
    else:
        tuner.step(lambda: w.square().sum(), lambda: w.square().sum())


@pytest.mark.parametrize("low", [0.0, 1e-12])
@pytest.mark.parametrize("form", FORMS)
def test_a_schedule_that_comes_back_finds_what_was_tuned(form: str, low: float, seed: int) -> None:
    """Cosine with restarts: at its low nothing is learned, and nothing lost."""
    torch.manual_seed(seed)
    w = nn.Parameter(torch.randn(5, dtype=torch.float64))
    base = SGD([w], lr=0.01)
    tuner = FORMS[form](base)
    for _ in range(5):
        one_step(tuner, w)
    base.param_groups[0]["lr"] = 0.01 * low
    one_step(tuner, w)  # HD learns here from the last step at the full rate
    tuned = tuner.diagnostics()["lr"][0] / low if low else None
    for _ in range(10):
        before = w.detach().clone()
        one_step(tuner, w)
        torch.testing.assert_close(w.detach(), before, rtol=1e-10, atol=0)
    base.param_groups[0]["lr"] = 0.01
    back = tuner.diagnostics()["lr"][0]
    assert back > 0.01
    if tuned is not None:
        assert back == pytest.approx(tuned, rel=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_a_warm_up_from_zero(form: str, seed: int) -> None:
    """The tuning starts with the first rate that is not 0, and grows with the schedule."""
    torch.manual_seed(seed)
    w = nn.Parameter(torch.randn(5, dtype=torch.float64))
    base = SGD([w], lr=0.0)
    tuner = FORMS[form](base)
    one_step(tuner, w)
    assert tuner.diagnostics()["lr"] == [0.0]
    for lr in (0.001, 0.002, 0.004):
        before = tuner.diagnostics()["lr"][0]
        base.param_groups[0]["lr"] = lr
        expected = 2.0 * before if before else lr
        assert tuner.diagnostics()["lr"] == [pytest.approx(expected)]
        one_step(tuner, w)
    assert 0.004 < tuner.diagnostics()["lr"][0] < 0.02


def test_the_additive_form_descends_in_the_rate_at_the_schedules_height(seed: int) -> None:
    """With lr = s r, s the schedule's factor: r <- r - hyper_lr s <g, B>."""
    torch.manual_seed(seed)
    w = nn.Parameter(torch.randn(5, dtype=torch.float64))
    optimizer = HD(SGD([w], lr=0.1), form="additive", hyper_lr=1e-3)
    rate, last = 0.1, None
    for factor in (1.0, 0.5, 0.1, 0.7, 0.2):
        optimizer.param_groups[0]["lr"] = 0.1 * factor
        w.grad = 2.0 * w.detach()
        if last is not None:
            rate += 1e-3 * last[1] * float(w.grad @ last[0])
        last = w.grad.clone(), factor
        optimizer.step()
        assert optimizer.diagnostics()["lr"] == [pytest.approx(rate * factor, rel=1e-9)]


def test_a_group_that_leaves_the_closed_form_is_not_added() -> None:
    w, v = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = HD(torch.optim.Adam([w], lr=0.1))
    with pytest.raises(ValueError, match="Invalid amsgrad value: True"):
        optimizer.add_param_group({"params": [v], "amsgrad": True})
    assert len(optimizer.param_groups) == 1


def test_tangents_of_another_shape_are_refused() -> None:
    w = nn.Parameter(torch.ones(3))
    tuner = MARTHE(SGD([w], lr=0.1))
    tuner.step(lambda: w.square().sum())
    saved = tuner.state_dict()
    saved["tangents"] = {0: [torch.ones(4)]}
    before = copy.deepcopy(tuner.state_dict())
    with pytest.raises(ValueError, match=r"Invalid tangents\[0\] value: \(4,\)"):
        tuner.load_state_dict(saved)
    torch.testing.assert_close(tuner.state_dict(), before, rtol=0, atol=0)


def test_a_base_forgets_its_tuners() -> None:
    """The hooks of tuners that are gone are gone too."""
    w = nn.Parameter(torch.ones(3))
    base = SGD([w], lr=0.1)
    for _ in range(3):
        HD(base)
    assert len(base._optimizer_step_pre_hooks) == 0


def test_the_older_tuner_goes_on_when_the_newer_is_gone() -> None:
    w = nn.Parameter(torch.ones(3))
    base = SGD([w], lr=0.1)
    older = HD(base)
    HD(base)
    w.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match=r"SGD\.step\(\) was called while HD tunes"):
        base.step()
    older.step()
    assert torch.equal(w, torch.full((3,), 0.9))
