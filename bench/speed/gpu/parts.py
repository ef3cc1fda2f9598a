"""The parts of `make gpu`, in the order in which they run: what tells the most comes first."""

from __future__ import annotations

from bench.speed.gpu.part import Part
from bench.speed.gpu.races import run_bench, run_bench_all
from bench.speed.gpu.sanitizers import run_sanitizers
from bench.speed.gpu.tests import TESTS_GRACE, run_tests

PARTS = {
    "tests": Part(120.0, run_tests, grace=TESTS_GRACE),
    "bench": Part(110.0, run_bench),
    "sanitize": Part(60.0, run_sanitizers),
    "bench-all": Part(600.0, run_bench_all, default=False),
}
