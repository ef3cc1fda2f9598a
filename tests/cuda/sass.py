"""Machine code as nvdisasm prints it: instructions, the loops they form, what an access moves."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

_FUNCTION = re.compile(r"^\.text\.(\S+):\n(.*?)(?=^\s*\.section|\Z)", re.MULTILINE | re.DOTALL)
_LABEL = re.compile(r"(\.L_x_\w+):")
_INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@(!?\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
_TARGET = re.compile(r"`\((\.L_x_\w+)\)")

_GLOBAL = {"LDG", "STG"}
# other ways to global memory: an asynchronous copy, an atomic, an address not known to be global
_UNCOUNTED = {"LD", "ST", "LDGSTS", "ATOM", "ATOMG", "RED", "REDG", "UBLKCP", "UTMALDG", "UTMASTG"}
_DOUBLE = {"DADD", "DMUL", "DFMA", "DSETP", "DMNMX"}
_DIVISION = re.compile(r"MUFU\.(RCP|RSQ|SQRT)")
_FLOPS = {"FADD": 1, "FMUL": 1, "FFMA": 2, "FADD2": 2, "FMUL2": 2, "FFMA2": 4}


@dataclass(frozen=True)
class Instruction:
    guard: str  # the predicate it waits for, or nothing
    opcode: str
    operands: str

    @property
    def root(self) -> str:
        return self.opcode.partition(".")[0]

    @property
    def target(self) -> str | None:
        """The label this jumps to.

        For sm_80 ptxas leaves a loop by a CALL of a label that never returns; calls of functions
        name a symbol.
        """
        match = _TARGET.search(self.operands)
        return match[1] if match and self.root in {"BRA", "CALL", "JMP", "WARPSYNC"} else None

    @property
    def falls_through(self) -> bool:
        if self.root not in {"BRA", "JMP", "EXIT", "RET"} and self.target is None:
            return True
        return bool(self.guard) or "," in self.operands  # BRA P0, `(label): a second condition

    @property
    def width(self) -> int:
        """Bytes a thread moves."""
        for part in self.opcode.split("."):
            if part in {"64", "128", "256"}:
                return int(part) // 8
            if re.fullmatch(r"[USF](8|16)", part):
                return int(part[1:]) // 8
        return 4

    def __str__(self) -> str:
        return " ".join([f"@{self.guard}" if self.guard else "", self.opcode, self.operands])


@dataclass(frozen=True)
class Code:
    """Instructions that are looked through together: a function or a loop."""

    instructions: tuple[Instruction, ...]

    def _of(self, *roots: str) -> list[Instruction]:
        return [each for each in self.instructions if each.root in roots]

    @property
    def doubles(self) -> list[Instruction]:
        """Arithmetic in float64 and conversions from and to it."""
        return [i for i in self.instructions if i.root in _DOUBLE or "F64" in i.opcode]

    @property
    def calls(self) -> list[Instruction]:
        """Calls of functions, which divisions that round correctly end in."""
        return [i for i in self._of("CALL") if i.target is None]

    @property
    def reciprocals(self) -> list[Instruction]:
        return [i for i in self.instructions if i.opcode.startswith("MUFU.RCP")]

    @property
    def divisions(self) -> list[Instruction]:
        """Reciprocals and roots, and calls."""
        return self.calls + [i for i in self.instructions if _DIVISION.match(i.opcode)]

    @property
    def local(self) -> list[Instruction]:
        """Accesses to local memory, where spills and indexed arrays are."""
        return self._of("LDL", "STL")

    @property
    def uncounted(self) -> list[Instruction]:
        """Accesses that may be to global memory and are not plain loads and stores of it."""
        return self._of(*_UNCOUNTED)

    @property
    def loads(self) -> Counter[int]:
        """Loads from global memory by width in bytes."""
        return Counter(each.width for each in self._of("LDG"))

    @property
    def stores(self) -> Counter[int]:
        return Counter(each.width for each in self._of("STG"))

    @property
    def flops(self) -> int:
        """Float32 additions and multiplications of a thread; a fused pair is two."""
        return sum(_FLOPS.get(each.root, 0) for each in self.instructions)

    def __str__(self) -> str:
        return "\n".join(map(str, self.instructions))


@dataclass(frozen=True)
class Function(Code):
    labels: dict[str, int]  # to the index of an instruction

    @classmethod
    def parse(cls, text: str) -> Function:
        instructions: list[Instruction] = []
        labels = {}
        for line in text.splitlines():
            if label := _LABEL.match(line):
                labels[label[1]] = len(instructions)
            elif match := _INSTRUCTION.match(line):
                instructions.append(Instruction(match[1] or "", match[2], match[3]))
        tables = [each for each in instructions if each.root in {"BRX", "JMX"}]
        assert not tables, f"{tables[0]}: jumps through tables are not followed"
        return cls(tuple(instructions), labels)

    @cached_property
    def _blocks(self) -> list[range]:
        """Runs of instructions without a jump in or out."""
        starts = {0, *self.labels.values()}
        starts |= {
            place + 1
            for place, each in enumerate(self.instructions)
            if each.target or not each.falls_through
        }
        bounds = [*sorted(s for s in starts if s < len(self.instructions)), len(self.instructions)]
        return [range(a, b) for a, b in pairwise(bounds)]

    @cached_property
    def _edges(self) -> list[list[int]]:
        """To each block those that may follow it."""
        at = {block.start: index for index, block in enumerate(self._blocks)}
        edges = []
        for index, block in enumerate(self._blocks):
            last = self.instructions[block[-1]]
            after = [at[self.labels[last.target]]] if last.target else []
            if last.falls_through and index + 1 < len(self._blocks):
                after.append(index + 1)
            edges.append(after)
        return edges

    def _loops(self) -> Iterator[set[int]]:
        """The natural loops, as sets of blocks; loops with one head are one loop."""
        dominators = _dominators(self._edges)
        before: list[list[int]] = [[] for _ in self._edges]
        for block, after in enumerate(self._edges):
            for each in after:
                before[each].append(block)
        for head in range(len(self._blocks)):
            tails = [tail for tail in before[head] if head in dominators.get(tail, ())]
            body, waiting = {head}, list(tails)
            while waiting:
                block = waiting.pop()
                if block not in body:
                    body.add(block)
                    waiting += [b for b in before[block] if b in dominators]
            if tails:
                yield body

    @cached_property
    def element_loops(self) -> list[Code]:
        """Loops without another loop inside that touch global memory: they run over elements.

        Those over slots, chunks or groups do not count: they touch doubles alone, 8 bytes each.
        """
        loops = list(self._loops())
        innermost = [loop for loop in loops if not any(other < loop for other in loops)]
        code = [
            Code(tuple(self.instructions[i] for block in sorted(loop) for i in self._blocks[block]))
            for loop in innermost
        ]
        return [loop for loop in code if {*loop.loads, *loop.stores} - {8} or loop.uncounted]

    def wide_loops(self, least: int = 16) -> list[Code]:
        """The element loops with no access below that many bytes, most loads first.

        They run where every column lies on 16 bytes, and set the speed.
        """
        wide = [loop for loop in self.element_loops if min([*loop.loads, *loop.stores]) >= least]
        return sorted(wide, key=lambda loop: -loop.loads.total())


def _dominators(edges: Sequence[Sequence[int]]) -> dict[int, set[int]]:
    """To each block that can be reached from block 0 those that every way to it passes."""
    reached, waiting = {0}, [0]
    while waiting:
        fresh = [block for block in edges[waiting.pop()] if block not in reached]
        reached.update(fresh)
        waiting += fresh
    before: dict[int, list[int]] = {block: [] for block in reached}
    for block in reached:
        for each in edges[block]:
            before[each].append(block)
    found = {block: set(reached) for block in reached}
    found[0] = {0}
    changed = True
    while changed:
        changed = False
        for block in sorted(reached - {0}):
            now = set.intersection(*(found[b] for b in before[block])) | {block}
            changed |= now != found[block]
            found[block] = now
    return found


def find_tool(name: str) -> str | None:
    """nvdisasm or cuobjdump: on PATH, beside nvcc, or else the one that Triton brings along."""
    nvcc, triton = shutil.which("nvcc"), find_spec("triton")
    places = [Path(nvcc).resolve().parent] if nvcc else []
    if triton and triton.origin:
        places.append(Path(triton.origin).parent / "backends/nvidia/bin")
    found = (shutil.which(name, path=str(place)) for place in places)
    return shutil.which(name) or next(filter(None, found), None)


def disassemble(nvdisasm: str, cubin: Path) -> dict[str, Function]:
    """Every kernel of a file, by its mangled name."""
    command = [nvdisasm, "-c", "-ndf", str(cubin)]  # without its analysis of the data flow
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stderr}"
    return {name: Function.parse(body) for name, body in _FUNCTION.findall(result.stdout)}
