"""examples/: the scripts that need a framework run, and their losses fall."""

from __future__ import annotations

import re

import pytest
from test_examples import NUMBER, WITH_FRAMEWORKS, assert_losses_fall, losses, output_of

pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks' own


def output_with_frameworks(name: str) -> str:
    for package in WITH_FRAMEWORKS[name]:
        pytest.importorskip(
            package, reason=f"{package} is not installed; `make test-frameworks` installs it"
        )
    return output_of(name)


@pytest.mark.parametrize("name", WITH_FRAMEWORKS)
def test_loss_falls(name: str) -> None:
    assert_losses_fall(output_with_frameworks(name))


@pytest.mark.parametrize("name", ["huggingface_trainer", "lightning_module"])
def test_log_has_what_the_optimizer_did(name: str) -> None:
    output = output_with_frameworks(name)
    (seen,) = re.findall(rf"^lr {NUMBER}, momentum {NUMBER}$", output, re.MULTILINE)
    lr, momentum = map(float, seen)
    assert lr > 0.0
    assert 0.0 < momentum < 1.0


def test_lora_compares_three_optimizers() -> None:
    output = output_with_frameworks("lora_peft")
    assert re.findall(r"^\w+", output, re.MULTILINE) == ["YellowFin", "AdamW", "AdamW"]
    assert len({before for before, _ in losses(output)}) == 1
