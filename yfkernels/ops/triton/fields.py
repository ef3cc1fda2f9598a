"""Where the tuner's numbers stand: the names of yfkernels/ops/tuner.py in the same order."""

from __future__ import annotations

import triton.language as tl

from yfkernels.ops.tuner import COEFFICIENT_FIELDS, GROUP_FIELDS, STATE_FIELDS, SUMS

(
    FORMAT,
    STEP,
    SKIPPED,
    BETA_POWER,
    GRAD_SQ_AVG,
    H_MIN_AVG,
    H_MAX_AVG,
    GRAD_NORM_AVG,
    DISTANCE_AVG,
    SPARSITY_AVG,
    H_MIN,
    H_MAX,
    VARIANCE,
    DISTANCE,
    LR,
    MOMENTUM,
    GRAD_NORM,
    CLIP_COEFFICIENT,
) = map(tl.constexpr, range(len(STATE_FIELDS)))

(
    ACTIVE,
    GRAD_SCALE,
    COUPLED_DECAY,
    MOMENTUM_FACTOR,
) = (1,2,3,4)
