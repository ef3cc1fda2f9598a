"""What theory says about the noise of SGD: stationary loss and covariance, PAC-Bayes bounds."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from yfkernels._checks import check_positive, check_whole, finite, require, require_number

_SMALL_STEP = 0.25  # largest lr a / (1 - beta); the error of the expansion is then at most 1/64
_SMALL_DELAYED_STEP = 0.1  # largest lr a (2 tau + 1) of `delayed_covariance`


def _require_found(ok: bool, name: str, found: str, fix: str) -> None:
    """As require(), with a description of an array in place of its value."""
    if not ok:
        raise ValueError(f"Invalid {name} value: {found}; it must be {fix}")


def _float64(name: str, value: Any) -> Tensor:
    try:
        return torch.as_tensor(value).detach().double()
    except (TypeError, ValueError, RuntimeError) as error:  # torch's, depending on the type
        raise TypeError(f"Invalid {name} type: {type(value).__name__}; give a tensor") from error


def _symmetric(name: str, value: Any) -> Tensor:
    """Checks and returns a symmetric float64 matrix, or a vector that is its diagonal."""
    matrix = _float64(name, value)
    square = matrix.ndim == 1 or (matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1])
    if not square or matrix.numel() == 0:
        shape = tuple(matrix.shape)
        raise ValueError(f"Invalid {name} shape: {shape}; it must be (d, d), or (d,) if diagonal")
    scale = float(matrix.abs().max())
    require(math.isfinite(scale), name, scale, "finite in every entry")
    skew = float((matrix - matrix.mT).abs().max()) if matrix.ndim == 2 else 0.0
    if skew > 1e-6 * scale:  # allows for float32 rounding
        raise ValueError(f"Invalid {name} value: it differs from its transpose by {skew}")
    return 0.5 * (matrix + matrix.mT) if matrix.ndim == 2 else matrix


def _eigenvalues(matrix: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(matrix) if matrix.ndim == 2 else matrix


def _diagonal(matrix: Tensor) -> Tensor:
    return matrix.diagonal() if matrix.ndim == 2 else matrix


def _trace_of_product(a: Tensor, b: Tensor) -> float:
    if a.ndim == b.ndim:
        return float((a * b).sum())
    return float(_diagonal(a) @ _diagonal(b))


def _quadratic(curvature: Any, noise: Any) -> tuple[Tensor, Tensor]:
    """Checks and returns A and S: of one size, positive definite and semidefinite."""
    a, s = _symmetric("curvature", curvature), _symmetric("noise", noise)
    sizes = (len(a), len(s))
    fix = f"of curvature's size {sizes[0]}"
    _require_found(sizes[0] == sizes[1], "noise", f"of size {sizes[1]}", fix)
    lowest = float(_eigenvalues(a).min())
    found = f"smallest eigenvalue {lowest}"
    _require_found(lowest > 0.0, "curvature", found, "positive definite")
    lowest, rounding = float(_eigenvalues(s).min()), -1e-7 * float(s.abs().max())
    found = f"smallest eigenvalue {lowest}"
    _require_found(lowest >= rounding, "noise", found, "positive semidefinite")
    return a, s


def stationary_excess_loss(
    curvature: Tensor, noise: Tensor, lr: float, beta: float = 0.0, nu: float = 1.0
) -> float:
    r"""Mean excess loss of QHM in its stationary state on the loss ½ xᵀ A x: ½ tr(A Sigma).

    Sigma is the stationary covariance of x when every gradient is A x plus independent noise of
    covariance S. To second order in lr, with b for beta,

        ½ tr(A Sigma) = lr/4 tr S + lr²/8 (1 + 2 nu b/(1-b) (2 nu b/(1+b) - 1)) tr(A S) + O(lr³).

    The source gives tr(A Sigma), twice as much. Momentum has no effect at first order and lowers
    the loss at second order: the bracket is 1 for SGD and smaller for any other nu and beta.

    Args:
        curvature: A, symmetric positive definite, of shape (d, d), or (d,) if diagonal.
        noise: S, symmetric positive semidefinite, of shape (d, d) or (d,): the covariance of a
            batch's gradient, which is that of one sample's gradient divided by the batch size.
        lr: learning rate of QHM, > 0, and at most (1 - beta) / (4 a) with a the largest curvature.
        beta: momentum of QHM, in [0, 1); 0 is SGD.
        nu: weight of the average in QHM, in [0, 1]; 0 is SGD, 1 is momentum SGD.

    Returns:
        The mean excess loss, with a relative error of at most 1/64 for any lr in this range.

    Raises:
        ValueError: an argument out of its range.
        TypeError: an argument that is not a tensor or a number.

    Source: Gitman, Lang, Zhang, Xiao, "Understanding the Role of Momentum in Stochastic Gradient
    Methods" (NeurIPS 2019), and Sun et al., doi 10.1145/3544782.

    Example:
        >>> curvature, noise = torch.tensor([1.0, 0.1]), torch.tensor([0.5, 0.5])
        >>> round(stationary_excess_loss(curvature, noise, lr=0.1, beta=0.5), 4)
        0.0252
    """
    a, s = _quadratic(curvature, noise)
    for name, value in (("lr", lr), ("beta", beta), ("nu", nu)):
        require_number(name, value)
    require(0.0 <= beta < 1.0, "beta", beta, "in [0, 1)")
    require(0.0 <= nu <= 1.0, "nu", nu, "in [0, 1]")
    limit = _SMALL_STEP * (1.0 - beta) / float(_eigenvalues(a).max())
    ok = finite(lr) and 0.0 < lr <= limit * (1.0 + 1e-12)
    require(
        ok, "lr", lr, f"in (0, {limit:.6g}], a quarter of (1 - beta) over the largest curvature"
    )
    bracket = 1.0 + 2.0 * nu * beta / (1.0 - beta) * (2.0 * nu * beta / (1.0 + beta) - 1.0)
    trace = float(_diagonal(s).sum())
    return 0.25 * lr * trace + 0.125 * lr**2 * bracket * _trace_of_product(a, s)


def _gaussian_kl(covariance: Tensor, offset: Tensor, prior_variance: float) -> float:
    """The KL divergence of `pac_bayes_bound`; checks that Sigma is positive definite."""
    if covariance.ndim == 2:
        # For a matrix that is not positive definite, cholesky_ex returns info > 0, no error.
        factor, info = torch.linalg.cholesky_ex(covariance)
        ok = not int(info)
        log_det = 2.0 * float(factor.diagonal().log().sum()) if ok else math.nan
    else:
        ok = bool((covariance > 0.0).all())
        log_det = float(covariance.log().sum()) if ok else math.nan
    if not ok:
        raise ValueError("Invalid covariance value: it must be positive definite")
    spread = float(_diagonal(covariance).sum() + offset @ offset) / prior_variance
    return 0.5 * (len(offset) * (math.log(prior_variance) - 1.0) - log_det + spread)


def pac_bayes_bound(
    empirical_risk: float,
    covariance: Tensor,
    w: Tensor,
    w0: Tensor,
    prior_variance: float,
    n: int,
    delta: float = 0.05,
) -> float:
    """Bounds the risk of a Gaussian posterior over weights, for any distribution of the data.

    With probability 1 - delta over the n training samples,

        R <= R_emp + sqrt((KL + ln(1/delta) + ln n + 2) / (2 n - 1)),

    with R and R_emp the means, over weights drawn from N(w, Sigma), of a loss in [0, 1], and
    KL = ½ (d ln l0 - ln det Sigma - d + ‖w - w0‖²/l0 + tr(Sigma)/l0) the divergence of N(w, Sigma)
    from the prior N(w0, l0 I). The prior must not depend on the n samples: w0 is the
    initialization, not a result of training. A value of 1 or more says nothing.

    Args:
        empirical_risk: R_emp, in [0, 1].
        covariance: Sigma, symmetric positive definite, of shape (d, d), or (d,) if diagonal.
        w: mean of the posterior, d elements in any shape.
        w0: mean of the prior, d elements.
        prior_variance: l0, > 0.
        n: number of training samples, >= 1.
        delta: probability, in (0, 1), that the bound does not hold.

    Returns:
        The right-hand side above; it may exceed 1.

    Raises:
        ValueError: an argument out of its range; sizes that differ.
        TypeError: an argument that is not a tensor or a number.

    Source: McAllester, "PAC-Bayesian Stochastic Model Selection" (Machine Learning 51, 2003), as
    used by Sun et al., doi 10.1145/3544782.

    Example:
        >>> w = torch.zeros(2)
        >>> round(pac_bayes_bound(0.1, torch.full((2,), 0.5), w, w, prior_variance=1.0, n=1000), 4)
        0.1778
    """
    sigma = _symmetric("covariance", covariance)
    mean, center = _float64("w", w).flatten(), _float64("w0", w0).flatten()
    for name, vector in (("w", mean), ("w0", center)):
        sizes = (vector.numel(), len(sigma))
        fix = f"of covariance's size {sizes[1]}"
        _require_found(sizes[0] == sizes[1], name, f"of size {sizes[0]}", fix)
        _require_found(bool(vector.isfinite().all()), name, "with infinities or NaN", "finite")
    numbers = {"empirical_risk": empirical_risk, "prior_variance": prior_variance, "delta": delta}
    for name, value in numbers.items():
        require_number(name, value)
    require(0.0 <= empirical_risk <= 1.0, "empirical_risk", empirical_risk, "in [0, 1]")
    ok = finite(prior_variance) and prior_variance > 0.0
    require(ok, "prior_variance", prior_variance, "finite and > 0")
    require(isinstance(n, int) and n >= 1, "n", n, "an integer >= 1")
    require(0.0 < delta < 1.0, "delta", delta, "in (0, 1)")
    kl = _gaussian_kl(sigma, mean - center, prior_variance)
    complexity = (kl - math.log(delta) + math.log(n) + 2.0) / (2 * n - 1)
    return float(empirical_risk) + math.sqrt(complexity)


def delayed_covariance(curvature: Tensor, noise: Tensor, lr: float, delay: int) -> Tensor:
    r"""Stationary covariance of SGD with stale gradients on the loss ½ (x - w)ᵀ A (x - w).

    A gradient is A (x - w) plus independent noise of covariance S, and is used tau versions after
    the one it was taken at. To second order in lr Sigma = Sigma' + Sigma'', where

        A Sigma' + Sigma' A = lr S,   A Sigma'' + Sigma'' A = lr (2 tau + 1) A Sigma' A.

    Where A and S have the same eigenvectors, with eigenvalues a and s², those of Sigma are
    lr s² / (2 a) (1 + (tau + 1/2) lr a). So staleness widens what SGD samples from, and most in the
    directions of large curvature, though not at first order.

    Args:
        curvature: A, symmetric positive definite, of shape (d, d), or (d,) if diagonal.
        noise: S, symmetric positive semidefinite, of shape (d, d) or (d,): the covariance of a
            batch's gradient.
        lr: learning rate, > 0 and at most 0.1 / ((2 tau + 1) a) for the largest a.
        delay: tau, versions between a gradient and its use, >= 0.

    Returns:
        Sigma, float64, of shape (d, d), or (d,) if both A and S are diagonal. With a fixed delay
        its variances along the eigenvectors of A have a relative error of at most 0.3% in this
        range; along others it was below 1.1%, and up to 5% with a nearly singular S. With delays
        that vary independently of all else their mean is right to second order, too.

    Raises:
        TypeError, ValueError: an argument out of its range.

    Source: the second order of the recursion's stationary covariance; derived for this package.

    Example:
        >>> curvature, noise = torch.tensor([1.0, 0.1]), torch.tensor([0.5, 0.5])
        >>> delayed_covariance(curvature, noise, lr=0.01, delay=3)
        tensor([0.0026, 0.0251], dtype=torch.float64)
    """
    a, s = _quadratic(curvature, noise)
    check_whole("delay", delay, least=0)
    check_positive("lr", lr)
    curvatures, basis = torch.linalg.eigh(a) if a.ndim == 2 else (a, None)
    limit = _SMALL_DELAYED_STEP / ((2 * delay + 1) * float(curvatures.max()))
    fix = f"at most {limit:.6g}, 0.1 / ((2 delay + 1) a) for the largest curvature a"
    require(lr <= limit * (1.0 + 1e-12), "lr", lr, fix)
    if basis is None and s.ndim == 1:
        return 0.5 * lr * s / a * (1.0 + (delay + 0.5) * lr * a)
    s = torch.diag(s) if s.ndim == 1 else s
    s = s if basis is None else basis.mT @ s @ basis
    sums = curvatures[:, None] + curvatures
    products = curvatures[:, None] * curvatures
    sigma = lr * s / sums * (1.0 + (2 * delay + 1) * lr * products / sums)
    return sigma if basis is None else basis @ sigma @ basis.mT


def delayed_pac_bayes_bound(
    empirical_risk: float,
    curvature: Tensor,
    noise: Tensor,
    w: Tensor,
    w0: Tensor,
    prior_variance: float,
    n: int,
    *,
    lr: float,
    delay: int,
    delta: float = 0.05,
) -> float:
    """Bounds the risk of the weights that asynchronous SGD leaves behind around a minimum.

    `pac_bayes_bound` with the posterior N(w, Sigma), Sigma that of `delayed_covariance`. It holds
    for that Gaussian whatever SGD really does; that SGD samples from it is the model: a quadratic
    around w, constant Gaussian noise, a fixed delay, a small lr.

    Where A and S have the same eigenvectors a delay adds about lr tau (lr tr(S) / l0 - 2 tr(A)) / 4
    to the KL divergence: it lowers it while Sigma is narrower than the prior, as a larger lr does.
    The price is in the empirical risk, for which `delayed_excess_loss` is a measure.

    Args:
        empirical_risk: R_emp, mean over weights from N(w, Sigma) of a loss in [0, 1]: measure it
            over versions of the trained weights, not at w alone.
        curvature, noise: A, the Hessian at w, and S, as for `delayed_covariance`.
        w, w0: the minimum and the initialization, d elements in any shape.
        prior_variance: l0, > 0.
        n: number of training samples, >= 1.
        lr, delay: as for `delayed_covariance`.
        delta: probability, in (0, 1), that the bound does not hold.

    Returns:
        The bound; it may exceed 1, and then says nothing.

    Raises:
        TypeError, ValueError: an argument out of its range; Sigma is singular, as where a
            diagonal S has zeros.

    Source: the bound of Sun et al., doi 10.1145/3544782, for whose covariance that of stale
    gradients was derived for this package.

    Example:
        >>> w, A = torch.zeros(2), torch.ones(2)
        >>> options = {"prior_variance": 0.01, "n": 1000, "lr": 0.01}
        >>> [
        ...     round(delayed_pac_bayes_bound(0.1, A, A, w, w, delay=delay, **options), 4)
        ...     for delay in (0, 4)
        ... ]
        [0.1778, 0.1777]
    """
    sigma = delayed_covariance(curvature, noise, lr, delay)
    return pac_bayes_bound(empirical_risk, sigma, w, w0, prior_variance, n, delta)
