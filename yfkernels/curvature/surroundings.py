"""What an evaluation of a model changes besides its result: random states and buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from yfkernels.curvature.eager import uncompiled


class RandomStates:
    """The states of torch's default generators: the CPU's and those of the given tensors' devices.

    Those of Python and NumPy are not among them: a closure draws no data.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._devices = {t.device for t in tensors if t.device.type not in ("cpu", "meta")}
        self._cpu = torch.get_rng_state()
        self._others = {d: self._module(d).get_rng_state(d) for d in self._devices}

    @staticmethod
    def _module(device: torch.device) -> Any:
        return getattr(torch, device.type)  # such as torch.cuda

    def put_back(self) -> None:
        torch.set_rng_state(self._cpu)
        for device, state in self._others.items():
            self._module(device).set_rng_state(state, device)

    def reseed(self, seed: int) -> None:
        """Each as its `manual_seed` leaves it; the generators of other devices stay untouched."""
        torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
        for device in self._devices:
            state = torch.Generator(device).manual_seed(seed).get_state()
            self._module(device).set_rng_state(state, device)


class Buffers:
    """The buffers of modules: their places, and a copy of what they hold."""

    def __init__(self) -> None:
        self._kept: dict[tuple[nn.Module, str], tuple[Tensor, Tensor] | None] = {}

    def keep(self, modules: Iterable[nn.Module]) -> None:
        for module in modules:
            for name, buffer in module._buffers.items():
                kept = None if buffer is None else (buffer, buffer.detach().clone())
                self._kept[module, name] = kept

    def put_back(self) -> None:
        """The same tensors at the same places, with the same content."""
        with torch.no_grad():
            for (module, name), kept in self._kept.items():
                module._buffers[name] = None if kept is None else kept[0]
                if kept is not None:  # BatchNorm's kernels count no version that would tell
                    kept[0].copy_(kept[1])

    def modules(self) -> list[nn.Module]:
        return list(dict.fromkeys(module for module, _ in self._kept))


class Surroundings:
    """Random states and buffers before an evaluation, to be put back after it.

    Args:
        params: the generators of their devices are kept.
        modules: whose buffers are kept. None: of all modules that are called in watching(), each
            as it was before its first call.
    """

    def __init__(self, params: Sequence[Tensor], modules: Iterable[nn.Module] | None) -> None:
        self._params = params
        self._random = RandomStates(params)
        self._buffers = Buffers()
        self._watches = modules is None
        if modules is not None:
            self._buffers.keep(modules)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Evaluations belong here."""
        with called(self._buffers.keep) if self._watches else nullcontext():
            yield

    def now(self) -> Surroundings:
        """What those of the same modules have become."""
        return Surroundings(self._params, self._buffers.modules())

    def put_back(self) -> None:
        self._random.put_back()
        self._buffers.put_back()


@contextmanager
def called(visit: Callable[[list[nn.Module]], None]) -> Iterator[None]:
    """Gives `visit` the modules that are called and those inside, each once, before it runs.

    Those inside count because some modules pass the parameters of others on without a call.
    """
    seen: set[nn.Module] = set()

    def hook(module: nn.Module, arguments: Any) -> None:
        if module not in seen:
            new = [inside for inside in module.modules() if inside not in seen]
            seen.update(new)
            visit(new)

    with uncompiled():  # torch.compile would compile the hook
        handle = register_module_forward_pre_hook(hook)
        try:
            yield
        finally:
            handle.remove()
