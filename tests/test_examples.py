"""examples/: every script runs and its loss falls; each is short, and in the table."""

from __future__ import annotations

import ast
import io
import math
import os
import re
import runpy
import subprocess
import sys
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.distributed.fsdp
from support.processes import NO_FSDP2

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
MOST_LINES, COLUMNS = 79, 100

IN_THIS_PROCESS = (
    "averages",
    "hypergradients",
    "large_batch_lamb",
    "mixed_precision",
    "plain_loop",
)
ON_CUDA = ("cuda_graph",)
UNDER_TORCHRUN = {"asynchronous": 3, "fsdp_checkpoint": 2}  # processes
# Run by frameworks/test_examples_of_frameworks.py; the packages that each of them needs.
WITH_FRAMEWORKS = {
    "huggingface_trainer": ("accelerate", "transformers"),
    "lightning_module": ("lightning",),
    "lora_peft": ("peft", "transformers"),
}
LOSSES = re.compile(r"loss:? ([\d.]+) -> ([\d.]+)")
NUMBER = r"([\d.]+)"
IMAGES, BATCH, EPOCHS = 1797, 64, 10  # of asynchronous.py


@cache
def output_of(name: str) -> str:
    """What a script prints, run as ``python examples/<name>.py`` or under torchrun."""
    script = str(EXAMPLES / f"{name}.py")
    if name in UNDER_TORCHRUN:
        return output_under_torchrun(script, UNDER_TORCHRUN[name])
    printed = io.StringIO()
    with torch.random.fork_rng(), redirect_stdout(printed):
        runpy.run_path(script, run_name="__main__")
    return printed.getvalue()


def output_under_torchrun(script: str, processes: int) -> str:
    """Without a GPU: there may be fewer of them than processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    surroundings = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    finished = subprocess.run(
        [*launcher, f"--nproc-per-node={processes}", script],
        env=os.environ | surroundings,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def losses(output: str) -> list[tuple[float, float]]:
    """Before and after, of each training that a script reports."""
    found = [(float(before), float(after)) for before, after in LOSSES.findall(output)]
    assert found, f"no loss in {output!r}"
    return found


def assert_losses_fall(output: str) -> None:
    assert all(after < before for before, after in losses(output)), output


# ---- what they do

needs_fsdp2 = pytest.mark.skipif(
    not hasattr(torch.distributed.fsdp, "fully_shard"), reason=NO_FSDP2
)


@pytest.mark.parametrize(
    "name",
    [
        *IN_THIS_PROCESS,
        *(pytest.param(name, marks=pytest.mark.cuda) for name in ON_CUDA),
        "asynchronous",
        pytest.param("fsdp_checkpoint", marks=needs_fsdp2),
    ],
)
def test_loss_falls(name: str) -> None:
    assert_losses_fall(output_of(name))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("name", ON_CUDA)
def test_says_in_a_line_that_there_is_no_cuda_device(name: str) -> None:
    output = output_of(name)
    assert output.count("\n") == 1
    assert "no CUDA device" in output


def test_resumes_bit_for_bit() -> None:
    assert "resumed bit for bit: True\n" in output_of("plain_loop")


@needs_fsdp2
def test_resumes_with_the_same_losses() -> None:
    assert "resumed with the same losses: True\n" in output_of("fsdp_checkpoint")


def test_average_is_another_trained_network() -> None:
    """It is better as a rule, which no test can ask of every machine."""
    output = output_of("averages")
    ((before, trained),) = losses(output)
    (average,) = map(float, re.findall(rf"loss of the average: {NUMBER}", output))
    assert average != trained
    assert average < 0.5 * before


def test_hypergradients_rescue_a_small_lr() -> None:
    (before, constant), *tuned = losses(output_of("hypergradients"))
    assert len(tuned) == 2
    assert constant > 0.9 * before
    assert all(after < 0.5 * before for _, after in tuned)


def test_asynchronous_workers_bring_every_batch() -> None:
    """Together: one that starts late may find little left to do, and its gradients not stale."""
    output = output_of("asynchronous")
    gradients = re.findall(r"^worker \d: (\d+) gradients$", output, re.MULTILINE)
    assert 1 <= len(gradients) <= UNDER_TORCHRUN["asynchronous"] - 1
    assert sum(map(int, gradients)) == EPOCHS * math.ceil(IMAGES / BATCH)
    (staleness,) = map(float, re.findall(rf"mean staleness {NUMBER}", output))
    assert staleness < 10.0


# ---- what they look like


def test_every_script_is_run() -> None:
    run = [*IN_THIS_PROCESS, *ON_CUDA, *UNDER_TORCHRUN, *WITH_FRAMEWORKS]
    assert sorted(run) == [script.stem for script in SCRIPTS]


named_scripts = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)


@named_scripts
def test_is_short(script: Path) -> None:
    lines = script.read_text().splitlines()
    assert len(lines) <= MOST_LINES
    assert all(len(line) <= COLUMNS for line in lines)


@named_scripts
def test_begins_with_a_sentence_that_says_how_it_is_run(script: Path) -> None:
    tree = ast.parse(script.read_text())
    program = "python"
    if script.stem in UNDER_TORCHRUN:
        program = r"torchrun --nproc-per-node \d"
    command = rf"`{program} examples/{script.name}`"
    assert re.fullmatch(rf"{command} [^\n]+\.", ast.get_docstring(tree) or "")
    assert any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)


def test_the_table_has_every_script_once() -> None:
    table = (EXAMPLES / "README.md").read_text()
    rows = re.findall(r"^\| \[(\w+\.py)\]\((\w+\.py)\) \|", table, re.MULTILINE)
    assert sorted(rows) == [(script.name, script.name) for script in SCRIPTS]
