"""Looks for programs that go wrong, in processes that may die of them.

    cd tests && python -m programs.hunting --count 1000

prints the shortest program of every fault that it finds, and exits with 1 if there is any.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
import json
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from programs.program import Program

BATCH = 25  # programs a process


class Fault(NamedTuple):
    """What went wrong; `kind` tells one fault from another."""

    kind: str
    details: str


def faults(programs: Sequence[Program], *, quiet: bool) -> Iterator[Fault | None]:
    """Runs programs in a process of their own, in a new one where it has died."""
    done = 0
    while done < len(programs):
        action = "the start"
        read, write = os.pipe()
        child = os.fork()
        if not child:
            os.close(read)
            _work(programs[done:], write, quiet)
        os.close(write)
        with os.fdopen(read) as lines:
            for line in lines:
                what, *words = json.loads(line)
                if what == "action":
                    action = words[0]
                else:
                    yield Fault(*words) if words else None
                    done += 1
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            yield Fault(f"{action}: the process died with {how}", "")
            done += 1


def _work(programs: Sequence[Program], write: int, quiet: bool) -> None:
    """What the child does: it never returns."""
    from programs.program import run
    from programs.side import Mismatch

    def tell(*words: str) -> None:
        os.write(write, json.dumps(words).encode() + b"\n")

    if quiet:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        for program in programs:
            try:
                run(program, before_action=lambda name: tell("action", name))
            except Mismatch as mismatch:
                tell("done", mismatch.kind, mismatch.details + _trace(mismatch.__cause__))
            else:
                tell("done")
    except BaseException:
        traceback.print_exc()
        os._exit(3)
    os._exit(0)


def _trace(error: BaseException | None) -> str:
    if error is None:
        return ""
    return "\n" + "".join(traceback.format_tb(error.__traceback__)[-3:])


def report(program: Program, fault: Fault) -> str:
    """The fault and the shortest program that has it."""
    from programs.program import shorten

    def fails(shorter: Program) -> bool:
        (found,) = faults([shorter], quiet=True)
        return found is not None and found.kind == fault.kind

    shortest = shorten(program, fails)
    (found,) = faults([shortest], quiet=False)  # a sanitizer has its say
    kind, details = found or fault
    return f"{kind}\n{details}\n\n{shortest}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of all programs")
    parser.add_argument("--first", type=int, default=0, help="number of the first program")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--pairs", default="NATIVE", help="NATIVE, PLAIN, INTERPRETED or names")
    parser.add_argument("--module", help="a compiled yfkernels._C to use in the built one's place")
    parser.add_argument("--kinds", type=int, default=1, help="stop after so many kinds of fault")
    arguments = parser.parse_args()
    if arguments.module:
        use_module(arguments.module)

    import torch
    from programs.pairs import chosen
    from programs.program import draw

    torch.set_num_threads(1)
    if arguments.pairs == "INTERPRETED":
        from support.interpreter import patch_once

        patch_once()  # as conftest.py does
    pairs = chosen(arguments.pairs)
    programs = [
        draw((arguments.seed, number), pairs)
        for number in range(arguments.first, arguments.first + arguments.count)
    ]
    found: Counter[str] = Counter()
    first: dict[str, tuple[Program, Fault]] = {}
    start, done = time.monotonic(), 0
    for begin in range(0, len(programs), BATCH):
        batch = programs[begin : begin + BATCH]
        for program, fault in zip(batch, faults(batch, quiet=True), strict=True):
            done += 1
            if fault is not None:
                found[fault.kind] += 1
                known = first.get(fault.kind)
                if known is None or len(program.actions) < len(known[0].actions):
                    first[fault.kind] = program, fault
        if len(found) >= arguments.kinds:
            break
    steps = sum(len(program.actions) for program in programs[:done])
    print(
        f"{done} programs of {steps} actions, {time.monotonic() - start:.0f} s, "
        f"{sum(found.values())} went wrong"
    )
    for kind, count in found.most_common():
        print(f"\n{count} times: {report(*first[kind])}", flush=True)
    return 1 if found else 0


def use_module(path: str) -> None:
    """Puts a compiled module where `import yfkernels._C` finds it."""
    loader = importlib.machinery.ExtensionFileLoader("yfkernels._C", path)
    spec = importlib.util.spec_from_loader("yfkernels._C", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    sys.modules["yfkernels._C"] = module


if __name__ == "__main__":
    sys.exit(main())
