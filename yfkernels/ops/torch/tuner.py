"""The YellowFin tuner in tensor operations: csrc/tuner.h line by line, on any device.

Every scalar is a float64 tensor on the device of the state, so nothing here synchronises.
Source: Zhang, Mitliagkas, Ré, arXiv 1706.03471.
"""

from __future__ import annotations

import torch
from torch import Tensor

from yfkernels.ops.rules import YELLOWFIN
from yfkernels.ops.tuner import GROUP_FIELDS, STATE_FIELDS, TILE, TunerOptions

_EPSILON = 1e-6
_TINY = 1e-30  # in its place in the robust mode
_ENVELOPE_GUARD = 10.0
_LARGEST_MOVE = 100.0
_LARGEST_CUBIC = 1e300

# the robust mode
_WIDEST_RANGE = 30.0
_FIRST_RADIUS = 1e-3
_RECENT = 0.9
_SPIKE = 2.0
_CALM_STEPS = 10


def cubic_complement(p: Tensor) -> Tensor:
    """y = 1 - x for the root x in (0, 1) of (1-x)³ = p x; float64, 0 <= p <= 1e300."""
    # an upper bound of the cube root of p, at most 2.6 times too large: a power of two
    exponent = (p.view(torch.int64) >> 52) - 1023
    third = (exponent + 3 * 1024 + 3) // 3 - 1024
    y = torch.where(p < 1.0, ((third + 1023) << 52).view(torch.float64), 1.0)
    for _ in range(12):
        y2 = y * y
        y = (2.0 * y2 * y + p) / (3.0 * y2 + p)
    return y


def single_step(
    distance: Tensor, variance: Tensor, h_min: Tensor, h_max: Tensor, e: float = _EPSILON
) -> tuple[Tensor, Tensor]:
    """SingleStep on float64 scalars (paper, equation 15): (lr, momentum)."""
    h = h_min + e
    dh = (distance + e) * h
    p = (dh * dh / (2.0 * (variance + e))).clamp(max=_LARGEST_CUBIC)
    y = cubic_complement(p)
    x = torch.where(p > 1.0, y * y * y / p, 1.0 - y)
    root = ((h_max + e) / h).clamp(min=1.0 + _EPSILON).sqrt()
    sqrt_mu = torch.maximum(x, (root - 1.0) / (root + 1.0))
    gap = torch.minimum(y, 2.0 / (root + 1.0))
    return gap * gap / h, sqrt_mu * sqrt_mu


def _distance_over_gradients(momentum: Tensor, radius: Tensor, grad_sq_sum: Tensor) -> Tensor:
    lr = (1.0 - momentum) * radius / grad_sq_sum.sqrt()
    return torch.where(grad_sq_sum > 0.0, lr, 0.0)


def _clip_factor(target: Tensor, norm: Tensor, e: float = _EPSILON) -> Tensor:
    return (target / (norm + e)).clamp(max=1.0)


