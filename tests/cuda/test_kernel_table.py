"""docs/how-it-works/kernels.md says what the compilers say now."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from kernel import ARCHS, Kernel
from kernel_table import (
    COMMAND,
    PAGE,
    committed,
    cuda_section,
    difference,
    rows_for,
    triton_section,
)


def check(name: str, now: str, archs: Sequence[int] = ARCHS) -> None:
    before, table = committed(PAGE.read_text(), name)
    table = rows_for(archs, table)
    here, _ = committed(now, name)
    if before and before != here:
        pytest.skip(
            f"{PAGE.name} was written with {before} and this is {here}: figures are not "
            "compared; the invariants (bytes, no spills, no fp64) are, in test_static.py"
        )
    if changes := difference(table, now):
        pytest.fail(f"{PAGE} is out of date\n{changes}", pytrace=False)


def test_the_cuda_table_is_up_to_date(nvcc: str, cuda_kernels: list[Kernel]) -> None:
    check("nvcc", cuda_section(nvcc, cuda_kernels))


def test_the_triton_table_is_up_to_date(
    triton_kernels: list[Kernel], triton_archs: tuple[int, ...]
) -> None:
    check("Triton", triton_section(triton_kernels), triton_archs)


@pytest.mark.parametrize("name", ["nvcc", "Triton"])
def test_a_changed_figure_is_seen(name: str) -> None:
    _, table = committed(PAGE.read_text(), name)
    row = next(line for line in table.splitlines() if "| update " in line)
    cells = row.split(" | ")
    changed = " | ".join([*cells[:3], str(int(cells[3]) + 1), *cells[4:]])  # one register more
    assert difference(table, table) == ""
    changes = difference(table, table.replace(row, changed))
    assert f"-{row}" in changes
    assert f"+{changed}" in changes
    assert COMMAND in changes


def test_a_table_that_is_not_there_is_seen() -> None:
    assert "compiled now" in difference(committed("# GPU kernels\n", "nvcc")[1], "## nvcc 1\n")
