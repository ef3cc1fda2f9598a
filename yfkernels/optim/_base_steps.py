"""The steps of an optimizer that a tuner wraps: taken by the tuner, refused by hand."""

from __future__ import annotations

import weakref
from typing import Any
from weakref import WeakKeyDictionary

from torch.optim import Optimizer

from yfkernels.optim._averages import refuse_inside
from yfkernels.optim._tuned_lr import applied

# Who takes an optimizer's steps: the newest tuner.
_OWNERS: WeakKeyDictionary[Optimizer, weakref.ref[BaseSteps]] = WeakKeyDictionary()


class BaseSteps:
    """Takes the base's steps at the tuned learning rates.

    As long as this object lives the base's own step() raises RuntimeError: it would move the
    parameters where the tuner does not see it. Of two tuners of one base the newer one counts.

    Args:
        base: the optimizer.
        owner: what the tuner is called, for messages.
    """

    def __init__(self, base: Optimizer, owner: str) -> None:
        self._base, self._owner = base, owner
        self._watch()

    def _watch(self) -> None:
        self._stepping = False
        here = _OWNERS[self._base] = weakref.ref(self)

        def refuse_by_hand(*_: object) -> None:
            steps = here()
            if steps is not None and steps._is_owner() and not steps._stepping:
                raise RuntimeError(
                    f"{type(steps._base).__name__}.step() was called while {steps._owner} tunes "
                    f"its learning rate; call step() of the {steps._owner} object alone"
                )

        weakref.finalize(self, self._base.register_step_pre_hook(refuse_by_hand).remove)

    def _is_owner(self) -> bool:
        if _OWNERS[self._base]() is None:  # the newer tuner is gone
            _OWNERS[self._base] = weakref.ref(self)
        return _OWNERS[self._base]() is self

    def check_owner(self) -> None:
        """Raises RuntimeError if the base has a newer tuner, or its averages for weights."""
        refuse_inside(self._base)
        if not self._is_owner():
            raise RuntimeError(
                f"Another tuner was made over this {type(self._base).__name__} after this "
                f"{self._owner}; call step() of that one"
            )

    def take(self) -> None:
        """One step of the base."""
        self._stepping = True
        try:
            with applied(self._base.param_groups):
                self._base.step()
        finally:
            self._stepping = False

    def __getstate__(self) -> dict[str, Any]:
        return {"_base": self._base, "_owner": self._owner}  # torch copies no hooks

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._watch()
