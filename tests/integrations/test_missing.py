"""A framework that is missing is named, and what installs it."""

from __future__ import annotations

import subprocess
import sys

import pytest

FRAMEWORKS = ("ignite", "lightning", "timm", "transformers")
# More that a user's program has anyway or not at all.
OTHERS = ("accelerate", "fastai", "mlflow", "peft", "skorch", "tensorboard", "wandb")


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_the_message_names_the_extra(name: str) -> None:
    code = f"""
import sys
sys.modules[{name!r}] = None  # as if it were not installed
try:
    import yfkernels.integrations.{name}
except ImportError as error:
    assert 'pip install "yfkernels[{name}]"' in str(error), error
else:
    raise AssertionError("it was imported")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_extras_exist() -> None:
    from pathlib import Path

    metadata = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    for name in FRAMEWORKS:
        assert f"\n{name} = [" in metadata


@pytest.mark.parametrize("module", ["yfkernels", "yfkernels.integrations"])
def test_the_package_costs_no_framework(module: str) -> None:
    """Neither imports one, and `import yfkernels` not what is made for them."""
    code = f"""
import sys, {module}
heavy = [name for name in sys.modules if name.split(".")[0] in {FRAMEWORKS + OTHERS!r}]
heavy += [name for name in sys.modules if name.startswith("{module}.integrations")]
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)
