"""The CUDA kernels run without a GPU: compiled as C++, the threads of a block being fibers.

The headers in include/ stand in for CUDA's; the kernels are compiled as they are. Deliberately
broken copies prove that the checks would see a race, a read out of bounds or a misaligned access.
What is not modelled: the order in which a thread sees another's writes (a missing __threadfence()
goes unnoticed), warps that run in step, and blocks that wait for each other.
"""

from __future__ import annotations

import numpy as np
import pytest
from check_program import CSRC, PLAIN, SANITIZED, Workshop, run

BARRIER = "__syncthreads();"
BARRIERS = [
    (source.name, number)
    for source in sorted((CSRC / "cuda").glob("*.cu*"))
    for number, line in enumerate(source.read_text().splitlines(), 1)
    if BARRIER in line.split("//")[0]
]
# Files whose barriers lie in functions that not every kernel calls which includes them.
USERS = {
    "move_sums.cuh": ["robust", "tangents"],
    "reduce.cuh": ["measure", "robust", "tune"],
    "ticket.cuh": ["robust", "tune"],
}
SUBJECTS = [
    *(
        "average",
        "gate",
        "lamb",
        "measure",
        "preconditioned",
        "qhadam",
        "qhm",
        "robust",
        "rounding",
        "runtime",
    ),
    *("step", "tangents", "tune", "write_words", "yellowfin"),
]
# sanitized in themselves
KERNELS_ALONE = ["average", "gate", "lamb", "measure", "qhm", "tangents", "tune", "write_words"]
SEED = "1"  # of broken copies: whether one is seen should not change from run to run


@pytest.mark.parametrize(
    ("flags", "subject"),
    [
        *(pytest.param(PLAIN, subject, id=f"{subject}-plain") for subject in SUBJECTS),
        *(pytest.param(SANITIZED, subject, id=f"{subject}-sanitized") for subject in KERNELS_ALONE),
    ],
)
def test_kernels_equal_the_cpu_driver_and_the_oracle(
    workshop: Workshop, flags: tuple[str, ...], subject: str, rng: np.random.Generator
) -> None:
    """In every schedule of blocks and threads."""
    outcome = run(workshop.program(flags), subject, str(rng.integers(2**32)))
    assert not outcome.failed, outcome.output


@pytest.mark.parametrize(("file", "line"), BARRIERS, ids=[f"{f}:{n}" for f, n in BARRIERS])
def test_every_barrier_matters(workshop: Workshop, file: str, line: int) -> None:
    """Without it, the results of every kernel that has it change in some schedule."""
    for kernel in USERS.get(file) or workshop.including(file):
        outcome = run(workshop.program(PLAIN), kernel, SEED, YFK_MISSING_BARRIER=f"{file}:{line}")
        assert outcome.failed, f"{kernel} does not miss it"


