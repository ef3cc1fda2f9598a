"""FullyShardedDataParallel (FSDP1): flat parameters in parts, the step is that of one process."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from support.cases import assert_same_bits
from support.processes import WORLD, Processes, everyones
from support.resume import (
    BUILDS,
    BY_PLACE,
    CUT,
    EQUALS,
    FEW,
    HALF,
    OURS,
    STEPS,
    Build,
    Snapshot,
    assert_close,
    assert_resumes,
    make_model,
    snapshot,
    train,
)
from torch import Tensor, nn

from yfkernels import QHM, QHAdam

if not dist.is_gloo_available():
    pytest.skip("torch has no gloo here", allow_module_level=True)

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import (
    FullOptimStateDictConfig,
    FullStateDictConfig,
    StateDictType,
)
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

# Flat parameters hide the tensors whose norms they need.
ADAPTIVE = ("LAMB", "LAMB-bytes", "YellowFin-trust")
NEEDS_SUMS: dict[str, Build] = {
    **{name: BUILDS[name] for name in ("YellowFin", "YellowFin-robust", "YellowFin-sketch")},
    "LAMB": partial(BUILDS["LAMB"], max_grad_norm=None),
    "QHM-clip": partial(QHM.from_momentum, lr=0.1, momentum=0.9, max_norm=1.0),
    "QHAdam-skip": partial(QHAdam, lr=0.1, skip_nonfinite=True),
}
FORMS = {False: [name for name in BUILDS if name not in ADAPTIVE], True: list(BUILDS)}
every_form = pytest.mark.parametrize(
    ("original", "name"),
    [(original, name) for original, names in FORMS.items() for name in names],
    ids=lambda value: {False: "flat", True: "original"}.get(value, value),
)


def not_the_same(original: bool) -> dict[str, tuple[float, float]]:
    """What another number of processes takes somewhere else, and how far it may be."""
    # a flat parameter's padding counts as elements, of which a preconditioner knows the number
    return BY_PLACE if original else {**BY_PLACE, "YellowFin-diagonal": (5e-4, 0.05)}


def whole_model(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    # With one output a process would have nothing of the last layer, and torch's planner would
    # then take a nested checkpoint for one from before torch 2.4, which it cannot load.
    return make_model(seed, outputs=2, dtype=dtype)


def wrapped(original: bool, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """A sharded model; with `original`, its parameters are views of the flat ones."""
    return FSDP(
        whole_model(seed, dtype),
        use_orig_params=original,
        auto_wrap_policy=ModuleWrapPolicy({nn.Linear}),
        device_id=torch.device("cpu"),
    )


def optimizer_for(model: Any, build: Any) -> Any:
    if build.func in (kind.func for kind in OURS.values()):
        build = partial(build, process_group=model.process_group)
    return build(model.parameters())


def whole(model: Any) -> AbstractContextManager[None]:
    """In this context state_dicts are those of the model before it was sharded."""
    # Offloaded to the CPU where they are already, different states come out as one tensor.
    full = (
        FullStateDictConfig(offload_to_cpu=False, rank0_only=False),
        FullOptimStateDictConfig(offload_to_cpu=False, rank0_only=False),
    )
    context: AbstractContextManager[None] = FSDP.state_dict_type(
        model, StateDictType.FULL_STATE_DICT, *full
    )
    return context


def whole_parameters(model: Any) -> dict[str, Tensor]:
    with whole(model):
        return {name: value.clone() for name, value in model.state_dict().items()}


def run(
    build: Build,
    *,
    until: int = STEPS,
    save: Path | None = None,
    load: Path | None = None,
    rank: int,
    original: bool,
    dtype: torch.dtype = torch.float32,
) -> Snapshot:
    """Saves and loads with the methods of FSDP itself."""
    model = wrapped(original, seed=0 if load is None else 1, dtype=dtype)
    optimizer = optimizer_for(model, build)
    if load is not None:
        saved = torch.load(load / "last.pt", weights_only=True)
        with whole(model):
            model.load_state_dict(saved["model"])
            divided = FSDP.optim_state_dict_to_load(model, optimizer, saved["optimizer"])
        optimizer.load_state_dict(divided)
    train(model, optimizer, range(0 if load is None else CUT, until), rank, WORLD)
    if save is not None:
        with whole(model):
            saved = {
                "model": model.state_dict(),
                "optimizer": FSDP.optim_state_dict(model, optimizer),
            }
        if rank == 0:
            torch.save(saved, save / "last.pt")
        dist.barrier()
    return snapshot(model, optimizer)


def run_with_dcp(
    build: Build,
    *,
    until: int = STEPS,
    save: Path | None = None,
    load: Path | None = None,
    rank: int,
    original: bool,
    **options: Any,
) -> Snapshot:
    """Saves and loads, every process its part, with torch.distributed.checkpoint."""
    model = wrapped(original, seed=0 if load is None else 1)
    optimizer = optimizer_for(model, build)
    chosen = StateDictOptions(**options)

    def state() -> dict[str, Any]:
        return {
            "model": get_model_state_dict(model),
            "optimizer": get_optimizer_state_dict(model, optimizer, options=chosen),
        }

    if load is not None:
        read = state()
        dcp.load(read, checkpoint_id=str(load))
        set_model_state_dict(model, read["model"])
        set_optimizer_state_dict(model, optimizer, read["optimizer"], options=chosen)
    train(model, optimizer, range(0 if load is None else CUT, until), rank, WORLD)
    if save is not None:
        dcp.save(state(), checkpoint_id=str(save))
    return snapshot(model, optimizer)


@every_form
def test_resumes_bit_for_bit(original: bool, name: str, tmp_path: Path, pair: Processes) -> None:
    pair(check_resumes_bit_for_bit, original, name, tmp_path)


def check_resumes_bit_for_bit(rank: int, original: bool, name: str, folder: Path) -> None:
    assert_resumes(partial(run, rank=rank, original=original), BUILDS[name], folder)


@pytest.mark.parametrize("kept", HALF)
@pytest.mark.parametrize("name", [name for name in FEW if name in OURS])
def test_resumes_in_half_precision(name: str, kept: str, tmp_path: Path, pair: Processes) -> None:
    pair(check_resumes_in_half_precision, name, kept, tmp_path)


def check_resumes_in_half_precision(rank: int, name: str, kept: str, folder: Path) -> None:
    build = partial(BUILDS[name], **HALF[kept])
    assert_resumes(partial(run, rank=rank, original=True, dtype=torch.bfloat16), build, folder)


@every_form
def test_one_process_goes_on(original: bool, name: str, tmp_path: Path, pair: Processes) -> None:
    """What two processes saved together is, by the parameters' names, the state of one alone."""
    if name == "AdamW" and not original:
        pytest.skip("torch's AdamW has one tensor for the steps of all tensors of a flat one then")
    pair(check_saves_for_one, original, name, tmp_path)
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    expected = torch.load(tmp_path / "expected.pt", weights_only=True)
    model = whole_model(seed=1)
    optimizer = BUILDS[name](model.parameters())
    set_model_state_dict(model, saved["model"])
    set_optimizer_state_dict(model, optimizer, saved["optimizer"])
    if name in OURS:
        assert_same_bits(optimizer.diagnostics(), expected["diagnostics"])
    train(model, optimizer, range(CUT, STEPS))
    if name not in not_the_same(original):
        assert_close({"parameters": dict(model.named_parameters())}, expected)


