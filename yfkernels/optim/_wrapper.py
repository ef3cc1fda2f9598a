"""An optimizer around another one, whose groups, state and hooks of saving are that one's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.optim import Optimizer

if TYPE_CHECKING:
    from collections import defaultdict


# What else the optimizers of this package can, of those who have it.
_OF_BASE = ("averaged", "averaged_state_dict", "explain", "use_average")


class Wrapper(Optimizer):
    """What torch and frameworks ask of an optimizer, passed on to `base`.

    Args:
        base: the optimizer that takes the steps.
    """

    def __init__(self, base: Optimizer) -> None:
        self.base = base
        self._wrapping = True
        super().__init__(base.param_groups, base.defaults)
        self._wrapping = False
        self._share_hooks()

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        if not self._wrapping:  # torch's constructor begins with none
            self.base.param_groups = groups

    @property
    def state(self) -> defaultdict[Tensor, Any]:
        return self.base.state

    @state.setter
    def state(self, state: defaultdict[Tensor, Any]) -> None:
        if not self._wrapping:
            self.base.state = state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if not any(param_group is group for group in self.base.param_groups):
            self._check_group({**self.base.defaults, **param_group})
            self.base.add_param_group(param_group)

    def _check_group(self, group: dict[str, Any]) -> None:
        """Raises if a group with these options cannot be added."""

    def state_dict(self) -> dict[str, Any]:
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base.load_state_dict(state_dict)

    def _share_hooks(self) -> None:
        """Hooks of saving and loading that are registered here run in the base, which does both."""
        for kind in ("state_dict_pre", "state_dict_post"):
            for name in (f"_optimizer_{kind}_hooks", f"_optimizer_load_{kind}_hooks"):
                setattr(self, name, getattr(self.base, name))

    def __getattr__(self, name: str) -> Any:
        if name in _OF_BASE and "base" in vars(self):
            return getattr(self.base, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __getstate__(self) -> dict[str, Any]:
        # without hooks, and without what a scheduler puts in front of step()
        return {
            name: value
            for name, value in vars(self).items()
            if name != "step" and not name.startswith("_optimizer_")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share_hooks()
