"""A run so small that a test can afford several."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from yfkernels.lab.tuning.options import Options
from yfkernels.lab.tuning.training import Training
from yfkernels.lab.workloads.examples import ExamplesTask, split_quarter

EXAMPLES = 128  # of which 96 to train with, and of those 72 to train on: 9 steps an epoch
STEPS_PER_EPOCH = 9


def tiny_task() -> ExamplesTask:
    """Images that differ by class, for a network with BatchNorm and dropout."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(EXAMPLES) % 3
    images = torch.randn(EXAMPLES, 1, 6, 6, generator=generator) + labels[:, None, None, None]
    return ExamplesTask(
        "tiny", _network, F.cross_entropy, *split_quarter(images, labels), batch_size=8
    )


def _network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64, 3),
    )


def tiny_training(**options: Any) -> Training:
    chosen = {"batch_size": 8, "num_epoch": 2, "lr": 0.01, **options}
    return Training(Options(**chosen), tiny_task())
