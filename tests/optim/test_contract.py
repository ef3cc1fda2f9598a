"""The torch.optim contract for every optimizer of the package."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import pytest
import torch
from support.cases import Site, assert_same_bits, takes_names
from support.training import Build, Model, backward, moved, train, values
from torch import Tensor

pytestmark = pytest.mark.kernel_free


def test_is_an_optimizer(build: Build, model: Model) -> None:
    optimizer = build(model.parameters())
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.defaults["lr"] == optimizer.param_groups[0]["lr"]
    assert type(optimizer).__name__ in repr(optimizer)
    assert not optimizer.state_dict()["state"]


def test_lowers_the_loss(build: Build, model: Model, site: Site) -> None:
    optimizer = build(model.parameters())
    first = backward(model)
    for _ in range(20 if site.interpreted else 60):
        optimizer.zero_grad()
        last = backward(model)
        optimizer.step()
    assert last < first


def test_groups_override(build: Build, model: Model) -> None:
    optimizer = build(
        [
            {"params": model.conv.parameters(), "lr": 0.0},
            {"params": [model.gain], "weight_decay": 0.5},
            {"params": [*model.hidden.parameters(), *model.out.parameters()]},
        ],
        lr=0.7,
    )
    assert [g["lr"] for g in optimizer.param_groups] == [0.0, 0.7, 0.7]
    usual = optimizer.defaults["weight_decay"]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [usual, 0.5, usual]
    before = values(model)
    train(model, optimizer)
    assert moved(model, before) == {n for n in before if not n.startswith("conv")}


def test_group_added_later(build: Build, model: Model) -> None:
    optimizer = build(model.hidden.parameters())
    before = values(model)
    train(model, optimizer, 3)
    assert moved(model, before) == {"hidden.weight", "hidden.bias"}
    optimizer.add_param_group({"params": model.out.parameters(), "lr": 0.5})
    assert len(optimizer.param_groups) == 2
    before = values(model)
    train(model, optimizer, 3)
    assert moved(model, before) == {n for n in before if n.startswith(("hidden", "out"))}
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [model.out.bias]})
    assert len(optimizer.param_groups) == 2


def test_group_edited_between_steps(build: Build, model: Model) -> None:
    """Values in param_groups are read in every step, as schedulers expect."""
    optimizer = build(model.parameters())
    train(model, optimizer, 2)
    optimizer.param_groups[0]["lr"] = 0.0
    before = values(model)
    train(model, optimizer, 2)
    assert not moved(model, before)
    optimizer.param_groups[0]["lr"] = 1.0
    train(model, optimizer, 1)
    assert moved(model, before)


def test_closure(build: Build, model: Model) -> None:
    optimizer = build(model.parameters())
    calls = []

    def closure() -> Tensor:
        assert torch.is_grad_enabled()
        calls.append(1)
        optimizer.zero_grad()
        return backward(model)

    with torch.no_grad():
        loss = optimizer.step(closure)
    assert len(calls) == 1
    assert isinstance(loss, Tensor)
    assert loss.item() > 0
    assert optimizer.step() is None


def test_step_hooks(build: Build, model: Model) -> None:
    optimizer = build(model.parameters())
    backward(model)
    seen: list[tuple[str, set[str]]] = []
    before = values(model)
    pre = optimizer.register_step_pre_hook(lambda *_: seen.append(("pre", moved(model, before))))
    post = optimizer.register_step_post_hook(lambda *_: seen.append(("post", moved(model, before))))
    optimizer.step()
    assert seen == [("pre", set()), ("post", set(before))]
    pre.remove()
    post.remove()
    optimizer.step()
    assert len(seen) == 2


def test_pre_hook_may_change_gradients(build: Build, model: Model) -> None:
    """Clipping and noise are often put there."""
    reference = copy.deepcopy(model)
    optimizer, other = build(model.parameters()), build(reference.parameters())

    def halve(*_: Any) -> None:
        for p in model.parameters():
            if p.grad is not None:
                p.grad.mul_(0.5)

    optimizer.register_step_pre_hook(halve)
    for k in range(3):
        for m, o in ((model, optimizer), (reference, other)):
            o.zero_grad()
            backward(m, k)
        for p in reference.parameters():
            assert p.grad is not None
            p.grad.mul_(0.5)
        optimizer.step()
        other.step()
    assert_same_bits(values(model), values(reference))


def test_state_dict_hooks(build: Build, model: Model) -> None:
    optimizer = build(model.parameters())
    train(model, optimizer, 2)
    seen: list[str] = []
    optimizer.register_state_dict_pre_hook(lambda *_: seen.append("state_dict pre"))
    optimizer.register_state_dict_post_hook(
        lambda _, state: seen.append("state_dict post") or {**state, "note": "mine"}
    )
    optimizer.register_load_state_dict_pre_hook(lambda *_: seen.append("load pre"))
    optimizer.register_load_state_dict_post_hook(lambda *_: seen.append("load post"))
    state = optimizer.state_dict()
    assert state.pop("note") == "mine"
    optimizer.load_state_dict(state)
    assert seen == ["state_dict pre", "state_dict post", "load pre", "load post"]


def test_state_dict_post_hook_sees_the_whole_state(build: Build, model: Model) -> None:
    """Checkpointing libraries save what this hook is given."""
    optimizer = build(model.parameters())
    train(model, optimizer, 2)
    seen: list[dict[str, Any]] = []
    optimizer.register_state_dict_post_hook(lambda _, state: seen.append(copy.deepcopy(state)))
    state = optimizer.state_dict()
    assert_same_bits(seen[0], state)


def test_load_pre_hook_may_replace_the_state(build: Build, model: Model) -> None:
    optimizer = build(model.parameters())
    train(model, optimizer, 2)
    good = copy.deepcopy(optimizer.state_dict())
    train(model, optimizer, 2)
    optimizer.register_load_state_dict_pre_hook(lambda *_: good)
    optimizer.load_state_dict({"state": {}, "param_groups": []})
    assert_same_bits(optimizer.state_dict()["state"], good["state"])


@takes_names
def test_named_parameters(build: Build, model: Model) -> None:
    reference = copy.deepcopy(model)
    optimizer, other = build(model.named_parameters()), build(reference.parameters())
    names = [name for name, _ in model.named_parameters()]
    assert optimizer.param_groups[0]["param_names"] == names
    train(model, optimizer)
    train(reference, other)
    assert_same_bits(values(model), values(reference))
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == names
    optimizer.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(set_to_none: bool, build: Build, model: Model) -> None:
    optimizer = build(model.parameters())
    backward(model)
    optimizer.step()
    optimizer.zero_grad(set_to_none=set_to_none)
    for p in model.parameters():
        if set_to_none:
            assert p.grad is None
        else:
            assert p.grad is not None
            assert not p.grad.any()
    backward(model)
    optimizer.step()


def test_both_kinds_of_zero_grad_agree(build: Build, model: Model) -> None:
    reference = copy.deepcopy(model)
    optimizer, other = build(model.parameters()), build(reference.parameters())
    for k in range(5):
        optimizer.zero_grad(set_to_none=True)
        other.zero_grad(set_to_none=False)
        backward(model, k)
        backward(reference, k)
        optimizer.step()
        other.step()
    assert_same_bits(values(model), values(reference))


def test_maximize_is_minimize_of_the_negative(build: Build, model: Model) -> None:
    reference = copy.deepcopy(model)
    optimizer = build(model.parameters(), maximize=True)
    other = build(reference.parameters())
    for k in range(5):
        for m, o in ((model, optimizer), (reference, other)):
            o.zero_grad()
            backward(m, k)
        for p in model.parameters():
            assert p.grad is not None
            p.grad.neg_()
        optimizer.step()
        other.step()
    assert_same_bits(values(model), values(reference))


def test_frozen_parameters_stay(build: Build, model: Model) -> None:
    model.hidden.requires_grad_(False)
    optimizer = build(model.parameters(), weight_decay=0.1)
    before = values(model)
    train(model, optimizer)
    assert moved(model, before) == {n for n in before if not n.startswith("hidden")}
    model.hidden.requires_grad_(True)  # unfrozen: its first gradient is a late one
    train(model, optimizer)
    assert moved(model, before) == set(before)


def test_parameters_without_gradient_stay(build: Build, model: Model) -> None:
    optimizer = build(model.parameters(), weight_decay=0.1)
    train(model, optimizer, 3)
    backward(model)
    model.out.weight.grad = None
    before = values(model)
    optimizer.step()
    assert moved(model, before) == set(before) - {"out.weight"}


def test_step_without_any_gradient(build: Build, model: Model) -> None:
    optimizer = build(model.parameters(), weight_decay=0.1)
    before = values(model)
    optimizer.step()
    train(model, optimizer, 2)
    between = values(model)
    optimizer.zero_grad()
    optimizer.step()
    assert not moved(model, between)
    train(model, optimizer, 1)
    assert moved(model, before) == set(before)


def test_parameters_stay_leaves(build: Build, model: Model) -> None:
    optimizer = build(model.parameters())
    identities = [id(p) for p in model.parameters()]
    addresses = [p.data_ptr() for p in model.parameters()]
    backward(model)
    with torch.enable_grad():
        optimizer.step()
    for p in model.parameters():
        assert p.is_leaf
        assert p.requires_grad
    assert identities == [id(p) for p in model.parameters()]
    assert addresses == [p.data_ptr() for p in model.parameters()]
    for state in optimizer.state.values():
        assert not any(t.requires_grad for t in state.values() if isinstance(t, Tensor))


def test_autograd_notices_the_change(build: Build, model: Model) -> None:
    """Kernels write without autograd's knowledge, so the version counters have to be told."""
    optimizer = build(model.parameters())
    train(model, optimizer, 2)
    x = torch.randn(2, 5, device=model.gain.device, requires_grad=True)
    loss = model.out(x).sum()
    optimizer.zero_grad()
    backward(model)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_gradients_are_let_go(build: Build, model: Model) -> None:
    """zero_grad(set_to_none=True) gives their memory back at once."""
    optimizer = build(model.parameters())
    train(model, optimizer, 2)
    grads = [weakref.ref(p.grad) for p in model.parameters() if p.grad is not None]
    optimizer.zero_grad(set_to_none=True)
    assert all(grad() is None for grad in grads)