def yellowfin_tune(
    options: TunerOptions,
    partials: Tensor,
    sketches: Tensor | None,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    state: Tensor,
    groups: Tensor,
    coefficients: Tensor,
    scratch: Tensor,
) -> None:
    """Adds up the slots and runs the tuner where `state` lives."""
    grad_sq, avg_dot_grad, avg_sq, nonzero, count, growth, start_sq = partials.sum(0).unbind()
    avg_grad_sq = grad_sq
    average = state[-TILE:]
    if sketches is not None:
        sketch = sketches.sum(0, dtype=torch.float64)
        avg_dot_grad, avg_sq = (average * sketch).sum(), (average * average).sum()
        avg_grad_sq = (sketch * sketch).sum()

    one = torch.ones_like(grad_sq)
    inv_scale = one if grad_scale is None else one / grad_scale.double()
    grad_sq = grad_sq * inv_scale * inv_scale
    finite = torch.isfinite(grad_sq)
    if found_inf is not None:
        finite = finite & (found_inf == 0)
    active = finite
    if options.robust:
        active = active & (grad_sq > 0.0)  # from silence there is nothing to learn

    head = len(STATE_FIELDS)
    old = dict(zip(STATE_FIELDS, state[:head].unbind()))
    beta, gain = options.beta, 1.0 - options.beta
    e = _TINY if options.robust else _EPSILON
    k = old["step"]
    envelope = old["h_max"].sqrt()

    # 1-2. the manual clip, then the guard that caps how fast the statistics can grow
    norm = grad_sq.sqrt()
    clip = _clip_factor(one * options.max_norm, norm)
    if options.adaptive_clip:
        guard = _clip_factor(_ENVELOPE_GUARD * envelope + e, clip * norm, e)
        clip = torch.where(k >= 2, clip * guard, clip)

    # 3. h and its average
    h = clip * clip * grad_sq
    h_root = h.sqrt()
    exploding = (k >= 1) & (h >= old["h_max"])
    new = dict(old)
    new["grad_sq_avg"] = beta * old["grad_sq_avg"] + gain * h
    new["beta_power"] = old["beta_power"] * beta
    debias = 1.0 - new["beta_power"]

    # 4. curvature range over the window
    place = torch.arange(options.window, device=state.device)
    window = state[head : head + options.window]
    window = torch.where(place == k % options.window, h, window)
    valid = place <= k
    low = torch.where(valid, window, torch.inf).min()
    high = torch.where(valid, window, -torch.inf).max()
    if options.log_smooth:
        low, high = (low + e).log(), (high + e).log()
    new["h_min_avg"] = beta * old["h_min_avg"] + gain * low
    new["h_max_avg"] = beta * old["h_max_avg"] + gain * high
    h_min, h_max = new["h_min_avg"] / debias, new["h_max_avg"] / debias
    if options.log_smooth:
        h_min, h_max = h_min.exp(), h_max.exp()

    # 5. variance: in the robust mode all of ‖g‖², and no average is kept
    average_gain = gain * clip * inv_scale
    new_avg_sq = (
        beta * beta * avg_sq
        + 2.0 * beta * average_gain * avg_dot_grad
        + average_gain * average_gain * avg_grad_sq
    )
    variance = new["grad_sq_avg"] / debias
    if not options.robust:
        variance = variance - new_avg_sq / (debias * debias)
    variance = variance.clamp(min=e)

    # 6. distance to the optimum
    new["grad_norm_avg"] = beta * old["grad_norm_avg"] + gain * h_root
    ratio = new["grad_norm_avg"] / (new["grad_sq_avg"] + e)
    new["distance_avg"] = beta * old["distance_avg"] + gain * ratio
    distance = new["distance_avg"] / debias

    if options.sparsity_debias:
        share = torch.where(count > 0, nonzero / count.clamp(min=1.0), 0.0)
        new["sparsity_avg"] = beta * old["sparsity_avg"] + gain * share
        share = new["sparsity_avg"] / debias
        h_min, h_max, variance = h_min * share, h_max * share, variance * share
        distance = distance / (share.sqrt() + e)

    if options.robust:
        h_min = torch.maximum(h_min, h_max / _WIDEST_RANGE)

    # 7. SingleStep, with a slow start over ten windows
    lr, momentum = single_step(distance, variance, h_min, h_max, e)
    lr = lr * ((k + 1.0) / (10 * options.window)).clamp(max=1.0)
    lr = torch.where(k >= 1, lr, options.initial_lr)
    momentum = torch.where(k >= 1, momentum, options.initial_momentum)

    # 9. an exploding gradient is clipped in the update, after the statistics saw it; and in the
    # robust mode one that is long beside those just before it
    calm = one
    if options.adaptive_clip:
        calm = torch.where(exploding, _clip_factor(envelope + e, h_root, e), one)
    if options.robust:
        if options.adaptive_clip:
            recent_sq = old["recent_sq_avg"] / (1.0 - old["recent_power"])
            spike_clip = _clip_factor(_SPIKE * recent_sq.sqrt(), h_root, e)
            calm = torch.where(k >= _CALM_STEPS, torch.minimum(spike_clip, calm), calm)
        new["recent_sq_avg"] = _RECENT * old["recent_sq_avg"] + (1.0 - _RECENT) * h
        new["recent_power"] = torch.where(k == 0, _RECENT, _RECENT * old["recent_power"])

        new["growth"] = old["growth"] + (old["unread_growth"] + growth)
        new["unread_growth"] = torch.zeros_like(growth)
        first = _FIRST_RADIUS * (1.0 + start_sq.sqrt())
        radius = torch.where(k == 0, first, old["radius"])
        new["radius"] = torch.maximum(radius, new["growth"].abs().sqrt())
        new["grad_sq_sum"] = old["grad_sq_sum"] + calm * calm * h
        lr = _distance_over_gradients(momentum, new["radius"], new["grad_sq_sum"])
    update_clip = clip * calm

    # 8. the user's multiplier, and a cap on the move of one step
    group = dict(zip(GROUP_FIELDS, groups.unbind(1)))
    lrs = lr * group["lr"]
    if options.adaptive_clip:
        lrs = torch.where(lrs * h_root >= _LARGEST_MOVE, _LARGEST_MOVE / (h + _EPSILON).sqrt(), lrs)
    if options.robust:
        # the statistics do not see weight decay: of a small loss lr would be too much for it
        decay, rest = group["weight_decay"], 1.0 - momentum
        lrs = torch.where(lrs * decay > rest, rest / decay, lrs)

    new |= {
        "step": k + 1.0,
        "h_min": h_min,
        "h_max": h_max,
        "variance": variance,
        "distance": distance,
        "lr": lrs[0],
        "momentum": momentum,
        "grad_norm": norm,
        "clip_coefficient": update_clip,
    }
    advanced = [torch.stack([new[name] for name in STATE_FIELDS]), window]
    if options.sketch:
        advanced.append(beta * average + average_gain * sketch)
    state.copy_(torch.where(active, torch.cat(advanced), state))
    state[STATE_FIELDS.index("skipped")] += (~finite).double()

    ones = torch.ones_like(lrs)
    decoupled = group["decoupled"] != 0.0
    keeps = torch.where(momentum != 0.0, ones, 0.0)
    out = {
        "active": ones,
        "grad_scale": group["sign"] * update_clip * inv_scale,
        "coupled_decay": torch.where(decoupled, 0.0, group["weight_decay"]),
        # a group whose lr was set to 0 stands still; Polyak's velocity alone would carry it on
        "momentum": momentum * ((group["lr"] != 0.0) if options.polyak else ones),
        "velocity_gain": -lrs if options.polyak else ones,
        "velocity_keep": ones if options.polyak or options.trust_ratio else keeps,
        "param_keep": torch.where(decoupled, 1.0 - lrs * group["weight_decay"], ones),
        "param_gain": ones if options.polyak else -lrs,
        "average_decay": ones * beta,
        "average_gain": ones * average_gain,
    }
    advanced_coefficients = torch.stack([out[name] for name in YELLOWFIN.fields], dim=1)
    coefficients.copy_(torch.where(active, advanced_coefficients, coefficients))
    coefficients[:, YELLOWFIN.fields.index("active")] = active.double()