@pytest.mark.parametrize(
    ("kernel", "flags", "file", "old", "new", "report"),
    [
        pytest.param(
            *("measure", SANITIZED, "vec.cuh"),
            "begin <= k && k < end ? widen",
            "begin <= k && k <= end ? widen",
            "heap-buffer-overflow",
            id="reads one element too far",
        ),
        pytest.param(
            *("measure", SANITIZED, "vec.cuh"),
            "load_word<kReuse>(reinterpret_cast<const float4*>(p + k))",
            "*reinterpret_cast<const float4*>(p + k - 1)",
            "misaligned address",
            id="reads sixteen bytes off by four",
        ),
        pytest.param(
            *("tune", PLAIN, "ticket.cuh"),
            "last = thread_arrives_last(ticket, gridDim.x)",
            "last = blockIdx.x == gridDim.x - 1",
            "the result changes with",
            id="takes the highest block for the last",
        ),
        pytest.param(
            *("robust", PLAIN, "ticket.cuh"),
            "last = thread_arrives_last(ticket, gridDim.x)",
            "last = blockIdx.x == gridDim.x - 1",
            "move_sums change with",
            id="move_sums before all have moved",
        ),
        pytest.param(
            *("robust", PLAIN, "move_sums.cuh"),
            "r < Deal::shares(own->n)",
            "r < kWarps",
            "move_sums off the CPU's",
            id="move_sums tensors without a gradient, and shares that nobody has",
        ),
        pytest.param(
            *("tune", PLAIN, "tune.cu"),
            "tuned = tune(a.options",
            "tune(a.options",
            "off by",
            id="leaves shared memory unwritten",
        ),
        pytest.param(
            *("tune", PLAIN, "tune.cu"),
            "i < a.num_groups; i += kBlock)\n",
            "i < a.num_groups && i < kBlock; i += kBlock)\n",
            "off by",
            id="tunes no more groups than threads",
        ),
        pytest.param(
            *("tune", PLAIN, "tune.cu"),
            "i < a.num_groups; i += kBlock) lr",
            "i < a.num_groups && i < kBlock; i += kBlock) lr",
            "off by",
            id="looks for the longest step in no more groups than threads",
        ),
        pytest.param(
            *("gate", PLAIN, "gate.cuh"),
            "i < a.num_groups; i += kWarp",
            "i < a.num_groups && i < kWarp; i += kWarp",
            "33 groups",
            id="decides on no more groups than lanes",
        ),
        pytest.param(
            *("robust", PLAIN, "move_sums.cuh"),
            "ranks[k][rank][i] = sum;",
            "ranks[k][threadIdx.x / kWarp][i] = sum;",
            "move_sums",
            id="keeps a chunk's sums by warp",
        ),
        pytest.param(
            *("lamb", PLAIN, "update_state.cuh"),
            "r < Dealt::shares(piece.n)",
            "r < kWarps",
            "norms",
            id="adds up shares that nobody has",
        ),
        pytest.param(
            *("tangents", PLAIN, "tangents.cu"),
            "last = thread_arrives_last(tickets + piece.index, chunks);",
            "last = piece.first + table.chunk_size >= piece.row.numel;",
            "sums change with",
            id="projects a tensor before all its chunks are done",
        ),
        pytest.param(
            *("tangents", PLAIN, "tangents.cu"),
            "if (family.keeps_own) probe.store",
            "probe.store",
            "not the CPU's values: advance",
            id="keeps what nobody asked for",
        ),
        pytest.param(
            *("write_words", PLAIN, "write_words.cu"),
            "int(blockIdx.x) * kBlock + int(threadIdx.x)",
            "int(threadIdx.x)",
            "words at stride",
            id="all blocks write the first words",
        ),
        pytest.param(
            *("write_words", PLAIN, "write_words.cu"),
            "const DeviceGuard guard(queue.device);",
            "",
            "a stream of another device",
            id="launches on the device that is current",
        ),
        pytest.param(
            *("lamb", PLAIN, "update_state.cuh"),
            "return thread_arrives_last(tickets + piece.index, chunks);",
            "return piece.first + table.chunk_size >= piece.row.numel;",
            "norms change with",
            id="takes a tensor's last chunk for the last to be done",
        ),
        pytest.param(
            *("lamb", PLAIN, "update_state.cuh"),
            "      count_step(piece);",
            "",
            "not the CPU's values: update_state",
            id="does not count the step of a long tensor",
        ),
        pytest.param(
            *("qhm", PLAIN, "update.cuh"),
            "thread_arrives_last(tickets + piece.index, chunks)",
            "piece.first == 0",
            "not the CPU's values: update",
            id="counts a step that others still have to read",
        ),
        pytest.param(
            *("qhm", PLAIN, "parameter.cuh"),
            "(element + uint32_t(i + k)) ^ seed",
            "uint32_t(i + k) ^ seed",
            "not the CPU's values: update",
            id="rounds all chunks by the same bits",
        ),
        pytest.param(
            *("gate", PLAIN, "measure.cu"),
            "if (told_by(0, last)) decide_step(gate);",
            "decide_step(gate);",
            "not the CPU's with",
            id="every block decides",
        ),
    ],
)
def test_a_broken_copy_is_seen(
    workshop: Workshop,
    kernel: str,
    flags: tuple[str, ...],
    file: str,
    old: str,
    new: str,
    report: str,
) -> None:
    kernels = [file.removesuffix(".cu")] if file.endswith(".cu") else [kernel]
    program = workshop.changed_program(workshop.copy(file, old, new), kernels, flags)
    outcome = run(program, kernel, SEED)
    assert outcome.failed
    assert report in outcome.output
