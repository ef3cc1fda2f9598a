"""The tests of optimizers and tangents, through the CUDA backend and its kernels."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from check_program import Workshop

ROOT = Path(__file__).resolve().parents[2]
# Contract, state, layouts and traces of every optimizer. What takes long says the same as others.
FILES = (
    *("contract", "state", "layouts", "rule_traces", "yellowfin_traces"),
    *("yellowfin_preconditioned", "yellowfin_compact", "yellowfin_float8", "stochastic_rounding"),
    *("averages", "averages_in_use", "loading", "live_state", "reset", "amp", "host_tuning"),
)
LEFT_OUT = ("triton", "torch", "long_trace", "many_small", "check_values", "half_a_million")
# 4,096 threads tune in the sketch, which traces and one loss follow; how state moves in a program
# does not depend on the rule.
CHOSEN = "(not YellowFin-sketch or lowers) and (not live_state or YellowFin-native or LAMB-native)"


def test_optimizers_run_on_the_kernels(workshop: Workshop) -> None:
    tests = [f"tests/ops/test_{name}.py" for name in ("native_module", "tangents", "projection")]
    tests += [f"tests/optim/test_{name}.py" for name in FILES]
    chosen = " and ".join(["native", CHOSEN, *(f"not {words}" for words in LEFT_OUT)])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "support.kernels_on_cpu", "-k", chosen]
    command += ["-p", "no:cacheprovider", *tests]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    env = {**os.environ, "PYTHONPATH": path, "YFK_KERNELS_ON_CPU": str(workshop.module())}
    env.pop("PYTEST_XDIST_WORKER", None)  # else it takes itself for one
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) > 500, done.stdout.splitlines()[-1]
