"""What a measure of sharpness found, and all that is needed to repeat it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from yfkernels.analysis.landscape.surface import Evaluations, Surface


@dataclass(frozen=True, kw_only=True)
class Sharpness:
    """What one measure found; `print` it for a short text.

    Attributes:
        method: the measure's name.
        value: the measure.
        loss: f(x), the mean loss at the model's own weights.
        examples: of the data set.
        evaluations: passes over it, for losses, gradients and Hessian-vector products.
        options: of this measurement, with its seed; `sharpness(model, loss, loader,
            result.method, **result.options)` repeats it.
    """

    method: str
    value: float
    loss: float
    examples: int
    evaluations: Evaluations
    options: Mapping[str, Any]

    def __str__(self) -> str:
        passes = self.evaluations._asdict().items()
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        lines = [
            *self._lines(),
            f"loss       {self.loss:.6g}, mean of {self.examples:,} examples",
            f"passes     {', '.join(f'{number} for {kind}' for kind, number in passes if number)}",
            f"options    {options}",
        ]
        return "\n".join(lines)

    def _headline(self) -> str:
        return f"{self.value:.6g}"

    def _lines(self) -> Iterator[str]:
        yield f"{self.method:<10} {self._headline()}"


@dataclass(frozen=True, kw_only=True)
class AdaptiveSharpness(Sharpness):
    """`method="adaptive"`.

    Attributes:
        max_loss: the largest loss that was found.
    """

    max_loss: float

    def _lines(self) -> Iterator[str]:
        yield from super()._lines()
        yield f"max loss   {self.max_loss:.6g}"


@dataclass(frozen=True, kw_only=True)
class KeskarSharpness(AdaptiveSharpness):
    """`method="keskar"`.

    Attributes:
        adaptive: the rise of the loss in the box |e_i| <= eps |x_i|, which does not depend on how
            the layers are scaled.
    """

    adaptive: AdaptiveSharpness

    def _headline(self) -> str:
        return f"{self.value:.6g} (adaptive {self.adaptive.value:.6g})"


@dataclass(frozen=True, kw_only=True)
class MeanSharpness(Sharpness):
    """`method="random"` and `method="trace"`.

    Attributes:
        standard_error: of the value.
        samples: how many it is the mean of.
    """

    standard_error: float
    samples: int

    def _headline(self) -> str:
        return f"{self.value:.6g} ± {self.standard_error:.2g}"


@dataclass(frozen=True, kw_only=True)
class LargestCurvature(Sharpness):
    """`method="lambda_max"`.

    Attributes:
        residual: ‖H v - value v‖ of the unit vector v: an eigenvalue is so near or nearer.
        converged: whether that was within the tolerance.
    """

    residual: float
    converged: bool

    def _headline(self) -> str:
        state = "converged" if self.converged else "not converged"
        return f"{self.value:.6g} ({state}, residual {self.residual:.2g})"


@dataclass(frozen=True, kw_only=True)
class Flatness(Sharpness):
    """`method="epsilon_flatness"`; larger is flatter.

    Attributes:
        distances: along the random directions; `value` is their median.
        along_top: along the top eigenvector, and against it.
        converged: whether that eigenvector converged.
    """

    distances: tuple[float, ...]
    along_top: tuple[float, float]
    converged: bool

    def _lines(self) -> Iterator[str]:
        yield from super()._lines()
        ahead, back = self.along_top
        state = "" if self.converged else ", which has not converged"
        yield f"along      ±top eigenvector: {ahead:.6g}, {back:.6g}{state}"


@dataclass(frozen=True, kw_only=True)
class LayerSharpness(Sharpness):
    """`per_layer=True`; `value` is the largest of the layers.

    Attributes:
        layers: the measure of each parameter tensor alone, by its name.
    """

    layers: Mapping[str, Sharpness]

    def _lines(self) -> Iterator[str]:
        yield f"{self.method:<10} {self.value:.6g}, the largest of {len(self.layers)} tensors"
        width = max(map(len, self.layers))
        for name, result in self.layers.items():
            yield f"  {name:<{width}}  {result._headline()}"


def described(measure: Any, surface: Surface, begin: Evaluations) -> dict[str, Any]:
    """The fields that all results have.

    Args:
        measure: a dataclass of options, with its name.
        surface: where it was measured.
        begin: the evaluations before.
    """
    return {
        "method": measure.name,
        "loss": surface.loss,
        "examples": surface.examples,
        "evaluations": surface.evaluations.since(begin),
        "options": {**asdict(measure), "seed": surface.seed},
    }
