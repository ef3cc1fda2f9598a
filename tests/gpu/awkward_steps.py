"""A few steps over tensors that kernels trip over: small enough to run under compute-sanitizer.

    compute-sanitizer --tool racecheck python tests/gpu/awkward_steps.py

Every dtype, every mode, host and device tuning, a skipped step, moved gradients. Ends with an
error if a result is not finite; what else could be wrong is for the sanitizer, or for other tests.
"""

from __future__ import annotations

import argparse
import itertools

import torch

from yfkernels import YellowFin

STEPS = 4
SKIPPED = 2  # the step with an infinity
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MODES = {
    "robust": {"preconditioner": None, "sparsity_debias": True},
    "diagonal": {"preconditioner": "diagonal"},
    "compact": {"preconditioner": "compact"},
    "exact": {"variance": "exact", "robust": False, "sparsity_debias": True},
    "sketch": {"variance": "sketch", "robust": False, "sparsity_debias": True},
}
# empty, scalar, less and more than a vector, tile and chunk, and one past them
SHAPES = ((0,), (), (1,), (3,), (7, 5), (33,), (4095,), (4097,), (65_537,), (3, 3, 3, 3))
MANY = 520  # more gradients than one launch can carry the addresses of
# how far a tensor begins behind its allocation: no vector access is aligned there
OFFSETS = (0, 1, 3)


def behind(values: torch.Tensor, offset: int) -> torch.Tensor:
    """A copy of `values` that starts `offset` elements into its memory and ends where that does."""
    base = torch.empty(offset + values.numel(), dtype=values.dtype, device=values.device)
    view = base[offset:].view(values.shape)
    view.copy_(values)
    return view


def random(shape: tuple[int, ...], dtype: torch.dtype, device: str, offset: int) -> torch.Tensor:
    # made on the CPU: under a sanitizer every kernel that is not ours costs time
    return behind(torch.randn(shape).to(device, dtype), offset)


def take_steps(device: str, backend: str, dtype: torch.dtype, mode: str, capturable: bool) -> None:
    shapes = [*SHAPES, *[(3,)] * (MANY if dtype is torch.float32 else 0)]
    offsets = list(itertools.islice(itertools.cycle(OFFSETS), len(shapes)))
    params = [
        torch.nn.Parameter(random(shape, dtype, device, offset))
        for shape, offset in zip(shapes, offsets, strict=True)
    ]
    optimizer = YellowFin(
        params,
        **MODES[mode],
        capturable=capturable,
        backend=backend,
        max_norm=1.0,
        weight_decay=0.01,
    )
    for step in range(STEPS):
        for param, shape, offset in zip(params, shapes, reversed(offsets), strict=True):
            param.grad = random(shape, dtype, device, offset)
        if step == SKIPPED:
            params[-1].grad.fill_(torch.inf)
        optimizer.step()
    seen = optimizer.diagnostics()
    assert (seen["step"], seen["skipped_steps"]) == (STEPS - 1, 1), seen
    assert all(bool(param.isfinite().all()) for param in params), f"{dtype} {mode}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backend", default="native")
    options = parser.parse_args()
    torch.manual_seed(0)
    cases = list(itertools.product(DTYPES, MODES, (False, True)))
    for case in cases:
        take_steps(options.device, options.backend, *case)
    print(f"{len(cases)} optimizers took {STEPS} steps each")


if __name__ == "__main__":
    main()
