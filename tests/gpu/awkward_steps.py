"""A few steps over tensors that kernels trip over: small enough to run under compute-sanitizer.

    compute-sanitizer --tool racecheck python tests/gpu/awkward_steps.py

Every dtype, every mode, host and device tuning, a skipped step, moved gradients; with --few, every
mode once. Ends with an error if a result is not finite; what else could be wrong is for the
sanitizer, or for other tests.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch

from yfkernels import LAMB, QHAdam, YellowFin

STEPS = 4
SKIPPED = 2  # the step with an infinity
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_TUNED = partial(YellowFin, max_norm=1.0)
MODES: dict[str, Callable[..., Any]] = {
    "robust": partial(_TUNED, preconditioner=None, sparsity_debias=True),
    "diagonal": partial(_TUNED, preconditioner="diagonal"),
    "compact": partial(_TUNED, preconditioner="compact"),
    "float8": partial(_TUNED, momentum_dtype=torch.float8_e4m3fn),
    "exact": partial(_TUNED, variance="exact", robust=False, sparsity_debias=True),
    "sketch": partial(_TUNED, variance="sketch", robust=False, sparsity_debias=True),
    "LAMB, 8 bits": partial(LAMB, state_bits=8, max_grad_norm=1.0),
    "QHAdam, 8 bits": partial(QHAdam, state_bits=8, max_norm=1.0),
}
# The passes of these are those of the others, but for the bytes.
IN_BYTES = ("LAMB, 8 bits", "QHAdam, 8 bits")
ONCE = [(dtype, mode, True) for dtype in (torch.float32, torch.bfloat16) for mode in IN_BYTES]
# empty, scalar, less and more than a vector, tile and chunk, and one past them
SHAPES = ((0,), (), (1,), (3,), (7, 5), (33,), (4095,), (4097,), (65_537,), (3, 3, 3, 3))
MANY = 520  # more gradients than one launch can carry the addresses of
# how far a tensor begins after its allocation's start: no vector access is aligned there
OFFSETS = (0, 1, 3)


@dataclass(frozen=True)
class Case:
    """One optimizer. `many`: besides the shapes above it has many small tensors."""

    dtype: torch.dtype
    mode: str
    capturable: bool
    many: bool = False


def cases(few: bool) -> list[Case]:
    """Many tensors in one case only: under a sanitizer each costs more than all of its steps."""
    if few:
        return [Case(torch.float32, mode, True) for mode in MODES]
    return [
        Case(*choice, many=choice == (torch.float32, "compact", True))
        for choice in itertools.product(DTYPES, MODES, (False, True))
        if choice[1] not in IN_BYTES or choice in ONCE
    ]


def shifted(values: torch.Tensor, offset: int) -> torch.Tensor:
    """A copy of `values` that starts `offset` elements into its memory and ends where that does."""
    base = torch.empty(offset + values.numel(), dtype=values.dtype, device=values.device)
    view = base[offset:].view(values.shape)
    view.copy_(values)
    return view


def random(offsets: Sequence[int], case: Case, device: str) -> list[torch.Tensor]:
    """Random tensors of all shapes: each in memory of its own, but for the many small ones."""
    # made on the CPU and copied at once: under a sanitizer every call of CUDA costs time
    shapes = [*SHAPES, *[(3,)] * (MANY if case.many else 0)]
    sizes = [prod(shape) for shape in shapes]
    flat = torch.randn(sum(sizes)).to(case.dtype).to(device)
    views = [piece.view(shape) for piece, shape in zip(flat.split(sizes), shapes, strict=True)]
    return [
        shifted(view, offset) for view, offset in zip(views[: len(SHAPES)], offsets, strict=True)
    ] + views[len(SHAPES) :]


def take_steps(device: str, backend: str, case: Case) -> None:
    offsets = list(itertools.islice(itertools.cycle(OFFSETS), len(SHAPES)))
    params = [torch.nn.Parameter(tensor) for tensor in random(offsets, case, device)]
    optimizer = MODES[case.mode](
        params, capturable=case.capturable, backend=backend, weight_decay=0.01
    )
    for step in range(STEPS):
        gradients = random(offsets[::-1], case, device)
        for param, gradient in zip(params, gradients, strict=True):
            param.grad = gradient
        if step == SKIPPED:
            gradients[-1].fill_(torch.inf)
        optimizer.step()
    seen = optimizer.diagnostics()
    assert seen["skipped_steps"] == 1, seen
    assert seen.get("step", STEPS - 1) == STEPS - 1, seen
    finite = torch.stack([param.isfinite().all() for param in params])
    assert bool(finite.all()), case


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backend", default="native")
    parser.add_argument("--few", action="store_true", help="every mode once")
    options = parser.parse_args()
    torch.manual_seed(0)
    chosen = cases(options.few)
    for case in chosen:
        take_steps(options.device, options.backend, case)
    print(f"{len(chosen)} optimizers took {STEPS} steps each")


if __name__ == "__main__":
    main()
