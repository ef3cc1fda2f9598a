"""What a test runs on: backend and device, parameters of any layout, traces of gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from yfkernels.ops.backends import backend_status

BACKENDS = ("native", "triton", "torch")
CANARY = 77.0  # exact in every dtype

takes_names = pytest.mark.skipif(
    torch.__version__ < (2, 6),
    reason=f"torch {torch.__version__} takes no named parameters; 2.6 is the first that does",
)

# YellowFin's ways to the statistics: what its kernels are compiled for.
MODES: dict[str, dict[str, Any]] = {
    "robust": {"preconditioner": None},
    "diagonal": {"preconditioner": "diagonal"},
    "compact": {"preconditioner": "compact"},
    "float8": {"momentum_dtype": torch.float8_e4m3fn},
    "exact": {"variance": "exact", "robust": False},
    "sketch": {"variance": "sketch", "robust": False},
}


@dataclass(frozen=True)
class Site:
    """One backend on one device."""

    backend: str
    device: str

    @property
    def interpreted(self) -> bool:
        """Triton's interpreter takes milliseconds a block: keep the input small."""
        return self.backend == "triton" and self.device == "cpu"


def why_unusable(site: Site) -> str | None:
    """The package's own reason why a backend does not serve a device, None where it does."""
    return backend_status(site.device)[site.backend]


@dataclass(frozen=True)
class Spec:
    """One parameter: shape, dtype and how it lies in memory."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    layout: str = "contiguous"


@dataclass(frozen=True)
class Group:
    """One parameter group and its overrides."""

    specs: tuple[Spec, ...]
    overrides: Mapping[str, Any] = field(default_factory=dict)


def specs(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Spec, ...]:
    return tuple(Spec(shape, dtype) for shape in shapes)


SMALL = (Group(specs((3, 5), (17,), ())),)


@dataclass(frozen=True)
class Gradients:
    """A trace of gradients: a fixed mean plus noise, and what can go wrong at given steps."""

    steps: int = 6
    noise: float = 1.0
    density: float = 1.0
    factor: Mapping[int, float] = field(default_factory=dict)  # step -> spike (or 0.0)
    poison: Mapping[int, float] = field(default_factory=dict)  # step -> value of one entry
    present: Callable[[int, int], bool] = lambda step, parameter: True

    def draw(
        self, rng: np.random.Generator, parameters: Sequence[torch.Tensor]
    ) -> Iterator[list[torch.Tensor | None]]:
        """Yield one float64 (complex128) gradient or None per parameter and step."""
        scale = 10.0 ** rng.uniform(-2.0, 1.0)
        means = [normal(rng, p) for p in parameters]
        for step in range(self.steps):
            gradients = [
                scale * self.factor.get(step, 1.0) * (0.5 * mean + self.noise * normal(rng, mean))
                for mean in means
            ]
            if self.density < 1.0:
                for g in gradients:
                    g.mul_(torch.from_numpy(np.asarray(rng.random(g.shape) < self.density)))
            if step in self.poison:
                here = [g for i, g in enumerate(gradients) if self.present(step, i) and g.numel()]
                flat = here[rng.integers(len(here))].view(-1)
                flat[rng.integers(flat.numel())] = self.poison[step]
            yield [g if self.present(step, i) else None for i, g in enumerate(gradients)]


def normal(rng: np.random.Generator, like: torch.Tensor) -> torch.Tensor:
    """Standard normal numbers in double precision, complex where `like` is."""
    shape = tuple(like.shape) + ((2,) if like.is_complex() else ())
    numbers = torch.from_numpy(np.asarray(rng.standard_normal(shape)))
    return torch.view_as_complex(numbers) if like.is_complex() else numbers


def lay_out(values: torch.Tensor, layout: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A copy of `values` in the given layout, and the storage around it, canaries elsewhere."""
    if layout == "contiguous":
        view = base = values.contiguous().clone()
    elif layout == "transposed":
        view = base = values.mT.contiguous().clone().mT
    elif layout == "channels_last":
        view = base = values.contiguous(memory_format=torch.channels_last).clone()
    elif layout == "strided":  # not dense: every second element
        base = torch.full((*values.shape, 2), CANARY, dtype=values.dtype, device=values.device)
        view = base[..., 1]
        view.copy_(values)
    elif layout == "offset":  # starts where no vector load can, and ends there too
        base = torch.full((values.numel() + 8,), CANARY, dtype=values.dtype, device=values.device)
        view = base[3 : 3 + values.numel()].view(values.shape)
        view.copy_(values)
    else:
        raise ValueError(f"unknown layout {layout!r}")
    return view, base


def make_parameter(
    spec: Spec, rng: np.random.Generator, device: str
) -> tuple[torch.nn.Parameter, torch.Tensor]:
    """A parameter of standard normal values and the storage it lies in."""
    values = normal(rng, torch.empty(spec.shape, dtype=spec.dtype)).to(device, spec.dtype)
    view, base = lay_out(values, spec.layout)
    return torch.nn.Parameter(view), base


def memory_order(tensor: torch.Tensor, like: torch.Tensor) -> NDArray[np.float64]:
    """The elements of `tensor` in the memory order of `like`; complex ones as pairs."""
    tensor, like = tensor.detach(), like.detach()
    if tensor.is_complex():
        tensor, like = torch.view_as_real(tensor.resolve_conj()), torch.view_as_real(like)
    order = sorted(range(like.dim()), key=like.stride, reverse=True)
    return tensor.permute(order).reshape(-1).double().cpu().numpy()


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equality, wherever they are, that tells NaNs and signed zeros apart."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.numel():
        return True
    x, y = (t.detach().reshape(-1).contiguous().view(torch.uint8) for t in (a, b))
    return torch.equal(x, y.to(x.device))


def assert_same_bits(a: Any, b: Any, where: str = "") -> None:
    """`same_bits` through dicts, lists and tuples."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        assert same_bits(a, b), f"{where}: {a} != {b}"
    elif isinstance(a, Mapping):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same_bits(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same_bits(x, y, f"{where}[{i}]")
    else:
        both_nan = isinstance(a, float) and isinstance(b, float) and np.isnan(a) and np.isnan(b)
        assert both_nan or a == b, f"{where}: {a!r} != {b!r}"
