"""A pytest plugin for runs on a device: a fault costs its own test, and is told at once.

    pytest -p support.on_a_device -m cuda -n 12

After an illegal access every later call of CUDA in that process fails. So a worker of pytest-xdist
whose device no longer answers ends, and another takes its place. It ends where its next test would
start: before that, pytest-xdist does not count the failed one as done, and would have it run again.
The next one is reported as crashed, and run by another worker. Failures are printed as they come: a
run that is stopped by a time limit has no summary.
"""

from __future__ import annotations

import os
import time

import pytest
import torch

_failed = False


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    global _failed  # noqa: PLW0603  a worker runs one test at a time
    if not report.failed:
        return
    if "PYTEST_XDIST_WORKER" in os.environ:
        _failed = True
    else:
        print(f"\n--- {report.nodeid} ({report.when})\n{report.longreprtext}", flush=True)


@pytest.hookimpl(tryfirst=True)  # before the start is announced
def pytest_runtest_logstart() -> None:
    if _failed and not _answers():
        time.sleep(1.0)  # the last report is on its way
        os._exit(1)


def _answers() -> bool:
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True
