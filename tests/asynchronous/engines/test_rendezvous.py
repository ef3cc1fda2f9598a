"""How a run begins: by torchrun or on its own, and what is said where it cannot."""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from asynchronous.counting import Tally, server_of

from yfkernels.asynchronous.engines import gloo

ROOT = Path(__file__).resolve().parents[3]
SECONDS = 90.0


def example() -> str:
    """The script in the docstring of `serve`."""
    documented = gloo.serve.__doc__
    assert documented is not None
    code = documented.partition("train.py`:\n")[2]
    imports = """
        import torch
        import yfkernels
        from yfkernels.asynchronous import Batches, Server
        from yfkernels.asynchronous.engines import gloo
    """
    return textwrap.dedent(imports) + textwrap.dedent(code)


def trained(folder: Path) -> float:
    """How far the example's model has come from its start."""
    torch.manual_seed(0)
    torch.randn(512, 8), torch.randn(512, 1)
    start = torch.nn.Linear(8, 1)
    state = torch.load(folder / "model.pt", weights_only=True)
    return float((state["weight"] - start.weight).detach().norm())


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "train.py"
    script.write_text(example())
    return script


def test_the_example_under_torchrun(script: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "3"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", str(script)]
    subprocess.run(command, check=True, timeout=SECONDS)
    assert trained(script.parent) > 0.01


def test_the_example_on_its_own(script: Path) -> None:
    processes = gloo.start([sys.executable, str(script)], workers=1)
    try:
        assert [process.wait(SECONDS) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    assert trained(script.parent) > 0.01


# ---- bad input


def environment(patch: pytest.MonkeyPatch, **variables: object) -> None:
    usual = {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500}
    for name, value in {**usual, **variables}.items():
        patch.setenv(name, str(value))


def serve(**options: Any) -> None:
    gloo.serve(server_of(Tally(4)), **options)


def work(**options: Any) -> None:
    model = Tally(4)
    gloo.work(model, model.loss, **options)


@pytest.mark.parametrize("begin", [serve, work, gloo.is_server])
def test_without_torchrun(begin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch)
    for name in ("RANK", "MASTER_PORT"):
        monkeypatch.delenv(name)
    with pytest.raises(
        RuntimeError, match=r"^RANK, MASTER_PORT not set: start .* with torchrun --n"
    ):
        begin()


@pytest.mark.parametrize("begin", [serve, work])
def test_without_a_worker(begin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, WORLD_SIZE=1)
    with pytest.raises(ValueError, match=r"Invalid WORLD_SIZE value: 1; .* a server and a worker"):
        begin()


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        environment(monkeypatch, MASTER_PORT=port)
        with pytest.raises(OSError, match=rf"port {port} is taken; set MASTER_PORT to a free one"):
            serve()


def test_the_roles_are_not_mixed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    environment(monkeypatch, MASTER_PORT=port)
    assert gloo.is_server()
    with pytest.raises(ValueError, match=r"Invalid rank value: 0; .* the server's calls serve\(\)"):
        work()


@pytest.mark.parametrize(
    ("begin", "options", "message"),
    [
        (serve, {"timeout": 0.0}, "Invalid timeout value: 0.0"),
        (serve, {"grace": -1.0}, "Invalid grace value: -1.0"),
        (work, {"timeout": float("inf")}, "Invalid timeout value: inf"),
        (gloo.start, {"command": ["x"], "workers": 0}, "Invalid workers value: 0"),
        (gloo.start, {"command": ["x"], "workers": 1, "port": 70000}, "Invalid port value: 70000"),
    ],
)
def test_arguments_out_of_their_range(begin: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        begin(**options)
