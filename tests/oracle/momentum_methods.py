"""The methods that QHM contains, each in the form its own authors gave it, in float64.

Every function returns the points at which gradients were taken, the start first: the iterates that
QHM has to reproduce. None of them knows of QHM. Arguments are named as in the conversions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Gradient = Callable[[Array, int], Array]  # of a point and a 0-based step
Method = Callable[..., Array]


class NoisyQuadratic:
    """½ (x - x*)ᵀ A (x - x*) with eigenvalues in [L/kappa, L]; the noise of a step is fixed."""

    def __init__(
        self,
        rng: np.random.Generator,
        *,
        dimension: int = 12,
        steps: int = 60,
        L: float = 2.0,
        kappa: float = 50.0,
        noise: float = 0.3,
    ) -> None:
        basis, _ = np.linalg.qr(rng.standard_normal((dimension, dimension)))
        self.curvature = basis * np.geomspace(L / kappa, L, dimension) @ basis.T
        self.minimum = rng.standard_normal(dimension)
        self.start = rng.standard_normal(dimension)
        self.noise = noise * rng.standard_normal((steps, dimension))
        self.steps = steps

    def gradient(self, x: Array, step: int) -> Array:
        return np.asarray(self.curvature @ (x - self.minimum) + self.noise[step])


def sgd(gradient: Gradient, start: Array, steps: int, *, lr: float) -> Array:
    """x' = x - lr g."""
    points = [start]
    for t in range(steps):
        points.append(points[-1] - lr * gradient(points[-1], t))
    return np.array(points)


def heavy_ball(
    gradient: Gradient, start: Array, steps: int, *, lr: float, momentum: float
) -> Array:
    """Polyak (1964): x' = x - lr g + momentum (x - x_before), that is torch's SGD undampened."""
    points = [start, start - lr * gradient(start, 0)]
    for t in range(1, steps):
        x, before = points[-1], points[-2]
        points.append(x - lr * gradient(x, t) + momentum * (x - before))
    return np.array(points)


def nesterov(gradient: Gradient, start: Array, steps: int, *, lr: float, momentum: float) -> Array:
    """Nesterov (1983): x' = y - lr g(y), y' = x' + momentum (x' - x); torch holds y."""
    x, points = start, [start]
    for t in range(steps):
        y = points[-1]
        x_next = y - lr * gradient(y, t)
        points.append(x_next + momentum * (x_next - x))
        x = x_next
    return np.array(points)


def pid(gradient: Gradient, start: Array, steps: int, *, kp: float, ki: float, kd: float) -> Array:
    """Recht (2018): the error e = -g is fed back as start + kp e + ki Σe + kd d.

    d is the difference of successive errors through a low-pass filter. QHM contains the controllers
    whose filter cancels the direct path from kp: kp + kd (1 - beta)/beta = 0.
    """
    filter_beta = kd / (kd - kp)
    before = integral = derivative = np.zeros_like(start)
    points = [start]
    for t in range(steps):
        error = -gradient(points[-1], t)
        integral = integral + error
        derivative = filter_beta * derivative + (1.0 - filter_beta) * (error - before)
        before = error
        points.append(start + kp * error + ki * integral + kd * derivative)
    return np.array(points)


def synthesized_nesterov(
    gradient: Gradient, start: Array, steps: int, *, alpha: float, beta1: float, beta2: float
) -> Array:
    """Lessard, Recht, Packard (2016): gradients at y = x + beta2 (x - x_before)."""
    before = x = start
    points = [start]
    for t in range(steps):
        before, x = x, x + beta1 * (x - before) - alpha * gradient(points[-1], t)
        points.append(x + beta2 * (x - before))
    return np.array(points)


