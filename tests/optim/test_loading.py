"""state_dicts as other programs carry them: loaded twice, pickled, wrapped, in other precisions."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.cases import Site, assert_same_bits, normal
from support.kinds import Kind
from torch import Tensor, nn
from torch.optim import Optimizer

import yfkernels

pytestmark = pytest.mark.kernel_free


def parameters(rng: np.random.Generator, site: Site) -> list[nn.Parameter]:
    shapes = ((5, 3), (7,), ())
    return [nn.Parameter(normal(rng, torch.empty(s)).float().to(site.device)) for s in shapes]


def copies(params: list[nn.Parameter]) -> list[nn.Parameter]:
    return [nn.Parameter(p.detach().clone()) for p in params]


def train(optimizer: Any, params: list[nn.Parameter], steps: range) -> None:
    for k in steps:
        draws = np.random.default_rng(k)
        for p in params:
            p.grad = (0.3 * p.detach() + 0.1 * normal(draws, p).float().to(p.device)).to(p.dtype)
        optimizer.step()


def assert_same_training(a: Any, p: list[nn.Parameter], b: Any, q: list[nn.Parameter]) -> None:
    train(a, p, range(50, 53))
    train(b, q, range(50, 53))
    assert_same_bits([x.detach() for x in p], [x.detach() for x in q])
    assert_same_bits(a.state_dict(), b.state_dict())


def loaded_once(optimizer: Any) -> Any:
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return optimizer


def loaded_twice(optimizer: Any) -> Any:
    state = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(state)
    optimizer.load_state_dict(state)
    return optimizer


def own_state(optimizer: Any) -> Any:
    optimizer.load_state_dict(optimizer.state_dict())
    return optimizer


def copied(optimizer: Any) -> Any:
    twin = copy.deepcopy(optimizer)
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return twin


def pickled(optimizer: Any) -> Any:
    return loaded_twice(pickle.loads(pickle.dumps(optimizer)))


def saved(optimizer: Any) -> Any:
    file = io.BytesIO()
    torch.save(optimizer, file)
    file.seek(0)
    return loaded_once(torch.load(file, weights_only=False))


@pytest.mark.parametrize(
    "carry",
    [loaded_once, loaded_twice, own_state, copied, pickled, saved],
    ids=lambda f: f.__name__,
)
def test_carried_and_trained_on(
    carry: Callable[[Any], Any], kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    params = parameters(rng, site)
    optimizer = kind.build(params, backend=site.backend)
    train(optimizer, params, range(4))
    expected_params = copies(params)
    expected = kind.build(expected_params, backend=site.backend)
    expected.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    twin = carry(optimizer)
    members = [p for group in twin.param_groups for p in group["params"]]
    assert_same_training(twin, members, expected, expected_params)


class Wrapper(Optimizer):
    """As SAM, Lookahead and their like: an optimizer that shares groups and state with another."""

    def __init__(self, base: Any) -> None:
        self.base = base
        super().__init__(base.param_groups, base.defaults)
        self.param_groups, self.state = base.param_groups, base.state

    def step(self, closure: Any = None) -> Any:
        return self.base.step(closure)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.base.param_groups, self.base.state = self.param_groups, self.state


def test_a_wrapper_saves_and_loads_all(kind: Kind, site: Site, rng: np.random.Generator) -> None:
    """Through Optimizer.state_dict and load_state_dict of its own, which know nothing of ours."""
    params = parameters(rng, site)
    expected = kind.build(params, backend=site.backend)
    train(expected, params, range(4))
    state = copy.deepcopy(Wrapper(expected).state_dict())
    others = copies(params)
    wrapper = Wrapper(kind.build(others, backend=site.backend))
    wrapper.load_state_dict(state)
    assert_same_training(wrapper.base, others, expected, params)
    assert wrapper.base.diagnostics() == pytest.approx(expected.diagnostics(), nan_ok=True)


class SharpnessAware(Optimizer):
    """SAM as it is published: the base is built over the wrapper's own groups."""

    def __init__(self, params: Any, base: Callable[..., Any], **options: Any) -> None:
        super().__init__(params, {"rho": 0.05, **options})
        self.base = base(self.param_groups, **options)
        self.param_groups = self.base.param_groups
        self.defaults.update(self.base.defaults)


def test_statistics_survive_published_sam(kind: Kind, site: Site, rng: np.random.Generator) -> None:
    """It saves no state of its base; what is in the groups it does save."""
    params = parameters(rng, site)
    sam = SharpnessAware(params, kind.build, backend=site.backend)
    train(sam.base, params, range(4))
    state = copy.deepcopy(sam.state_dict())
    others = copies(params)
    again = SharpnessAware(others, kind.build, backend=site.backend)
    again.load_state_dict(state)
    again.base.param_groups = again.param_groups
    before = sam.base.diagnostics()
    again.base.state = sam.base.state.__class__(dict)
    for p, q in zip(params, others):
        again.base.state[q] = {k: v.clone() for k, v in sam.base.state[p].items()}
    assert_same_training(again.base, others, sam.base, params)
    assert before.keys() == sam.base.diagnostics().keys()


