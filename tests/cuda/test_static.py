"""What the compilers can prove about the GPU kernels where there is no GPU, from machine code."""

from __future__ import annotations

import re
from collections import Counter

from from_nvcc import ROOT, SOURCES, known_archs, source_flags, version
from kernel import TANGENTS, Kernel, Traffic

from yfkernels.ops.table import GRANULARITY

HALVES = ("bfloat16", "float16")

# By dtype measure for three sums, update for nine rules, update_state for four and apply for
# three, average into two dtypes; then tune by variance (Triton: and by log_smooth), gate, and
# write_words for few words and for many; advance and own for three families, project in two forms.
CUDA_KERNELS = 3 * (3 + 9 + 4 + 3 + 2) + 2 + 1 + 2 + (3 + 3 + 2)
# Triton: measure, measure_then_decide, gate, write, every update of float32 and of bfloat16 with a
# master, the largest rules in each other form, tune without a preconditioner and with one; average
# of every form of a parameter into float32, and of float32 and bfloat16 into bfloat16.
TRITON_KERNELS = 9 + 1 + 1 + 1 + 16 + 16 + 15 + 4 + 2 + (3 + 3 + 2) + (5 + 2)

# Some words, outside the loops over elements (tested below); more registers would halve residency.
SPILLS_ONCE_A_PIECE = {
    "Triton update<bfloat16, yellowfin_compact master> sm_90",
    "Triton update<bfloat16, yellowfin_compact master> sm_100",
    "Triton update_state<bfloat16, lamb_bytes master> sm_100",
    *(
        f"CUDA update_state<{half}, lamb_bytes master, lamb_bytes rounded> sm_{arch}"
        for half in HALVES
        for arch in (80, 90, 100)
    ),
}

# Bytes of state: columns of float32, of codes and of float8.
STATES = {
    "yellowfin": 8,
    "yellowfin_sketch": 4,
    "yellowfin_robust": 4,
    "yellowfin_diagonal": 8,
    "yellowfin_compact": 5,
    "yellowfin_float8": 2,
    "qhm": 4,
    "qhadam": 8,
    "qhadam_bytes": 2,
    "lamb": 8,
    "lamb_bytes": 2,
}
LAMBS = ("lamb", "lamb_bytes")


def expected(function: str, variant: str, dtype: str | None) -> Traffic:
    """Bytes of an element.

    measure reads g, and ḡ for the average. The passes read and write what their rule needs of g,
    the states, and p with its master, if it is a half and has one; average reads p so, and what it
    writes. Those of tangents: below.
    """
    if function in TANGENTS:
        return expected_of_tangents(function, variant)
    plain = 2 if dtype in HALVES else 4
    if function == "measure":
        return Traffic(read=plain + (4 if variant == "average" else 0), written=0)
    name, *form = variant.split()
    param = plain + (4 if form == ["master"] else 0)
    if function == "average":
        kept = 2 if name == "bfloat16" else 4
        return Traffic(read=param + kept, written=kept)
    states = STATES[name]
    if function == "update":
        return Traffic(read=plain + param + states, written=param + states)
    if function == "update_state":
        return Traffic(read=plain + param + states, written=states)
    assert function == "apply"
    recalled = 4 if name == "yellowfin" else states  # the velocity alone
    return Traffic(read=param + recalled, written=param)


def expected_of_tangents(function: str, variant: str) -> Traffic:
    """Bytes of an element, if B is kept and everything is projected.

    advance and own read g, w and the slots; advance also h and Z, which are written with B in the
    place of h. project reads e, w, Zw and what B is made of.
    """
    if function == "project":
        return Traffic(read=4 * {"stored": 4, "preconditioned": 5}[variant], written=0)
    slots = {"plain": 0, "momentum": 1, "adam": 2}[variant]
    if function == "own":
        return Traffic(read=4 * (2 + slots), written=4)
    return Traffic(read=4 * (3 + slots + 1 + slots), written=4 * (1 + 1 + slots))


