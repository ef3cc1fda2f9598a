"""What LAMB promises."""

from __future__ import annotations

from bench.speed.targets.measures import (
    copy_fraction,
    launches,
    speedup_over_present,
    state_per_param,
    time_ratio,
    time_ratio_to_present,
)
from bench.speed.targets.target import BERT, HUGE, LARGE, LAYERS, MANY, Target

LAMB, UNCLIPPED, BYTES, APEX = "lamb", "lamb-unclipped", "lamb-bytes", "apex-lamb"
PLAIN = (
    "timm-lamb",
    "pytorch-optimizer-lamb",
    "pytorch-optimizer-lamb-loop",
    "torch-optimizer-lamb",
)

TARGETS = (
    Target(
        "cpu",
        LARGE,
        LAMB,
        "LAMB / fastest LAMB of plain PyTorch, time",
        "<=",
        0.5,
        time_ratio_to_present(LAMB, PLAIN),
    ),
    *(
        Target(
            "cpu",
            size,
            LAMB,
            "LAMB / fused AdamW, time",
            "<=",
            1.7,
            time_ratio(LAMB, "adamw-fused"),
        )
        for size in (LARGE, LAYERS)  # 50M parameters in one tensor, and as models have them
    ),
    Target(
        "cpu",
        MANY,
        LAMB,
        "fastest LAMB of plain PyTorch / LAMB, time",
        ">=",
        10.0,
        speedup_over_present(LAMB, PLAIN),
    ),
    Target("cpu", LARGE, BYTES, "LAMB in 8 bits / LAMB, time", "<=", 1.1, time_ratio(BYTES, LAMB)),
    Target(
        "cpu",
        LARGE,
        BYTES,
        "LAMB in 8 bits, state bytes / param",
        "<=",
        2.0,
        state_per_param(BYTES),
    ),
    Target("cuda", HUGE, LAMB, "LAMB, fraction of copy bandwidth", ">=", 0.9, copy_fraction(LAMB)),
    Target("cuda", HUGE, LAMB, "LAMB / apex FusedLAMB, time", "<=", 0.85, time_ratio(LAMB, APEX)),
    Target("cuda", BERT, LAMB, "LAMB / apex FusedLAMB, time", "<=", 0.85, time_ratio(LAMB, APEX)),
    Target("cuda", MANY, LAMB, "LAMB, launches a step", "<=", 3, launches(f"{LAMB}@capturable")),
    Target(
        "cuda",
        MANY,
        UNCLIPPED,
        "LAMB without clip, launches a step",
        "<=",
        2,
        launches(f"{UNCLIPPED}@capturable"),
    ),
)
