"""The sharpness of a trained model, by any of the measures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any, TypeAlias

from torch import Tensor, nn

from yfkernels._checks import require
from yfkernels.analysis.landscape.adaptive import Adaptive
from yfkernels.analysis.landscape.flatness import EpsilonFlatness
from yfkernels.analysis.landscape.keskar import Keskar
from yfkernels.analysis.landscape.progress import Progress
from yfkernels.analysis.landscape.random_directions import Random
from yfkernels.analysis.landscape.results import LayerSharpness, Sharpness, described
from yfkernels.analysis.landscape.spectrum import LambdaMax, Trace
from yfkernels.analysis.landscape.surface import Surface

Measure: TypeAlias = Keskar | Adaptive | Random | LambdaMax | Trace | EpsilonFlatness

_KINDS: tuple[type[Measure], ...] = (Keskar, Adaptive, Random, LambdaMax, Trace, EpsilonFlatness)
METHODS = {kind.name: kind for kind in _KINDS}


def sharpness(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor],
    loader: Iterable[Any],
    method: str = "keskar",
    *,
    per_layer: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> Sharpness:
    """Measures how fast the loss rises around the weights of a model.

    f is the mean loss over all examples. The modules are in eval mode meanwhile; afterwards
    weights, buffers, modes, random states, `requires_grad` and `p.grad` are what they were, bit for
    bit, also after an exception or Ctrl-C. The displaced parameters are those with requires_grad.

    At most three vectors of the model's size are held beside it (float32 for half parameters), and
    what autograd needs for one batch; Keskar's measure in the full space is the exception.

    Args:
        model: called with the inputs of a batch; of any device and floating-point dtype. Weights in
            half precision round small displacements away, of which a warning tells.
        loss: called with outputs and targets; returns the mean over the batch, such as
            torch.nn.functional.cross_entropy.
        loader: gives pairs (input, target), as often as it is iterated: a DataLoader or a list.
            Shuffling is fine. A batch counts by `len(target)`.
        method: with its options and their defaults:

            - "keskar": eps=1e-3, subspace=None, iterations=10, starts=3. The rise of the loss in a
              small box, in percent of 1 + f; `result.adaptive` is beside it. Needs SciPy.
            - "adaptive": rho=None, p=math.inf, iterations=20, starts=1. The rise where each weight
              changes by a share of itself.
            - "random": sigma=0.01, adaptive=False, samples=20. The mean rise at Gaussian
              displacements.
            - "lambda_max": iterations=20, tolerance=0.01, hvp="auto". The largest eigenvalue of the
              Hessian.
            - "trace": samples=20, tolerance=0.01, hvp="auto". The trace of the Hessian.
            - "epsilon_flatness": eps=0.1, directions=10, limit=10.0, tolerance=0.01, iterations=20,
              hvp="auto". How far the weights can go before the loss has risen by eps.

            docs/results/sharpness.md has the formulas, and when to use which.
        per_layer: measure each parameter tensor alone, the others fixed; not with
            "epsilon_flatness".
        seed: of everything that is drawn.
        progress: called with the steps done and the steps at most, after each step of the method:
            a start, a gradient, a sample, a product, a direction.

    Returns:
        A frozen dataclass with the value, f(x), the number of examples and of passes over them, and
        all options; see `Sharpness`, and the subclasses for what else a method finds.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of its range, an option of
            another method, an empty loader or one that gives other examples in a later pass, a loss
            that is no finite scalar, a model without trainable parameters.
        ModuleNotFoundError: "keskar" without SciPy.

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> batches = [(torch.eye(2), torch.zeros(2, 1))]
        >>> result = sharpness(model, torch.nn.functional.mse_loss, batches, "trace")
        >>> result.value  # the loss is (w_0² + w_1²) / 2
        2.0
    """
    require(method in METHODS, "method", method, f"one of {', '.join(METHODS)}")
    kind = METHODS[method]
    known = [field.name for field in fields(kind)]
    for name, value in options.items():
        if name not in known:
            raise TypeError(
                f'Invalid option of method="{method}": {name}={value!r}; it has {", ".join(known)}'
            )
    measure = kind(**options)
    require(isinstance(per_layer, bool), "per_layer", per_layer, "True or False")
    if per_layer and kind is EpsilonFlatness:
        raise ValueError(
            f'Invalid per_layer value: True; method="{method}" has no such form, others have'
        )
    if progress is not None and not callable(progress):
        raise TypeError(
            f"Invalid progress type: {type(progress).__name__}; give a function of the steps done "
            "and the steps at most, such as print"
        )
    with Surface(model, loss, loader, seed=seed, hvp=getattr(measure, "hvp", "auto")) as surface:
        if per_layer:
            return _of_each_layer(measure, surface, progress)
        return measure(surface, progress)


def _of_each_layer(measure: Measure, surface: Surface, progress: Progress | None) -> LayerSharpness:
    begin, layers = surface.evaluations, {}
    count = len(surface.names)
    for number, name in enumerate(surface.names):
        with surface.only(name):
            layers[name] = measure(surface, _part(progress, number, count))
    common = described(measure, surface, begin)
    common["options"]["per_layer"] = True
    value = max(result.value for result in layers.values())
    return LayerSharpness(value=value, layers=layers, **common)


def _part(progress: Progress | None, number: int, count: int) -> Progress | None:
    """The progress of one of several layers, as part of that of all."""
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, count * total)