def elementwise(kernels: list[Kernel]) -> list[Kernel]:
    found = [kernel for kernel in kernels if kernel.elementwise]
    assert found
    return found


def test_every_kernel_is_here_for_every_architecture(nvcc: str, cuda_kernels: list[Kernel]) -> None:
    counts = Counter(kernel.arch for kernel in cuda_kernels)
    toolkit = tuple(map(int, version(nvcc).split(".")))
    small_arguments = toolkit < (12, 1)  # no upload of many words
    assert counts == dict.fromkeys(known_archs(nvcc), CUDA_KERNELS - small_arguments)


def test_every_triton_kernel_is_here(
    triton_kernels: list[Kernel], triton_archs: tuple[int, ...]
) -> None:
    counts = Counter(kernel.arch for kernel in triton_kernels)
    assert counts == dict.fromkeys(triton_archs, TRITON_KERNELS)


def test_no_kernel_spills_registers(kernels: list[Kernel]) -> None:
    spilling = {str(kernel) for kernel in kernels if kernel.spilled or kernel.code.local}
    assert spilling <= SPILLS_ONCE_A_PIECE


def test_enough_threads_fit_a_multiprocessor(kernels: list[Kernel]) -> None:
    """So many that their loads hide the memory's latency; every kernel fits at all."""
    enough = {
        ("CUDA", "measure"): 1024,
        ("CUDA", "update"): 1024,
        ("CUDA", "update_state"): 768,
        ("CUDA", "apply"): 1024,
        ("CUDA", "average"): 1024,
        ("CUDA", "advance"): 512,  # with so many columns that as much is under way
        ("CUDA", "own"): 1024,
        ("CUDA", "project"): 512,
        ("Triton", "measure"): 512,  # two slots for each multiprocessor
        ("Triton", "update"): 768,
        ("Triton", "update_state"): 512,
        ("Triton", "apply"): 768,
        ("Triton", "average"): 768,
        ("Triton", "advance"): 512,
        ("Triton", "own"): 768,
        ("Triton", "project"): 512,
    }
    few = {
        str(kernel): kernel.resident
        for kernel in kernels
        if kernel.resident < enough.get((kernel.backend, kernel.function), kernel.block)
        # sums of the move take registers
        and not (
            kernel.move_sums and kernel.resident >= {"CUDA": 768, "Triton": 512}[kernel.backend]
        )
    }
    assert few == {}


def test_element_loops_hold_no_doubles_no_calls_and_no_spills(kernels: list[Kernel]) -> None:
    for kernel in elementwise(kernels):
        loops = kernel.code.element_loops
        assert len(loops) > len(kernel.variants), f"{kernel}: ragged ends need a loop as well"
        for loop in loops:
            assert not loop.doubles, f"{kernel}\n{loop}"
            assert not loop.calls, f"{kernel}\n{loop}"
            assert not loop.local, f"{kernel}\n{loop}"
            assert bool(loop.divisions) == kernel.divides, f"{kernel}\n{loop}"
        # sums go on, and coefficients come, in float64, once a chunk: it is there to be found
        assert kernel.code.doubles, kernel


def test_only_plain_accesses_of_global_memory(kernels: list[Kernel]) -> None:
    """Addresses come out of the table: the compiler must still know that they are global."""
    for kernel in elementwise(kernels):
        assert {each.root for each in kernel.code.uncounted} <= {"ATOMG"}, kernel  # of tickets
        assert not any(loop.uncounted for loop in kernel.code.element_loops), kernel


def test_bytes_of_an_element(kernels: list[Kernel]) -> None:
    """16-byte accesses only, but of codes, and no more of them than the columns need."""
    for kernel in elementwise(kernels):
        for variant, loop in kernel.wide_loops().items():
            assert {*loop.loads, *loop.stores} == kernel.widths, f"{kernel}\n{loop}"
            wanted = expected(kernel.function, variant, kernel.dtype)
            assert kernel.traffic(variant) == wanted, f"{kernel} {variant}\n{loop}"


