"""Z, the derivatives of parameters and slots to the learning rate, kept from step to step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from yfkernels._checks import require
from yfkernels.ops.memory import laid_out, new_state

Saved = dict[int, list[Tensor]]


class KeptTangents:
    """Z of every parameter: Zw, then one tensor for each slot; float32, float64 for float64."""

    def __init__(self) -> None:
        self._kept: dict[Tensor, list[Tensor]] = {}

    def __bool__(self) -> bool:
        return bool(self._kept)

    def has(self, p: Tensor) -> bool:
        """Whether a parameter has one."""
        return p in self._kept

    def of(self, p: Tensor, columns: int) -> list[Tensor]:
        """Z of a parameter, `columns` tensors; zeros in the beginning."""
        z = self._kept.get(p)
        if z is None or len(z) != columns:
            dtype = p.dtype if p.dtype == torch.float64 else torch.float32
            z = self._kept[p] = [new_state(p, dtype) for _ in range(columns)]
        return z

    def check(self, p: Tensor) -> None:
        """Raises RuntimeError if a parameter has not the shape that it had."""
        z = self._kept.get(p)
        if z is not None and z[0].shape != p.shape:
            raise RuntimeError(
                f"A parameter was of shape {tuple(z[0].shape)} and is now of {tuple(p.shape)}; "
                "make a new tuner, over a new optimizer"
            )

    def damped(self, p: Tensor, mu: float) -> Tensor:
        """mu Zw."""
        z = self._kept.get(p)
        return torch.zeros_like(p) if z is None else mu * z[0]

    def state_dict(self, params: Sequence[Tensor]) -> Saved:
        """Z by the number of its parameter."""
        return {i: self._kept[p] for i, p in enumerate(params) if p in self._kept}

    @classmethod
    def load(cls, saved: Mapping[int, Sequence[Tensor]], params: Sequence[Tensor]) -> KeptTangents:
        """Copies of what was saved, where the parameters are.

        Raises:
            ValueError: a shape differs from that of its parameter.
        """
        new = cls()
        for index, z in saved.items():
            fits = 0 <= index < len(params)
            require(fits, "tangents", index, f"numbers of parameters, below {len(params)}")
            p = params[index]
            for each in z:
                ok = each.shape == p.shape
                require(ok, f"tangents[{index}]", tuple(each.shape), f"of shape {tuple(p.shape)}")
            new._kept[p] = [laid_out(each.to(p.device), p, copy=True) for each in z]
        return new
