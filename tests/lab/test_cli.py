"""The ``yfkernels`` command, from the outside."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
pytest.importorskip("typer")

from matplotlib.image import imread
from typer.main import get_command
from typer.testing import CliRunner

import yfkernels
from yfkernels.lab import cli, next_steps
from yfkernels.lab.recipes import read_recipe

CHECKOUT = Path(cli.__file__).resolve().parents[2]


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner(env={"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"})


def test_demo_compares_and_draws(runner: CliRunner, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    result = runner.invoke(cli.app, ["demo", "--steps", "30", "--out", str(out)])
    assert result.exit_code == 0, result.output
    for expected in ("YellowFin", "AdamW", "SGD", "lr 0.1, momentum 0.9", "demo.png", "seed 0"):
        assert expected in result.output
    height, width, _ = imread(out / "demo.png").shape
    assert width >= 1200
    assert height >= 700


def parsed(line: str) -> None:
    """Raises an exception if a command line has a command or an option that does not exist."""
    name, *arguments = shlex.split(line)
    get_command(cli.app).commands[name].make_context(name, arguments)


COMMANDS = sorted(get_command(cli.app).commands)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "bench"])  # has another's
def test_help_ends_with_an_example(runner: CliRunner, name: str) -> None:
    printed = runner.invoke(cli.app, [name, "--help"]).output
    example = re.search(r"Example: yfkernels (.*)", printed)
    assert example, printed
    assert example[1].split()[0] == name
    parsed(example[1])


def test_help_of_the_command_says_how_to_begin(runner: CliRunner) -> None:
    printed = runner.invoke(cli.app, ["--help"]).output
    assert "Example: yfkernels demo" in printed
    assert "--install-completion" in printed


def test_a_shell_completes_commands(runner: CliRunner) -> None:
    asked = {
        "_YFKERNELS_COMPLETE": "complete_bash",
        "COMP_WORDS": "yfkernels co",
        "COMP_CWORD": "1",
    }
    result = runner.invoke(cli.app, [], env=asked, prog_name="yfkernels")
    assert result.output.split() == ["compare", "config"]


def test_demo_ends_with_what_to_try_next(runner: CliRunner, tmp_path: Path) -> None:
    options = ["--steps", "1", "--optimizers", "lamb", "--out", str(tmp_path)]
    _, _, steps = runner.invoke(cli.app, ["demo", *options]).output.partition("Next:\n")
    assert "yfkernels compare yellowfin adamw:lr=0.003 --seeds 3\n" in steps
    assert (
        "opt = yfkernels.LAMB(yfkernels.param_groups(model, weight_decay=0.01), lr=0.01)" in steps
    )
    assert len(steps.splitlines()) == 3
    parsed(next_steps.AFTER_DEMO)


@pytest.mark.parametrize(
    ("given", "named", "left_out"),
    [
        ([], ["--seeds 3", "--explain"], ["--workload"]),
        (["--seeds", "2"], ["--workload mnist-lstm", "--explain"], ["--seeds"]),
        (["--explain"], ["--seeds 3"], ["--workload", "--explain"]),
    ],
)
def test_compare_ends_with_what_was_not_asked_for(
    runner: CliRunner, tmp_path: Path, given: list[str], named: list[str], left_out: list[str]
) -> None:
    fast = ["--steps", "1", "--workload", "digits-mlp", "--out", str(tmp_path)]
    result = runner.invoke(cli.app, ["compare", "sgd:lr=0.2", *fast, *given])
    _, _, steps = result.output.partition("Next:\n")
    assert "opt = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)" in steps
    assert [option for option in named if option not in steps] == []
    assert [option for option in left_out if option in steps] == []
    for option in named:
        parsed(f"compare {option}")


@pytest.mark.parametrize("text", ["yellowfin:robust=false", "lamb:preset=timm,weight_decay=0.1"])
def test_code_to_copy_makes_what_was_trained(text: str) -> None:
    recipe = read_recipe(text)
    model = nn.Linear(2, 2)
    names = {"yfkernels": yfkernels, "torch": torch, "model": model}
    copied = eval(next_steps.in_code(recipe), names)
    wanted = recipe.build(model)
    assert type(copied) is type(wanted)
    assert copied.state_dict()["param_groups"] == wanted.state_dict()["param_groups"]


@pytest.mark.parametrize(
    ("found", "python", "command"),
    [
        ("/bin/yfkernels", "/elsewhere/bin/python", "yfkernels"),
        (None, "/elsewhere/bin/python", "/elsewhere/bin/python -m yfkernels"),
        (None, f"{Path.cwd()}/.venv/bin/python", ".venv/bin/python -m yfkernels"),
    ],
)
def test_the_next_command_starts_where_the_user_is(
    monkeypatch: pytest.MonkeyPatch, found: str | None, python: str, command: str
) -> None:
    monkeypatch.setattr(next_steps.shutil, "which", lambda name: found)
    monkeypatch.setattr(next_steps.sys, "executable", python)
    assert next_steps._command() == command


def test_demo_trains_only_what_was_asked_for(runner: CliRunner, tmp_path: Path) -> None:
    options = ["--steps", "2", "--seed", "7", "--optimizers", "SGD, sgd", "--out", str(tmp_path)]
    result = runner.invoke(cli.app, ["demo", *options])
    assert result.exit_code == 0, result.output
    assert "seed 7" in result.output
    assert "YellowFin" not in result.output
    assert "not reached" in result.output


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--optimizers", "adamw,lion"], "no optimizer 'lion'; choose from yellowfin, lamb, qhm"),
        (["--optimizers", ""], "no optimizer ''"),
        (["--steps", "0"], "Invalid value for '--steps'"),
        (["--seed", "-1"], "Invalid value for '--seed'"),
    ],
)
def test_demo_names_a_bad_option(
    runner: CliRunner, tmp_path: Path, options: list[str], complaint: str
) -> None:
    result = runner.invoke(cli.app, ["demo", "--out", str(tmp_path), *options])
    assert result.exit_code == 2
    assert complaint in " ".join(result.output.replace("│", " ").split())


def test_demo_names_a_folder_it_cannot_make(runner: CliRunner, tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.touch()
    result = runner.invoke(cli.app, ["demo", "--out", str(occupied)])
    assert result.exit_code == 2
    assert "cannot make the folder" in result.output


def test_compare_takes_names_and_settings(runner: CliRunner, tmp_path: Path) -> None:
    arguments = ["lamb:lr=0.02,preset=timm", "SGD", "sgd:momentum=0.9", "--steps", "2"]
    sizes = ["--batch-size", "16", "--seeds", "2", "--workload", "digits-mlp"]
    result = runner.invoke(cli.app, ["compare", *arguments, *sizes, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    told = " ".join(result.output.split())  # a title is as wide as its table
    for expected in ("LAMB", "0.02", "preset timm", "batch 16, seeds 0 to 1", "compare.png"):
        assert expected in told
    written = (tmp_path / "compare.csv").read_text().splitlines()
    assert len(written) == 1 + 2 * 2 * 2  # a setting that says what is so already is the same


def test_compare_explains_the_last_steps(runner: CliRunner, tmp_path: Path) -> None:
    arguments = ["yellowfin", "lamb", "sgd", "--steps", "3", "--workload", "digits-mlp"]
    result = runner.invoke(cli.app, ["compare", *arguments, "--explain", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "YellowFin, 3 steps taken" in result.output
    assert "LAMB" in result.output.partition("YellowFin, 3 steps taken")[2]


def test_compare_has_rows_to_start_from(runner: CliRunner, tmp_path: Path) -> None:
    arguments = ["compare", "--steps", "1", "--workload", "digits-mlp", "--out", str(tmp_path)]
    result = runner.invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    for expected in ("YellowFin", "LAMB", "QHM", "QHAdam", "AdamW", "SGD"):
        assert expected in result.output


def test_large_batch_draws(runner: CliRunner, tmp_path: Path) -> None:
    options = ["--batch-sizes", "1024, 512", "--epochs", "1", "--seeds", "1"]
    arguments = ["large-batch", "sgd", *options, "--out", str(tmp_path)]
    result = runner.invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert result.output.index(" 512 ") < result.output.index(" 1024 ")
    assert (tmp_path / "large-batch.png").exists()
    assert len((tmp_path / "large-batch.csv").read_text().splitlines()) == 3


def test_large_batch_says_what_a_given_lr_is_for(runner: CliRunner) -> None:
    printed = " ".join(runner.invoke(cli.app, ["large-batch", "--help"]).output.split())
    assert "An lr given with an optimizer is where its search starts" in printed


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["compare", "lion"], "no optimizer 'lion'"),
        (["compare", "sgd:lr=-1"], "SGD refuses 'lr=-1'"),
        (["compare", "--batch-size", "2000"], "'--batch-size': Invalid batch_size value: 2000"),
        (["compare", "--workload", "mnist"], "Invalid value for '--workload'"),
        (["compare", "--seeds", "0"], "Invalid value for '--seeds'"),
        (["compare", "--threads", "0"], "Invalid value for '--threads'"),
        (["large-batch", "--batch-sizes", "32,big"], "cannot read '32,big'; write whole numbers"),
        (["large-batch", "--batch-sizes", "32,0"], "Invalid batch_size value: 0"),
        (["large-batch", "--batch-sizes", "32,4096"], "Invalid batch_size value: 4096"),
        (["large-batch", "--epochs", "0"], "Invalid value for '--epochs'"),
    ],
)
def test_a_bad_option_is_named_before_anything_is_trained(
    runner: CliRunner, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    result = runner.invoke(cli.app, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert complaint in " ".join(result.output.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_config_shows_the_backends(runner: CliRunner) -> None:
    result = runner.invoke(cli.app, ["config"])
    assert result.exit_code == 0, result.output
    assert "cpu" in result.output


def test_bench_forwards_every_argument(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[str] = []

    def main(arguments: list[str]) -> int:
        received.extend(arguments)
        return 3

    monkeypatch.syspath_prepend(str(CHECKOUT))
    monkeypatch.setattr("bench.speed.runner.main", main)
    arguments = ["resnet50", "--help", "--repeat", "2", "-x", "gpt2"]
    assert runner.invoke(cli.app, ["bench", *arguments]).exit_code == 3
    assert received == arguments


def test_bench_outside_a_checkout_says_what_it_needs(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "yfkernels" / "lab" / "cli.py"))
    result = runner.invoke(cli.app, ["bench"])
    assert result.exit_code != 0
    assert "needs the source checkout" in str(result.exception or result.output)


@pytest.mark.parametrize("package", ["matplotlib", "rich", "sklearn", "typer"])
def test_a_missing_package_is_one_line(package: str, tmp_path: Path) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        f"sys.argv = ['yfkernels', 'demo', '--steps', '1', '--out', {str(tmp_path)!r}]\n"
        "from yfkernels.lab.cli import main; main()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert ran.returncode == 1
    (line,) = ran.stderr.strip().splitlines()
    assert f"needs {package}" in line
    assert 'pip install "yfkernels[demo]"' in line


def test_config_needs_no_optional_package() -> None:
    program = (
        "import sys; sys.modules['typer'] = None; sys.argv = ['yfkernels', 'config']\n"
        "from yfkernels.lab.cli import main; main()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "\ncpu " in ran.stdout


def test_importing_the_package_needs_no_optional_one() -> None:
    program = (
        "import sys, yfkernels\n"
        "print(*{'matplotlib', 'rich', 'sklearn', 'typer'} & set(sys.modules))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert (ran.stdout.strip(), ran.stderr) == ("", "")
