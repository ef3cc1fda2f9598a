"""torch.distributed.checkpoint: resumes bit for bit, flattened or not, in as many processes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from support.cases import assert_same_bits
from support.processes import NO_FSDP2, WORLD, Processes, mesh_of
from support.resume import (
    BUILDS,
    CUT,
    FEW,
    HALF,
    OURS,
    STEPS,
    WRAPPED,
    Build,
    Snapshot,
    assert_close,
    assert_near,
    assert_resumes,
    decaying,
    make_model,
    snapshot,
    train,
)
from torch import nn

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

try:
    from torch.distributed.fsdp import fully_shard
except ImportError:
    fully_shard = None

FORMS: dict[str, dict[str, Any]] = {
    "nested": {},
    "flat": {"flatten_optimizer_state_dict": True},
}
ANY = {**BUILDS, **WRAPPED}
THIRDS = [range(0, 2), range(2, 4), range(4, STEPS)]


class Training:
    """A model and its optimizer: alone, or sharded over the processes there are."""

    def __init__(
        self,
        build: Build,
        form: str,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        mesh: Any = None,
    ) -> None:
        self.options = StateDictOptions(**FORMS[form])
        self.model = make_model(seed, dtype=dtype)
        self.rank, self.world = 0, 1
        if dist.is_initialized():
            self.rank, self.world = dist.get_rank(), dist.get_world_size()
            fully_shard(self.model, mesh=mesh)
        self.optimizer = build(decaying(self.model))

    def run(self, start: int, until: int) -> None:
        train(self.model, self.optimizer, range(start, until), self.rank, self.world)

    def state(self) -> dict[str, Any]:
        optimizer = get_optimizer_state_dict(self.model, self.optimizer, options=self.options)
        return {"model": get_model_state_dict(self.model), "optimizer": optimizer}

    def save(self, folder: Path) -> None:
        dcp.save(self.state(), checkpoint_id=str(folder))

    def load(self, folder: Path) -> None:
        """As a program does that was started anew: what is there says what is to be read.

        Twice, as programs do that go back to a checkpoint once more.
        """
        state = self.state()
        dcp.load(state, checkpoint_id=str(folder))
        for _ in range(2):
            set_model_state_dict(self.model, state["model"])
            set_optimizer_state_dict(
                self.model, self.optimizer, state["optimizer"], options=self.options
            )

    def snapshot(self, whole: bool = False) -> Snapshot:
        return snapshot(self.model, self.optimizer, whole)


def run(
    build: Build,
    *,
    until: int = STEPS,
    save: Path | None = None,
    load: Path | None = None,
    form: str,
    dtype: torch.dtype = torch.float32,
) -> Snapshot:
    training = Training(build, form, seed=0 if load is None else 1, dtype=dtype)
    if load is not None:
        training.load(load)
    training.run(0 if load is None else CUT, until)
    if save is not None:
        training.save(save)
    return training.snapshot()


# Its advice, where there is one process, to say so.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is")
every_form = pytest.mark.parametrize("form", FORMS)
sharding = pytest.mark.skipif(fully_shard is None, reason=NO_FSDP2)
every_build = pytest.mark.parametrize("name", BUILDS)


@every_form
@every_build
def test_resumes_alone(name: str, form: str, tmp_path: Path) -> None:
    assert_resumes(partial(run, form=form), BUILDS[name], tmp_path)


@sharding
@every_form
@every_build
def test_resumes_sharded(name: str, form: str, tmp_path: Path, pair: Processes) -> None:
    pair(check_resumes_sharded, name, form, tmp_path)


def check_resumes_sharded(rank: int, name: str, form: str, folder: Path) -> None:
    assert_resumes(partial(run, form=form), BUILDS[name], folder)


@sharding
@pytest.mark.parametrize("kept", HALF)
@pytest.mark.parametrize("name", [name for name in FEW if name in OURS])
def test_resumes_in_half_precision(name: str, kept: str, tmp_path: Path, pair: Processes) -> None:
    pair(check_resumes_in_half_precision, name, kept, tmp_path)


def check_resumes_in_half_precision(rank: int, name: str, kept: str, folder: Path) -> None:
    build = partial(BUILDS[name], **HALF[kept])
    assert_resumes(partial(run, form="flat", dtype=torch.bfloat16), build, folder)


@sharding
@pytest.mark.parametrize(
    ("form", "name"), [("flat", name) for name in BUILDS] + [("nested", name) for name in FEW]
)
def test_resumes_in_another_number_of_processes(
    name: str, form: str, tmp_path: Path, pair: Processes
) -> None:
    """From two to one and from one to two: what was saved arrives, and training goes on alike."""
    pair(check_saves_for_others, name, form, tmp_path / "two")
    load_what_others_saved(name, form, tmp_path / "two")
    save_for_others(name, form, tmp_path / "one")
    pair(check_loads_what_others_saved, name, form, tmp_path / "one")


def save_for_others(name: str, form: str, folder: Path) -> None:
    """A checkpoint, and beside it what has to come of it now and in the end."""
    training = Training(BUILDS[name], form)
    training.run(0, CUT)
    training.save(folder / "checkpoint")
    expected = [training.snapshot(whole=True)]
    training.run(CUT, STEPS)
    expected.append(training.snapshot(whole=True))
    if training.rank == 0:
        torch.save(expected, folder / "expected.pt")


def load_what_others_saved(name: str, form: str, folder: Path) -> None:
    now, in_the_end = torch.load(folder / "expected.pt", weights_only=True)
    training = Training(BUILDS[name], form, seed=1)
    training.load(folder / "checkpoint")
    assert_same_bits(training.snapshot(whole=True), now)
    training.run(CUT, STEPS)
    assert_close(training.snapshot(whole=True), in_the_end)


def check_saves_for_others(rank: int, name: str, form: str, folder: Path) -> None:
    save_for_others(name, form, folder)


def check_loads_what_others_saved(rank: int, name: str, form: str, folder: Path) -> None:
    load_what_others_saved(name, form, folder)


@sharding
@pytest.mark.parametrize(
    ("mesh", "name"), [("FSDP2", name) for name in ANY] + [("HSDP", name) for name in FEW]
)
def test_resumes_in_ever_fewer_processes(
    name: str, mesh: str, tmp_path: Path, four: Processes, pair: Processes
) -> None:
    """From four to two to one, as four would have gone on."""
    four(check_saves_in_four, name, mesh, tmp_path)
    pair(check_goes_on_in_two, name, tmp_path)
    go_on(name, tmp_path, 2)


def check_saves_in_four(rank: int, name: str, mesh: str, folder: Path) -> None:
    training = Training(ANY[name], "flat", mesh=mesh_of(mesh))
    snapshots = []
    for steps in THIRDS:
        training.run(steps.start, steps.stop)
        if not snapshots:
            training.save(folder / "1")
        snapshots.append(training.snapshot(whole=True))
    if rank == 0:
        torch.save(snapshots[0], folder / "saved-1.pt")
        torch.save(snapshots, folder / "uninterrupted.pt")


def check_goes_on_in_two(rank: int, name: str, folder: Path) -> None:
    training = go_on(name, folder, 1)
    training.save(folder / "2")
    saved = training.snapshot(whole=True)
    if rank == 0:
        torch.save(saved, folder / "saved-2.pt")


def go_on(name: str, folder: Path, third: int) -> Training:
    """What was saved arrives to the bit; then the steps of a third."""
    training = Training(ANY[name], "flat", seed=1)
    training.load(folder / str(third))
    saved = torch.load(folder / f"saved-{third}.pt", weights_only=True)
    assert_same_bits(training.snapshot(whole=True), saved)
    steps = THIRDS[third]
    training.run(steps.start, steps.stop)
    seen = training.snapshot(whole=True)
    expected = torch.load(folder / "uninterrupted.pt", weights_only=True)[third]
    assert_close(seen, expected)
    assert_near(seen["diagnostics"], expected["diagnostics"], 1e-4)
    return training


@sharding
@every_build
def test_whole_state_is_broadcast(name: str, tmp_path: Path, pair: Processes) -> None:
    pair(check_whole_state_is_broadcast, name, tmp_path)


def check_whole_state_is_broadcast(rank: int, name: str, folder: Path) -> None:
    """Only rank 0 has the file and reads it."""
    build = BUILDS[name]
    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    training = Training(build, "nested")
    training.run(0, CUT)
    model: nn.Module = training.model
    saved = {
        "model": get_model_state_dict(model, options=whole),
        "optimizer": get_optimizer_state_dict(model, training.optimizer, options=whole),
    }
    if rank == 0:
        torch.save(saved, folder / "whole.pt")
    training.run(CUT, STEPS)

    read: dict[str, Any] = {"model": {}, "optimizer": {}}
    if rank == 0:
        read = torch.load(folder / "whole.pt", weights_only=True)
    resumed = Training(build, "nested", seed=1)
    from_first = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(resumed.model, read["model"], options=from_first)
    set_optimizer_state_dict(
        resumed.model, resumed.optimizer, read["optimizer"], options=from_first
    )
    resumed.run(CUT, STEPS)
    assert_same_bits(resumed.snapshot(), training.snapshot())
    assert training.world == WORLD
