"""Asynchronous training over torch.distributed's gloo: rank 0 serves, the others work."""

from yfkernels.asynchronous.engines.gloo.client import work
from yfkernels.asynchronous.engines.gloo.launch import start
from yfkernels.asynchronous.engines.gloo.rendezvous import is_server
from yfkernels.asynchronous.engines.gloo.server import serve

__all__ = ["is_server", "serve", "start", "work"]
