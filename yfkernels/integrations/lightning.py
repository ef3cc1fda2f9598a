"""For Lightning: what the optimizers did, in the module's logs.

Give the Trainer the callback:

    Trainer(callbacks=[LogOptimizers()]).fit(module)
"""

from __future__ import annotations

from typing import Any

from yfkernels.integrations._optional import required
from yfkernels.integrations.log_dict import log_dict

lightning = required("lightning")


class LogOptimizers(lightning.Callback):  # type: ignore[misc,name-defined]
    """Logs `log_dict` of each optimizer, as often as the Trainer logs (`log_every_n_steps`).

    Args:
        prefix: of every key. With several optimizers "0/", "1/", ... follow.
    """

    def __init__(self, prefix: str = "optimizer/") -> None:
        self.prefix = prefix

    def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
        """Called by Lightning."""
        if trainer.global_step % trainer.log_every_n_steps:
            return
        several = len(trainer.optimizers) > 1
        for index, optimizer in enumerate(trainer.optimizers):
            prefix = f"{self.prefix}{index}/" if several else self.prefix
            module.log_dict(log_dict(optimizer, prefix))
