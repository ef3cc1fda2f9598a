"""What Triton hands to the assembler: forms of operations that machine code no longer shows."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from kernel import ARCHS, CODED, Kernel


def blocks(kernel: Kernel) -> list[list[str]]:
    """Opcodes by basic block: what lies between jumps and their targets."""
    body = kernel.ptx[kernel.ptx.index("\n{") :]
    border = r"^\$L__BB\w+:|^\s*(?:@!?%p\d+\s+)?bra\b.*"
    opcode = re.compile(r"^\s*(?:@!?%p\d+\s+)?([a-z]\w*(?:[.:]+\w+)+)\s", re.M)
    return [opcode.findall(block) for block in re.split(border, body, flags=re.M)]


def tile_loops(kernel: Kernel) -> list[list[str]]:
    """The blocks that load elements of tensors.

    Everything in the table is 64 bits, and a tensor's count of steps is alone in its block.
    """

    def narrow(block: list[str]) -> int:
        return sum(op.startswith("ld.global") and not op.endswith("b64") for op in block)

    return [block for block in blocks(kernel) if narrow(block) > 1]


@pytest.fixture(params=ARCHS, ids=lambda arch: f"sm_{arch}")
def of_arch(
    request: pytest.FixtureRequest, triton_kernels: list[Kernel], triton_archs: tuple[int, ...]
) -> list[Kernel]:
    if request.param not in triton_archs:
        pytest.skip("not the architecture of this run; YFK_ALL_ARCHS=1 compiles for all")
    return [kernel for kernel in triton_kernels if kernel.arch == request.param]


def test_every_access_to_a_whole_tile_is_16_bytes(of_arch: list[Kernel]) -> None:
    for kernel in of_arch:
        if not kernel.elementwise:
            continue
        whole, *masked = tile_loops(kernel)
        (machine,) = kernel.wide_loops().values()
        accesses = Counter(op for op in whole if ".global" in op)
        words = {"v4.b32": 16, "v2.b32": 8}  # the latter of codes
        wide = Counter({f"ld.global.{word}": machine.loads[n] for word, n in words.items()})
        wide += Counter({f"st.global.{word}": machine.stores[n] for word, n in words.items()})
        # the assembler unrolls short loops
        times = wide["ld.global.v4.b32"] // accesses["ld.global.v4.b32"]
        assert Counter({op: times * n for op, n in accesses.items()}) == wide, kernel
        # the end of a tensor goes element by element, and all of one that is not aligned; it shows
        # that the whole tiles were looked at
        assert len(masked) == (2 if sums_of_tensors(kernel) else 1), kernel
        coded = any(rule in str(kernel) for rule in CODED)
        narrowest = 8 if coded else 32 if kernel.dtype == "float32" else 16
        for loop in masked:
            assert f"ld.global.b{narrowest}" in loop, kernel
            assert not any(".global.v" in op for op in loop), kernel


def sums_of_tensors(kernel: Kernel) -> bool:
    """Whether a pass that moves or directs leaves sums: those have a third loop."""
    return kernel.function in ("update_state", "project") or kernel.move_sums


# For sm_100 LLVM pairs operations, and in one of two loops does it so that it rounds a product
# before it adds it: there the sums of tensors that begin elsewhere differ in their last bits.
ROUNDED_ONCE_MORE = {
    "Triton update<bfloat16, yellowfin_robust master> sm_100",
    "Triton update<float16, yellowfin_robust master> sm_100",
    "Triton update_state<bfloat16, yellowfin_sketch master> sm_100",
}


def test_sums_do_not_depend_on_where_a_tensor_begins(of_arch: list[Kernel]) -> None:
    """What is not aligned has whole tiles too, with the same arithmetic: the same bits."""

    def arithmetic(loop: list[str]) -> Counter[str]:
        found: Counter[str] = Counter()
        for op in loop:
            if match := re.match(r"(fma|add|sub|mul|div|sqrt)\b.*\.f32(x2)?", op):
                name = match[1].replace("sub", "add")  # of a negative
                found[name] += 2 if match[2] else 1
        return found

    kernels = [kernel for kernel in of_arch if kernel.elementwise and sums_of_tensors(kernel)]
    differ = set()
    for kernel in kernels:
        whole, *masked = map(arithmetic, tile_loops(kernel))
        assert whole, kernel
        if whole not in masked:
            differ.add(str(kernel))
    assert kernels
    assert differ == {name for name in ROUNDED_ONCE_MORE if name.endswith(f"_{kernels[0].arch}")}


def test_no_doubles_and_no_divisions_for_each_element(of_arch: list[Kernel]) -> None:
    for kernel in of_arch:
        if not kernel.elementwise:
            continue
        for block in tile_loops(kernel):
            assert not [op for op in block if "f64" in op], kernel
            divisions = Counter(op for op in block if op.startswith(("div", "rcp", "rem", "sqrt")))
            if kernel.divides:  # the fast ones, as many roots as divisions or half of that
                roots = divisions.total() // (1 + kernel.divisions)
                fast = {"div.full.f32": kernel.divisions * roots, "sqrt.approx.ftz.f32": roots}
                assert divisions == Counter(fast), kernel
            else:
                assert not divisions, kernel
            assert [op for op in block if "f32" in op], kernel
        # sums are carried on, and coefficients read, in float64: once a chunk
        assert [op for block in blocks(kernel) for op in block if "f64" in op], kernel


def test_the_tuner_rounds_as_the_host_does(of_arch: list[Kernel]) -> None:
    """IEEE division and root everywhere; fused products in ln and exp only."""
    arithmetic = re.compile(r"(div|sqrt|rcp|fma|add|sub|mul)\b.*\.f64")
    tuners = [kernel for kernel in of_arch if kernel.function.endswith("_tune")]
    assert tuners
    for kernel in tuners:
        seen = [op for block in blocks(kernel) for op in block]
        loose = [op for op in seen if arithmetic.match(op) and ".rn" not in op]
        fused = [op for op in seen if re.match(r"fma\b.*\.f64", op)]
        assert [op for op in seen if re.match(r"(div|sqrt)\.rn\.f64", op)], kernel
        if kernel.variants == ("linear",):
            assert not loose, kernel
            assert not fused, kernel
        else:
            assert set(loose) <= {"rcp.approx.ftz.f64"}, kernel  # inside ln