def check_saves_for_one(rank: int, original: bool, name: str, folder: Path) -> None:
    now = run(BUILDS[name], until=CUT, save=folder, rank=rank, original=original)
    model = wrapped(original)
    train(model, optimizer_for(model, BUILDS[name]), range(STEPS), rank, WORLD)
    expected = {"parameters": whole_parameters(model), "diagnostics": now["diagnostics"]}
    if rank == 0:
        torch.save(expected, folder / "expected.pt")


@pytest.mark.parametrize(
    ("original", "name", "flat"),
    [(True, name, True) for name in BUILDS]
    + [(True, name, False) for name in FEW]
    + [(False, name, True) for name in FEW if name not in ADAPTIVE],
)
def test_resumes_with_dcp(
    original: bool, name: str, flat: bool, tmp_path: Path, pair: Processes
) -> None:
    pair(check_resumes_with_dcp, original, name, flat, tmp_path)


def check_resumes_with_dcp(rank: int, original: bool, name: str, flat: bool, folder: Path) -> None:
    how = partial(run_with_dcp, rank=rank, original=original, flatten_optimizer_state_dict=flat)
    assert_resumes(how, BUILDS[name], folder)


@every_form
def test_equals_one_process(original: bool, name: str, pair: Processes) -> None:
    pair(check_equals_one_process, original, name)


