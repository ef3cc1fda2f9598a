"""Triton's launches: what may be new while a graph is captured, and words in arguments."""

from __future__ import annotations

import ast
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.cases import assert_same_bits
from tables import DEVICE, Case, backend, draw_table, on_device
from torch import Tensor

import yfkernels
from yfkernels.ops.constants import GATE_STATE, SUMS, TILE
from yfkernels.ops.rules import LAMB, QHM, YELLOWFIN_DIAGONAL, YELLOWFIN_ROBUST, Rule
from yfkernels.ops.rules import Measure as What
from yfkernels.ops.table import TensorTable

REASON = backend.unusable(DEVICE)
needs_triton = pytest.mark.skipif(REASON is not None, reason=str(REASON))
needs_compiler = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


class Capture:
    """Whether a graph is captured, as the launches believe; and what was launched before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from yfkernels.ops.triton import launch

        self.on = False
        monkeypatch.setattr(launch, "_captures", lambda device: self.on)
        monkeypatch.setattr(launch, "_launched", {})
        launch.kept.cache_clear()


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch) -> Capture:
    return Capture(monkeypatch)


class Step:
    """A step of QHM on a table."""

    def __init__(self, dtype: torch.dtype, rng: np.random.Generator, offset: int = 0) -> None:
        self.table = draw_table(Case([300], offset=offset), QHM, dtype, False, rng)
        self.state = torch.zeros(len(GATE_STATE), dtype=torch.float64, device=DEVICE)
        settings = torch.from_numpy(rng.random((1, len(QHM.fields))))
        settings[:, QHM.fields.index("max_norm")] = 1.0
        self.coefficients = settings.to(DEVICE)

    def take(self, scale: Tensor | None, verdict: Tensor | None, measures: bool) -> None:
        memory = (scale, verdict, self.state, self.coefficients)
        if measures:
            size = (self.table.num_slots, len(SUMS))
            own = torch.zeros(size, dtype=torch.float64, device=DEVICE)
            backend.measure_then_decide(self.table, own, own, *memory)
        else:
            backend.decide(None, *memory)
        backend.update(QHM, self.table, self.coefficients)

    @property
    def all_it_changes(self) -> list[Tensor]:
        row = self.table.rows[0]
        return [self.state, self.coefficients, *row.columns.values()]


@needs_triton
@on_device
def test_a_captured_step_may_differ_in_memory_and_in_scalers(
    capture: Capture, rng: np.random.Generator
) -> None:
    Step(torch.float32, rng).take(None, None, measures=True)
    capture.on = True
    one = torch.ones((), device=DEVICE)
    for scale, verdict in ((None, None), (one, None), (None, one * 0), (one, one * 0)):
        for offset in (0, 3):
            Step(torch.float32, rng, offset).take(scale, verdict, measures=True)


@needs_triton
@on_device
def test_what_is_new_in_a_capture_is_named(capture: Capture, rng: np.random.Generator) -> None:
    Step(torch.float32, rng).take(None, None, measures=False)
    capture.on = True
    for dtype, measures, words in (
        (torch.float32, True, "measuring torch.float32 gradients .norm. takes .* never launched"),
        (torch.bfloat16, True, "measuring torch.bfloat16 gradients"),
    ):
        step = Step(dtype, rng)
        before = [tensor.clone() for tensor in step.all_it_changes]
        with pytest.raises(RuntimeError, match=f"captured, and {words}.*Take one step like"):
            step.take(None, None, measures)
        assert_same_bits(before, step.all_it_changes)
    half = Step(torch.bfloat16, rng)
    with pytest.raises(RuntimeError, match=r"'update' with what .* \(DTYPE = bf16, not fp32;"):
        half.take(None, None, measures=False)
    capture.on = False
    half.take(None, None, measures=True)
    capture.on = True
    half.take(None, None, measures=True)


@needs_triton
@on_device
def test_an_argument_that_was_not_there_is_named(
    capture: Capture, rng: np.random.Generator
) -> None:
    table = Step(torch.float32, rng).table
    own = torch.zeros(table.num_slots, len(SUMS), dtype=torch.float64, device=DEVICE)
    backend.measure(table, What.NORM, own)
    capture.on = True
    sketches = torch.zeros(table.num_slots, TILE, device=DEVICE)
    with pytest.raises(RuntimeError, match=r"\(sketches = torch.float32, not None"):
        backend.measure(table, What.SKETCH, own, sketches)


@needs_triton
@on_device
def test_numbers_that_a_capture_may_not_upload(capture: Capture) -> None:
    from yfkernels.ops.triton.launch import kept

    one = kept((1.0, 2.0), torch.float64, torch.device(DEVICE))
    capture.on = True
    assert kept((1.0, 2.0), torch.float64, torch.device(DEVICE)) is one
    with pytest.raises(RuntimeError, match="numbers there that no step before it needed"):
        kept((1.0, 3.0), torch.float64, torch.device(DEVICE))


@needs_triton
@on_device
@pytest.mark.parametrize("count", [1, 240, 241, 3000])
def test_words_in_arguments(
    count: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from yfkernels.ops.triton import words

    launches: list[tuple[Any, ...]] = []

    def launch(kernel: Any, programs: int, device: Any, purpose: str, given: Any, **rest: Any):
        launches.append(given)
        kernel[(programs,)](*given, **rest)

    monkeypatch.setattr(words, "launch", launch)
    written = [int(word) for word in rng.integers(-(2**63), 2**63, count)]
    written[: min(count, 7)] = [0, 1, 16, -1, 2**63 - 1, -(2**63), 2**32][:count]
    target = torch.zeros(count, 12, dtype=torch.int64, device=DEVICE)
    words.launch_write(target[:, 3], written)
    assert target[:, 3].tolist() == written
    assert not target[:, :3].any()
    assert not target[:, 4:].any()
    assert len(launches) == math.ceil(count / 240)
    # Triton would make a variant of its own for each of these in a tuple
    for *_, halves in launches:
        assert not [half for half in halves if half == 1 or half % 16 == 0 or half < 2**32]


@needs_triton
@on_device
@pytest.mark.parametrize("rule", [LAMB, YELLOWFIN_ROBUST, YELLOWFIN_DIAGONAL], ids=lambda r: r.name)
def test_sums_do_not_depend_on_where_tensors_begin(rule: Rule) -> None:
    """Or replicas, whose gradients lie elsewhere, would drift apart."""

    def sums(offset: int) -> list[Tensor]:
        rng = np.random.default_rng(0)
        table: TensorTable
        table = draw_table(Case([9001, 5], offset=offset), rule, torch.float32, False, rng, 3.0)
        coefficients = torch.from_numpy(rng.random((2, len(rule.fields)))).to(DEVICE)
        own = torch.zeros(table.num_slots, len(SUMS), dtype=torch.float64, device=DEVICE)
        backend.measure(table, What.NORM, own)
        if rule is LAMB:
            backend.update_state(rule, table, coefficients)
        else:
            backend.update(rule, table, coefficients)
        return [own, table.norms, table.move_sums]

    assert_same_bits(sums(0), sums(3))


@needs_compiler
def test_a_gpu_of_another_maker_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    from yfkernels.ops.triton.availability import unusable

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert unusable.__wrapped__("cuda") == "its kernels are for NVIDIA's GPUs"


def in_fresh_python(code: str, **variables: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env=environment | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# A machine on which torch has a CUDA device, of which Triton finds the driver's folder.
PRETENDS = (
    "import torch; torch.cuda.is_available = lambda: True; from yfkernels.ops.backends import *; "
)


@needs_compiler
def test_a_machine_without_a_compiler_is_served_by_torch(tmp_path: Any) -> None:
    (tmp_path / "libcuda.so.1").touch()
    code = PRETENDS + (
        "import warnings; warnings.simplefilter('ignore'); "
        "print(choose('auto', torch.device('cuda'), torch.float32, True).name); "
        "print(backend_status('cuda')['triton'])"
    )
    where = {"TRITON_LIBCUDA_PATH": str(tmp_path), "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    chosen, reason = in_fresh_python(code, PATH="", CC=str(tmp_path / "gcc"), **where).splitlines()
    assert chosen == "torch"
    assert reason.startswith("Triton cannot launch kernels here (it needs a C compiler and")
    assert "gcc" in reason


@needs_compiler
def test_a_machine_where_kernels_can_be_loaded_is_served_by_triton() -> None:
    """With a driver that compiles for a GPU and pretends to load."""
    code = PRETENDS + (
        "import types, triton; from triton.backends.compiler import GPUTarget\n"
        "loads = []\n"
        "class Driver:\n"
        "    get_current_target = lambda self: GPUTarget('cuda', 90, 32)\n"
        "    get_current_device = lambda self: 0\n"
        "    get_current_stream = lambda self, device: 0\n"
        "    launcher_cls = lambda self, source, metadata: print\n"
        "    utils = types.SimpleNamespace(\n"
        "        get_device_properties=lambda device: {'max_shared_mem': 1 << 16},\n"
        "        load_binary=lambda *given: loads.append(given) or (1, 1, 0, 0, 1024),\n"
        "    )\n"
        "triton.runtime.driver.set_active(Driver())\n"
        "print(backend_of('triton', 'cuda').unusable('cuda'), len(loads))\n"
    )
    assert in_fresh_python(code) == "None 1"


def calls_in_kernels() -> Iterator[tuple[Path, ast.Call]]:
    for file in sorted(Path(yfkernels.__file__).parent.glob("ops/triton/*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.decorator_list:
                yield from ((file, c) for c in ast.walk(node) if isinstance(c, ast.Call))


def test_no_names_are_written_into_a_call() -> None:
    """Triton 3.6, which is promised, loses the strings of a tuple on its way to a constexpr."""
    calls = list(calls_in_kernels())
    assert len(calls) > 100
    for file, call in calls:
        for given in (g for g in call.args if isinstance(g, ast.Tuple)):
            parts = [part.value for part in given.elts if isinstance(part, ast.Constant)]
            words = [part for part in parts if isinstance(part, str)]
            assert not words, f"{file.name}:{call.lineno}: {ast.unparse(call)}"