def test_bytes_of_the_specification() -> None:
    """Of a float32 parameter: LAMB with its clip 44, QHM 20, QHAdam 28, YellowFin 20 to 36."""
    of = {
        key: sum(vars(expected(*key, "float32")).values())
        for key in [
            *(("measure", what) for what in ("norm", "average", "sketch")),
            *(("update", rule) for rule in STATES if not rule.startswith("lamb")),
            *((name, rule) for name in ("update_state", "apply") for rule in LAMBS),
        ]
    }
    assert of["measure", "norm"] + of["update_state", "lamb"] + of["apply", "lamb"] == 4 + 24 + 16
    assert of["update_state", "lamb_bytes"] + of["apply", "lamb_bytes"] == 12 + 10
    assert of["update", "qhm"] == 20
    assert of["update", "qhadam"] == 28
    assert of["update", "qhadam_bytes"] == 16
    assert of["measure", "average"] + of["update", "yellowfin"] == 36
    assert of["measure", "sketch"] + of["update", "yellowfin_sketch"] == 24
    assert of["measure", "norm"] + of["update", "yellowfin_compact"] == 26
    assert of["measure", "norm"] + of["update", "yellowfin_float8"] == 20


def test_loads_in_flight(cuda_kernels: list[Kernel]) -> None:
    """Bytes that a multiprocessor waits for at once: more than its share of bandwidth by latency.

    4.8 TB/s over 132 of them, by 0.8 µs.
    """
    for kernel in elementwise(cuda_kernels):
        for variant, loop in kernel.wide_loops().items():
            waited_for = sum(width * count for width, count in loop.loads.items())
            assert waited_for * kernel.resident >= 30_000, (str(kernel), variant)


def test_sketches_leave_in_16_bytes(cuda_kernels: list[Kernel]) -> None:
    """Eight buckets a thread, whatever the type."""
    for kernel in cuda_kernels:
        if kernel.function == "measure":
            wanted = 2 if kernel.variants == ("sketch",) else 0
            assert kernel.code.stores[16] == wanted, kernel


def test_all_slots_of_a_measurement_run_at_once(cuda_kernels: list[Kernel]) -> None:
    """A block a slot, and never more slots than 132 multiprocessors hold: no second wave."""
    for kernel in cuda_kernels:
        if kernel.function == "measure":
            assert kernel.resident // kernel.block * 132 >= GRANULARITY["cuda"].slots, kernel


def test_pointers_fill_the_arguments_of_a_launch(cuda_kernels: list[Kernel]) -> None:
    """4 KB in all for few, 32,764 bytes for many (CUDA 12.1 and newer)."""
    for kernel in cuda_kernels:
        if kernel.function == "write_words":
            words = re.search(r"\.param \.align 8 \.b8 \w+\[(\d+)\]", kernel.ptx)
            assert words, kernel.ptx
            assert int(words[1]) == 8 * {"few": 480, "many": 4000}[kernel.variants[0]]


def test_no_source_asks_what_it_is_compiled_for() -> None:
    """So that one PTX serves all (from_nvcc.py, setup.py)."""
    headers = sorted((ROOT / "csrc").rglob("*.*h"))
    for source in (*SOURCES, *headers):
        assert not re.search(r"__CUDA_ARCH(_LIST)?__", source.read_text()), source


def test_flags_of_single_sources() -> None:
    """csrc/tuner promises the host's bits; a division that rounds correctly is a function."""
    fast = ["-prec-div=false", "-prec-sqrt=false"]
    flags = {"tune.cu": ["--fmad=false"], "lamb.cu": fast, "qhadam.cu": fast}
    flags["preconditioned.cu"] = flags["tangents.cu"] = fast
    assert {s.name: source_flags(s) for s in SOURCES if source_flags(s)} == flags