def test_gradients_that_carry_a_graph(build: Build, model: Model) -> None:
    """backward(create_graph=True) leaves gradients that require grad themselves."""
    optimizer = build(model.parameters())
    grads = torch.autograd.grad(
        model(torch.randn(6, 1, 4, 4, device=model.gain.device)).square().mean(),
        list(model.parameters()),
        create_graph=True,
    )
    for p, g in zip(model.parameters(), grads, strict=True):
        p.grad = g
    before = values(model)
    optimizer.step()
    assert moved(model, before) == set(before)
    assert not any(p.grad_fn for p in model.parameters())


def test_one_generator_of_parameters(build: Build, model: Model) -> None:
    optimizer = build(p for p in model.parameters())
    assert len(optimizer.param_groups[0]["params"]) == len(list(model.parameters()))


def test_two_optimizers_side_by_side(build: Build, model: Model) -> None:
    """Nothing is shared between instances."""
    reference = copy.deepcopy(model)
    first = build(model.parameters())
    train(model, first, 4)
    second = build(reference.parameters())
    unrelated = Model().to(model.gain.device)
    disturbance = build(unrelated.parameters())
    for k in range(4):
        train(unrelated, disturbance, 1, seed=50 + k)
        train(reference, second, 1, seed=k)
    assert_same_bits(values(model), values(reference))