def robust_momentum(
    gradient: Gradient, start: Array, steps: int, *, L: float, kappa: float, rho: float
) -> Array:
    """Cyrus, Hu, Van Scoy, Lessard (2018): x and y as above, with their alpha, beta, gamma."""
    alpha = kappa * (1.0 - rho) ** 2 * (1.0 + rho) / L
    beta = kappa * rho**3 / (kappa - 1.0)
    gamma = rho**3 / ((kappa - 1.0) * (1.0 - rho) ** 2 * (1.0 + rho))
    before = x = start
    points = [start]
    for t in range(steps):
        g = gradient(points[-1], t)
        before, x = x, (1.0 + beta) * x - beta * before - alpha * g
        points.append((1.0 + gamma) * x - gamma * before)
    return np.array(points)


def triple_momentum(
    gradient: Gradient, start: Array, steps: int, *, L: float, kappa: float
) -> Array:
    """Van Scoy, Freeman, Lynch (2018), with the constants of their own paper."""
    rho = 1.0 - 1.0 / math.sqrt(kappa)
    alpha = (1.0 + rho) / L
    beta = rho**2 / (2.0 - rho)
    gamma = rho**2 / ((1.0 + rho) * (2.0 - rho))
    before = xi = start
    points = [start]
    for t in range(steps):
        g = gradient(points[-1], t)
        before, xi = xi, (1.0 + beta) * xi - beta * before - alpha * g
        points.append((1.0 + gamma) * xi - gamma * before)
    return np.array(points)


def accsgd(
    gradient: Gradient,
    start: Array,
    steps: int,
    *,
    delta: float,
    kappa: float,
    xi: float,
    eps: float = 0.7,
) -> Array:
    """Kidambi, Netrapalli, Jain, Kakade (2018), algorithm 1: short steps and long ones."""
    alpha = 1.0 - eps**2 * xi / kappa
    long = start
    points = [start]
    for t in range(steps):
        w = points[-1]
        g = gradient(w, t)
        long = alpha * long + (1.0 - alpha) * (w - kappa * delta / eps * g)
        short = w - delta * g
        points.append((eps * short + (1.0 - alpha) * long) / (eps + (1.0 - alpha)))
    return np.array(points)


@dataclass(frozen=True)
class SpecialCase:
    """A method with arguments at which it is stable on `NoisyQuadratic`."""

    name: str  # the conversion is called from_<name>
    method: Method
    arguments: dict[str, float]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{k}={v}' for k, v in self.arguments.items())})"

    def points(self, problem: NoisyQuadratic) -> Array:
        return self.method(problem.gradient, problem.start, problem.steps, **self.arguments)


SPECIAL_CASES = [
    SpecialCase("sgd", sgd, {"lr": 0.3}),
    SpecialCase("momentum", heavy_ball, {"lr": 0.1, "momentum": 0.9}),
    SpecialCase("momentum", heavy_ball, {"lr": 0.3, "momentum": 0.0}),
    SpecialCase("nesterov", nesterov, {"lr": 0.1, "momentum": 0.9}),
    SpecialCase("pid", pid, {"kp": -0.8, "ki": 1.0, "kd": 1.6}),
    SpecialCase("pid", pid, {"kp": -0.2, "ki": 0.1, "kd": 0.3}),
    SpecialCase(
        "synthesized_nesterov", synthesized_nesterov, {"alpha": 0.2, "beta1": 0.8, "beta2": 0.5}
    ),
    SpecialCase(
        "synthesized_nesterov", synthesized_nesterov, {"alpha": 0.2, "beta1": 0.6, "beta2": -0.2}
    ),
    SpecialCase("robust_momentum", robust_momentum, {"L": 2.0, "kappa": 50.0, "rho": 0.9}),
    SpecialCase("triple_momentum", triple_momentum, {"L": 2.0, "kappa": 50.0}),
    SpecialCase("accsgd", accsgd, {"delta": 0.1, "kappa": 30.0, "xi": 4.0}),
    SpecialCase("accsgd", accsgd, {"delta": 0.1, "kappa": 20.0, "xi": 1.0, "eps": 0.6}),
]
