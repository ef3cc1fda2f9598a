"""Parameters written as text, so that a program fits on a line: `3x5 17:bfloat16 / scalar`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from support.cases import Spec, lay_out

# Values of a size return, so that freed memory is soon somebody else's.
SHAPES = (
    *((), (1,), (0, 4), (5,), (17,), (17,), (3, 5), (3, 5), (4, 6), (4, 6)),
    *((2, 3, 4, 5), (33, 31), (1023,), (1025,)),
)
LAYOUTS = ("contiguous", "contiguous", "offset", "transposed", "channels_last")


def spec_to_text(spec: Spec) -> str:
    words = ["x".join(map(str, spec.shape)) or "scalar"]
    if spec.dtype != torch.float32 or spec.layout != "contiguous":
        words.append(str(spec.dtype).removeprefix("torch."))
    if spec.layout != "contiguous":
        words.append(spec.layout)
    return ":".join(words)


def spec_from_text(text: str) -> Spec:
    shape, *rest = text.split(":")
    sizes = () if shape == "scalar" else tuple(map(int, shape.split("x")))
    dtype = getattr(torch, rest[0]) if rest else torch.float32
    return Spec(sizes, dtype, *rest[1:])


def groups_to_text(groups: Sequence[Sequence[Spec]]) -> str:
    return " / ".join(" ".join(map(spec_to_text, group)) for group in groups)


def groups_from_text(text: str) -> tuple[tuple[Spec, ...], ...]:
    return tuple(tuple(map(spec_from_text, group.split())) for group in text.split("/"))


def draw_spec(rng: np.random.Generator, dtypes: Sequence[torch.dtype]) -> Spec:
    """A parameter of a shape and layout that go together."""
    shape = SHAPES[rng.integers(len(SHAPES))]
    dtype = dtypes[rng.integers(len(dtypes))]
    layout = LAYOUTS[rng.integers(len(LAYOUTS))]
    needs = {"transposed": 2, "channels_last": 4}.get(layout, 0)
    if len(shape) < needs or (layout == "channels_last" and len(shape) != needs):
        layout = "contiguous"
    return Spec(shape, dtype, layout)


def numbers(rng: np.random.Generator, like: torch.Tensor) -> torch.Tensor:
    """Standard normal numbers in double precision, complex where `like` is."""
    shape = tuple(like.shape)
    parts = [torch.from_numpy(np.asarray(rng.standard_normal(shape))) for _ in range(2)]
    return torch.complex(*parts) if like.is_complex() else parts[0]


def make(spec: Spec, seed: int) -> tuple[torch.nn.Parameter, torch.Tensor]:
    """The parameter, and the storage it lies in, with canaries around it."""
    values = numbers(np.random.default_rng(seed), torch.empty(spec.shape, dtype=spec.dtype))
    view, base = lay_out(values.to(spec.dtype), spec.layout)
    return torch.nn.Parameter(view), base