def check_equals_one_process(rank: int, original: bool, name: str) -> None:
    """And the processes agree on what they measured, to the last bit."""
    build = BUILDS[name]
    if name == "LAMB":
        build = partial(build, max_grad_norm=0.1)  # below every norm there is
    alone = whole_model()
    expected = build(alone.parameters())
    train(alone, expected, range(STEPS))
    model = wrapped(original)
    optimizer = optimizer_for(model, build)
    train(model, optimizer, range(STEPS), rank, WORLD)
    atol, rel = not_the_same(original).get(name, (1e-6, 1e-4))
    torch.testing.assert_close(
        whole_parameters(model), dict(alone.state_dict()), rtol=1e-5, atol=atol
    )
    if name in OURS:
        seen = optimizer.diagnostics()
        assert seen == pytest.approx(expected.diagnostics(), rel=rel, nan_ok=True)
        assert_same_bits(*everyones(seen))
    if name == "LAMB":
        ratios = [
            ratio for ratios in everyones(optimizer.trust_ratios()) for ratio in ratios.items()
        ]
        assert dict(ratios) == pytest.approx(expected.trust_ratios(), rel=1e-5)


@pytest.mark.parametrize("original", [False, True], ids=["flat", "original"])
@pytest.mark.parametrize("name", EQUALS)
def test_equals_torch(name: str, original: bool, pair: Processes) -> None:
    pair(check_equals_torch, name, original)


def check_equals_torch(rank: int, name: str, original: bool) -> None:
    snapshots = []
    for build in EQUALS[name]:
        model = wrapped(original)
        optimizer = build(model.parameters())  # without a clip none of them asks for a group
        train(model, optimizer, range(STEPS), rank, WORLD)
        snapshots.append({"parameters": whole_parameters(model)})
    assert_close(*snapshots)


@pytest.mark.parametrize("original", [False, True], ids=["flat", "original"])
@pytest.mark.parametrize("name", NEEDS_SUMS)
def test_group_is_asked_for(name: str, original: bool, pair: Processes) -> None:
    pair(check_group_is_asked_for, name, original)


def check_group_is_asked_for(rank: int, name: str, original: bool) -> None:
    """Without it each process would tune to its own part."""
    model = wrapped(original)
    before = whole_parameters(model)
    with pytest.raises(RuntimeError, match=r"process_group=torch.distributed.group.WORLD"):
        train(model, NEEDS_SUMS[name](model.parameters()), range(1), rank, WORLD)
    assert_same_bits(whole_parameters(model), before)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_flat_parameters_are_refused(name: str, pair: Processes) -> None:
    pair(check_flat_parameters_are_refused, name)


def check_flat_parameters_are_refused(rank: int, name: str) -> None:
    """Where the norm of each tensor is needed."""
    model = wrapped(original=False)
    with pytest.raises(RuntimeError, match="use_orig_params=True"):
        train(model, optimizer_for(model, BUILDS[name]), range(1), rank, WORLD)


@pytest.mark.parametrize("original", [False, True], ids=["flat", "original"])
def test_an_infinite_gradient_skips_the_step_everywhere(original: bool, pair: Processes) -> None:
    pair(check_an_infinite_gradient_skips_the_step_everywhere, original)


def check_an_infinite_gradient_skips_the_step_everywhere(rank: int, original: bool) -> None:
    """Though only one of the processes has it."""
    model = wrapped(original)
    optimizer = optimizer_for(model, BUILDS["YellowFin"])
    train(model, optimizer, range(CUT), rank, WORLD)
    before = snapshot(model, optimizer)
    gradients = [p.grad for p in model.parameters() if p.grad is not None and p.grad.numel()]
    for gradient in gradients:
        gradient.zero_()
    if rank == 0:
        gradients[0].view(-1)[0] = torch.inf
    optimizer.step()
    after = snapshot(model, optimizer)
    assert_same_bits(after["parameters"], before["parameters"])
    assert after["diagnostics"]["skipped_steps"] == 1
