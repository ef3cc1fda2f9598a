"""For Lightning: what the optimizers did, in the module's logs.

Give the Trainer the callback:

    Trainer(callbacks=[LogOptimizers()]).fit(module)
"""

from __future__ import annotations

from typing import Any

from yfkernels.integrations._optional import required
from yfkernels.integrations.log_dict import log_dict, unwrapped

lightning = required("lightning")


class LogOptimizers(lightning.Callback):  # type: ignore[misc,name-defined]
    """Logs `log_dict` of each optimizer, as often as the Trainer logs (`log_every_n_steps`).

    Optimizers of other packages that train beside ours are left out.

    Args:
        prefix: of every key. With several optimizers "0/", "1/", ... follow.

    Raises:
        TypeError: as training starts, if none of the optimizers is one of this package.
    """

    def __init__(self, prefix: str = "optimizer/") -> None:
        self.prefix = prefix

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Called by Lightning."""
        if not any(map(_is_ours, trainer.optimizers)):
            names = ", ".join(type(each).__name__ for each in trainer.optimizers) or "none"
            raise TypeError(
                f"Invalid optimizers for LogOptimizers: {names}; return one of yfkernels from "
                "configure_optimizers, or leave the callback out"
            )

    def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
        """Called by Lightning."""
        every = trainer.log_every_n_steps  # 0 for never
        if not every or trainer.global_step % every:
            return
        several = len(trainer.optimizers) > 1
        for index, optimizer in enumerate(trainer.optimizers):
            if _is_ours(optimizer):
                prefix = f"{self.prefix}{index}/" if several else self.prefix
                module.log_dict(log_dict(optimizer, prefix))


def _is_ours(optimizer: Any) -> bool:
    try:
        unwrapped(optimizer)
    except TypeError:
        return False
    return True
