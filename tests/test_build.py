"""setup.py: what it chooses to compile, and what it leaves where it cannot compile."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from yfkernels._version import __version__

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("setup.py", "pyproject.toml", "CMakeLists.txt", "MANIFEST.in", "README.md", "LICENSE")
FOLDERS = ("cmake", "csrc", "yfkernels")
BUILD_DIR = ROOT / "build" / str(sys.implementation.cache_tag)
MODULE = f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
NVCC_13 = (75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121)


@pytest.fixture(scope="module")
def setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("yfkernels_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the sources without anything built."""
    root = tmp_path / "tree"
    root.mkdir()
    for name in SOURCES:
        shutil.copy(ROOT / name, root)
    for name in FOLDERS:
        unbuilt = shutil.ignore_patterns("*.so", "_build.json", "__pycache__")
        shutil.copytree(ROOT / name, root / name, ignore=unbuilt)
    return root


def python(
    *arguments: str, cwd: Path, check: bool = True, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs this interpreter with nothing of the repository on its path but `cwd`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("YFK_", "PYTHONPATH"))}
    result = subprocess.run(
        [sys.executable, *arguments],
        check=False,
        cwd=cwd,
        env=environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert not check or result.returncode == 0, result.stdout
    return result


def codes(targets: list[Any]) -> list[str]:
    """What each target leaves in the module; PTX of its own behind it unless it says another's."""
    return [code if code.endswith(f"_{ptx}") else f"{code} of {ptx}" for ptx, code in targets]


@pytest.mark.parametrize(
    ("text", "archs"),
    [
        ("90", ["sm_90"]),
        ("9.0", ["sm_90"]),
        ("8.0;9.0+PTX", ["sm_80", "sm_90", "compute_90"]),
        ("80 90+ptx", ["sm_80", "sm_90", "compute_90"]),
        (" 9.0a, 10.0 ", ["sm_90a", "sm_100"]),
        ("120+PTX", ["sm_120", "compute_120"]),
    ],
)
def test_arch_lists_are_read(setup: ModuleType, text: str, archs: list[str]) -> None:
    assert codes(setup.parse_archs(text, "YFK_CUDA_ARCHS")) == archs


@pytest.mark.parametrize("text", ["Hopper", "9", "sm_90", "9.0+", "8.0;;90x"])
def test_a_wrong_arch_list_is_named(setup: ModuleType, text: str) -> None:
    with pytest.raises(setup.SetupError, match=r"TORCH_CUDA_ARCH_LIST=.*write it like 90 or 9\.0"):
        setup.parse_archs(text, "TORCH_CUDA_ARCH_LIST")


def test_without_a_gpu_every_generation_is_built_from_one_ptx(setup: ModuleType) -> None:
    ampere_on = ["sm_90 of 80", "sm_100 of 80", "sm_120 of 80", "compute_80"]
    assert codes(setup.targets_for([], NVCC_13)) == ["sm_80", *ampere_on]
    older = codes(setup.targets_for([], (50, 75, 80, 86, 90)))
    assert older == ["sm_80", "sm_90 of 80", "compute_80"]


def test_visible_gpus_decide(setup: ModuleType) -> None:
    assert codes(setup.targets_for([90, 80, 90], NVCC_13)) == ["sm_80", "sm_90"]
    assert codes(setup.targets_for([130], NVCC_13)) == ["compute_121"]
    with pytest.raises(setup.BuildError, match="sm_60"):
        setup.targets_for([60], NVCC_13)


def test_variables_come_before_gpus(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0")
    monkeypatch.setenv("YFK_CUDA_ARCHS", "90")
    assert setup.cuda_targets("nvcc") == ([("90", "sm_90")], "named by YFK_CUDA_ARCHS")
    monkeypatch.setenv("YFK_CUDA_ARCHS", "")
    assert setup.cuda_targets("nvcc") == ([("80", "sm_80")], "named by TORCH_CUDA_ARCH_LIST")


@pytest.mark.parametrize(
    ("release", "named", "archs", "source"),
    [
        ("12.4", "5.2 6.0;7.0;8.0 9.0+PTX", ["sm_70", "sm_80", "sm_90", "compute_90"], "named by"),
        ("12.1", "7.5 9.0", ["sm_90"], "named by"),
        ("12.1", "6.0 7.5", ["sm_90"], "the visible GPUs"),
        ("13.0", "7.0;9.0", ["sm_90"], "named by"),
        ("12.4", "9.0;12.0", ["sm_90"], "named by"),
    ],
)
def test_what_torch_supports_and_we_do_not_is_left_out(
    setup: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    release: str,
    named: str,
    archs: list[str],
    source: str,
) -> None:
    known = (75, 80, 90) if release == "13.0" else (50, 70, 75, 80, 90)
    listed = "\n".join(f"compute_{arch}" for arch in known)
    answers = {"--version": f"release {release}, V{release}.1", "--list-gpu-arch": listed}
    monkeypatch.setattr(setup, "_ask", lambda tool, option, *_: answers.get(option, "9.0\n"))
    monkeypatch.delenv("YFK_CUDA_ARCHS", raising=False)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", named)
    targets, why = setup.cuda_targets("nvcc")
    assert codes(targets) == archs
    assert why.startswith(source)


def test_an_older_cuda_has_no_code_for_turing(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = "compute_50\ncompute_75\ncompute_80\ncompute_90\n"
    answers = {"--version": "release 12.1, V12.1.105", "--list-gpu-arch": listed}
    monkeypatch.setattr(setup, "_ask", lambda tool, option, *_: answers.get(option, ""))
    for variable in ("YFK_CUDA_ARCHS", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(variable, raising=False)
    targets, _ = setup.cuda_targets("nvcc")
    assert codes(targets) == ["sm_80", "sm_90 of 80", "compute_80"]


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("[1/2] c++ x.o\nx.cpp:3:1: error: no\nninja: stopped", "x.cpp:3:1: error: no"),
        ("CMake Error at x.cmake:3 (project):\n  No\n\n  compiler.\n\nCall Stack:", "No compiler"),
        (
            "CMake Error at CMakeLists.txt:3 (project):\n"
            "  No CMAKE_CXX_COMPILER could be found.\n\n  Tell CMake where to find it.\n",
            "no C++ compiler was found; install g++ or clang++, or set CXX",
        ),
        ("nvcc fatal   : Unsupported gpu", "nvcc fatal   : Unsupported gpu"),
        ("Killed\n", "Killed"),
    ],
)
def test_the_reason_is_found_in_the_log(setup: ModuleType, log: str, reason: str) -> None:
    assert setup.first_error(log) == reason


def test_setup_does_not_import_torch(tree: Path) -> None:
    (tree / "torch.py").write_text("raise SystemExit('setup.py imported torch')")
    printed = python("setup.py", "--version", cwd=tree, PYTHONPATH=str(tree)).stdout
    assert printed.strip() == __version__


def test_unknown_build_is_named(tree: Path) -> None:
    result = python("setup.py", "build_ext", cwd=tree, check=False, YFK_BUILD="gpu")
    assert result.returncode != 0
    assert "YFK_BUILD='gpu' is unknown; use one of auto, cuda, cpu, none" in result.stdout


def test_pure_python_install_says_so(tree: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--target", str(site))
    python("-m", "pip", "install", *options, ".", cwd=tree, YFK_BUILD="none")
    assert not list(site.glob("yfkernels/_C*"))
    assert (site / "yfkernels" / "py.typed").exists()
    assert "Tag: py3-none-any" in next(site.glob("yfkernels-*.dist-info/WHEEL")).read_text()
    shown = python_with(site, "import yfkernels; yfkernels.show_config()")
    assert "pure Python" in shown
    assert "YFK_BUILD=none" in shown
    assert "not native" in shown


def python_with(site: Path, code: str) -> str:
    """What code prints with the package of `site`."""
    # -S: an editable install of this repository would put its own _C in.
    path = os.pathsep.join([str(site), *sys.path])
    return python("-S", "-c", code, cwd=site, PYTHONPATH=path).stdout


def test_without_a_compiler_auto_falls_back_and_says_why(tree: Path) -> None:
    stale = tree / "yfkernels" / MODULE
    stale.write_bytes(b"an earlier build")
    result = python("setup.py", "build_ext", "--inplace", cwd=tree, CXX="no-such-compiler")
    assert "yfkernels: compiling CPU code" in result.stdout
    assert "yfkernels builds without its cpu code" in result.stdout
    assert not stale.exists()
    record = json.loads((tree / "yfkernels" / "_build.json").read_text())
    assert record["code"] == "none"
    assert "no-such-compiler" in record["reason"]
    used = "import torch, yfkernels; yfkernels.QHM([torch.ones(2, requires_grad=True)], lr=0.1)"
    warning = python_with(tree, used)
    assert "RuntimeWarning: yfkernels runs on the torch backend for cpu tensors" in warning
    assert "no-such-compiler" in warning
    assert "Install yfkernels again" in warning


def test_without_a_compiler_cpu_fails_and_says_why(tree: Path) -> None:
    result = python(
        *("setup.py", "build_ext", "--inplace"),
        cwd=tree,
        check=False,
        YFK_BUILD="cpu",
        CXX="no-such-compiler",
    )
    assert result.returncode != 0
    assert "error: YFK_BUILD=cpu:" in result.stdout
    assert not (tree / "yfkernels" / "_build.json").exists()


@pytest.fixture(scope="module")
def source_distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made from a copy of what git tracks."""
    root = tmp_path_factory.mktemp("sdist") / "tree"
    for name in tracked_files():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    python("setup.py", "--quiet", "sdist", cwd=root)
    return next(root.glob("dist/*.tar.gz"))


def tracked_files() -> list[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git checkout")
    return [name for name in listing.stdout.splitlines() if (ROOT / name).is_file()]


def test_source_distribution_holds_everything(source_distribution: Path) -> None:
    """What git tracks, but for the settings of tools, whose names begin with a dot."""
    with tarfile.open(source_distribution) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert not {name for name in tracked_files() if not name.startswith(".")} - packed


def test_source_distribution_installs(source_distribution: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--target", str(site))
    archive = str(source_distribution)
    python("-m", "pip", "install", *options, archive, cwd=tmp_path, YFK_BUILD="none")
    record = json.loads((site / "yfkernels" / "_build.json").read_text())
    assert record == {"code": "none", "reason": "YFK_BUILD=none", "archs_from": ""}


@pytest.fixture
def module() -> Path:
    path = ROOT / "yfkernels" / MODULE
    if not path.exists():
        pytest.skip("the extension is not built")
    return path


def test_module_loads_without_torch_and_gpu(module: Path) -> None:
    load = (
        "import sys, importlib.util as u; sys.modules['torch'] = None;"
        f"s = u.spec_from_file_location('yfkernels._C', {str(module)!r});"
        "m = u.module_from_spec(s); s.loader.exec_module(m); print(m.build_info()['compiler'])"
    )
    assert python("-c", load, cwd=ROOT, CUDA_VISIBLE_DEVICES="").stdout.strip()


def test_module_links_no_cuda_library(module: Path) -> None:
    """The runtime is inside and the driver is found by it at run time, or not."""
    listing = _binutil("readelf", "--dynamic", str(module))
    needed = [line for line in listing.splitlines() if "(NEEDED)" in line]
    assert needed
    assert not [line for line in needed if "cuda" in line or "torch" in line]


@pytest.mark.parametrize("source", ["measure", "update"])
@pytest.mark.parametrize("level", ["avx2", "avx512"])
def test_instruction_sets_share_no_code(level: str, source: str) -> None:
    """A weak symbol in one level's object could be the copy the linker keeps for all of them."""
    path = BUILD_DIR / f"CMakeFiles/kernels_{level}.dir/csrc/cpu/{source}.cpp.o"
    if not path.parent.exists():
        pytest.skip("this build has one instruction-set level")
    symbols = re.findall(r"^[0-9a-f]+ (\w) (.+)$", _binutil("nm", "-C", str(path)), re.MULTILINE)
    assert symbols
    assert not [name for kind, name in symbols if kind in "WVu" and f"{level}::" not in name]


def _binutil(name: str, *arguments: str) -> str:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    return subprocess.run([name, *arguments], capture_output=True, text=True, check=True).stdout
