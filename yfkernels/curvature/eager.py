"""Evaluations that can be differentiated twice: without compiled graphs and fused attention."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def uncompiled() -> Iterator[None]:
    """Models of torch.compile run as they were written (torch >= 2.6; before, they stay compiled).

    A compiled graph has no second derivative, and hides its activation functions.
    """
    with ExitStack() as stack:
        # Nothing is compiled where torch._dynamo was never imported, which takes seconds.
        if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Also attention in plain operations: the fused kernels have no second derivative."""
    with uncompiled(), sdpa_kernel(SDPBackend.MATH):
        yield