def test_state_of_users_is_kept(kind: Kind, site: Site, rng: np.random.Generator) -> None:
    """An average of the weights, timm's Lookahead's slow weights."""
    params = parameters(rng, site)
    optimizer = kind.build(params, backend=site.backend)
    train(optimizer, params, range(3))
    for p in params:
        optimizer.state[p]["ema"] = p.detach().clone()
        optimizer.state[p]["rank"] = 3
    expected = copy.deepcopy(optimizer.state_dict())
    fresh = kind.build(copies(params), backend=site.backend)
    fresh.load_state_dict(copy.deepcopy(expected))
    assert_same_bits(fresh.state_dict()["state"], expected["state"])


def test_slow_weights_of_a_parameter_that_never_had_a_gradient(
    kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    params = parameters(rng, site)
    optimizer = kind.build(params, backend=site.backend)
    for p in params:
        optimizer.state[p]["slow"] = p.detach().clone()
    params[0].grad = torch.ones_like(params[0])
    optimizer.step()
    assert list(optimizer.state[params[1]]) == ["slow"]
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert list(optimizer.state[params[1]]) == ["slow"]


def test_missing_options_take_their_default(
    kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """As in a checkpoint of a release that did not have them."""
    params = parameters(rng, site)
    optimizer = kind.build(params, backend=site.backend, weight_decay=0.0)
    train(optimizer, params, range(3))
    state = copy.deepcopy(optimizer.state_dict())
    for name in ("maximize", "weight_decay", "max_norm", "gate"):
        state["param_groups"][0].pop(name, None)
    others = copies(params)
    fresh = kind.build(others, backend=site.backend, weight_decay=0.0)
    fresh.load_state_dict(state)
    if kind.saves == "tuner":
        assert_same_training(fresh, others, optimizer, params)
    assert fresh.diagnostics()["skipped_steps"] == 0


@pytest.mark.parametrize("kind_of", [yfkernels.QHM, yfkernels.QHAdam, yfkernels.LAMB])
def test_state_of_torch_is_refused_by_name(kind_of: Any) -> None:
    """Its buffer means another thing."""
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    for other in (torch.optim.SGD([p], 0.1, momentum=0.9), torch.optim.Adam([p])):
        other.step()
        with pytest.raises(RuntimeError, match="was not saved by yfkernels"):
            kind_of([p]).load_state_dict(other.state_dict())


def test_a_tuner_that_was_dropped_is_missed(site: Site, rng: np.random.Generator) -> None:
    params = parameters(rng, site)
    optimizer = yfkernels.YellowFin(params, backend=site.backend)
    train(optimizer, params, range(2))
    state = copy.deepcopy(optimizer.state_dict())
    del state["param_groups"][0]["tuner"]
    with pytest.raises(RuntimeError, match="no 'tuner'"):
        optimizer.load_state_dict(state)
    optimizer.load_state_dict({**state, "state": {}})
    train(optimizer, params, range(1))
    assert optimizer.diagnostics()["step"] == 1


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_resumed_in_half_precision(
    half: torch.dtype, kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """The master begins as the parameter."""
    params = parameters(rng, site)
    optimizer = kind.build(params, backend=site.backend)
    train(optimizer, params, range(3))
    others = [nn.Parameter(p.detach().to(half)) for p in params]
    resumed = kind.build(others, backend=site.backend)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for p in others:
        p.grad = torch.zeros_like(p)
    resumed.step()
    for p, q in zip(params, others):
        for name in optimizer.state[p]:
            assert resumed.state[q][name].dtype == optimizer.state[p][name].dtype
        assert resumed.state[q]["master"].dtype == torch.float32


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_resumed_in_full_precision(
    half: torch.dtype, kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """The parameter gets back the bits that only its master had, unless it was written to."""
    params = [nn.Parameter(p.detach().to(half)) for p in parameters(rng, site)]
    optimizer = kind.build(params, backend=site.backend)
    train(optimizer, params, range(3))
    others = [nn.Parameter(p.detach().float()) for p in params]
    others[1].data.fill_(0.7)
    resumed = kind.build(others, backend=site.backend)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for i in (0, 2):
        assert_same_bits(others[i].detach(), optimizer.state[params[i]]["master"])
    assert (others[1] == 0.7).all()
    assert not any("master" in resumed.state[q] for q in others)
    train(resumed, others, range(1))


def test_steps_as_plain_numbers(kind: Kind, site: Site, rng: np.random.Generator) -> None:
    """As torch.optim saved them before 1.12."""
    params = parameters(rng, site)
    optimizer = kind.build(params, backend=site.backend)
    train(optimizer, params, range(3))
    state = copy.deepcopy(optimizer.state_dict())
    for each in state["state"].values():
        if "step" in each:
            each["step"] = 3
    others = copies(params)
    resumed = kind.build(others, backend=site.backend)
    resumed.load_state_dict(state)
    assert_same_training(resumed, others, optimizer, params)


def test_global_options_repeated_in_a_group(kind: Kind, site: Site) -> None:
    """Wrappers do that; another value is refused."""
    p = nn.Parameter(torch.ones(3, device=site.device))
    repeated: dict[str, Any] = {"capturable": False, "foreach": None}
    repeated |= {"differentiable": False, "backend": site.backend, "fused": True}
    optimizer = kind.build([{"params": [p], **repeated}], backend=site.backend)
    p.grad = torch.ones_like(p)
    optimizer.step()
    for name, value in {"capturable": True, "backend": "other"}.items():
        group = {"params": [nn.Parameter(torch.ones(2))], name: value}
        with pytest.raises(ValueError, match=f"{name}.*global"):
            optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1


def test_arguments_that_torch_has(kind: Kind, site: Site) -> None:
    p = nn.Parameter(torch.ones(3, device=site.device))
    options = {"foreach": True, "fused": False, "differentiable": False}
    kind.build([p], backend=site.backend, **options)
    with pytest.raises(ValueError, match="differentiable"):
        kind.build([p], backend=site.backend, differentiable=True)


def test_only_fused_leaves_unscaling_to_the_step(kind: Kind) -> None:
    """Lightning refuses to clip where the flag is set; GradScaler asks the class or the object."""
    p = nn.Parameter(torch.ones(3))
    assert not kind.build([p])._step_supports_amp_scaling
    assert kind.build([p], fused=True)._step_supports_amp_scaling
    assert kind.build([p], capturable=True)._step_supports_amp_scaling
    assert copy.deepcopy(kind.build([p], fused=True))._step_supports_amp_scaling


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
def test_found_inf_and_grad_scale_of_any_shape(
    shape: tuple[int, ...], kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """FSDP's ShardedGradScaler gives them a dimension."""
    params = parameters(rng, site)
    expected_params = copies(params)
    optimizer = kind.build(params, backend=site.backend)
    expected = kind.build(expected_params, backend=site.backend)
    train(optimizer, params, range(2))
    train(expected, expected_params, range(2))
    before = [p.detach().clone() for p in params]
    for p in params:
        p.grad = 8.0 * torch.ones_like(p)
    optimizer.grad_scale = torch.full(shape, 8.0, device=site.device)
    optimizer.found_inf = torch.ones(shape, device=site.device)
    optimizer.step()
    assert_same_bits([p.detach() for p in params], before)
    optimizer.found_inf = torch.zeros(shape, device=site.device)
    optimizer.step()
    for p in expected_params:
        p.grad = torch.ones_like(p)
    expected.step()
    for p, q in zip(params, expected_params):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def whole(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])


@pytest.mark.parametrize("optimizer", [yfkernels.QHM, yfkernels.QHAdam])
def test_max_norm_clips_as_torch_does(optimizer: Any, site: Site, rng: np.random.Generator) -> None:
    params = parameters(rng, site)
    others = copies(params)
    ours = optimizer(params, lr=0.1, max_norm=0.5, backend=site.backend)
    clipped = optimizer(others, lr=0.1, backend=site.backend)
    for k in range(6):
        draws = np.random.default_rng(k)
        for p, q in zip(params, others):
            p.grad = (10.0 ** (k - 3)) * normal(draws, p).float().to(p.device)
            q.grad = p.grad.clone()
        norm = nn.utils.clip_grad_norm_(others, 0.5)
        ours.step()
        clipped.step()
        assert ours.diagnostics()["grad_norm"] == pytest.approx(float(norm), rel=1e-6)
        # clip_grad_norm_ divides by the norm + 1e-6
        torch.testing.assert_close(whole(params), whole(others), rtol=1e-5, atol=1e-6)


def test_lamb_that_adapts_nothing_says_so(site: Site) -> None:
    """transformers.Trainer writes weight_decay 0 into every group."""
    p = nn.Parameter(torch.ones(3, device=site.device))
    p.grad = torch.ones_like(p)
    optimizer = yfkernels.LAMB([p], lr=0.1, weight_decay=0.0, backend=site.backend)
    with pytest.warns(UserWarning, match="always_adapt=True") as caught:
        optimizer.step()
    assert caught[0].filename == __file__
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1, device=site.device))]})
        optimizer.step()
        for options in ({"weight_decay": 0.1}, {"always_adapt": True, "weight_decay": 0.0}):
            yfkernels.LAMB([p], backend=site.backend, **options).step()
