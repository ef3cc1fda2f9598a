"""How many variants of each Triton kernel an optimizer meets: one step has loaded them all."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from from_triton import environment

# Of update there are three rules, of measure two sums and the one with the gate.
VARIANTS = {"update": 3, "update_state": 1, "gate": 1, "measure": 3, "apply": 1, "write": 1}
VARIANTS |= {"preconditioned_tune": 1, "yellowfin_tune": 1}
VARIANTS |= {"advance": 1, "own": 1, "project": 1, "average": 1}


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_neither_addresses_nor_numbers_nor_what_is_given_make_a_variant() -> None:
    command = [sys.executable, str(Path(__file__).with_name("triton_variants.py"))]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    # what the package remembers of its launches is what Triton would load
    assert counts == {name: [count, count] for name, count in VARIANTS.items()}
