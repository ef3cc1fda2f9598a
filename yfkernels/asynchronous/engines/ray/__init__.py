"""Asynchronous training over Ray: a server actor, and workers that join and die at any time."""

from yfkernels.asynchronous.engines.ray.launch import start, train
from yfkernels.asynchronous.engines.ray.run import Outcome, Run

__all__ = ["Outcome", "Run", "start", "train"]
