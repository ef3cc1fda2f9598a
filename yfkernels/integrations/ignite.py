"""For ignite: what the optimizer did, among the metrics of an engine.

Every logger of ignite that writes metrics then writes it too:

    log_to_metrics(trainer, optimizer, every=100)
    logger.attach_output_handler(trainer, Events.ITERATION_COMPLETED(every=100), tag="training",
                                 metric_names="all")
"""

from __future__ import annotations

from typing import Any

from yfkernels._checks import check_whole
from yfkernels.integrations._optional import required
from yfkernels.integrations.log_dict import log_dict, unwrapped

engine_module = required("ignite.engine")


def log_to_metrics(
    engine: Any, optimizer: Any, every: int = 100, prefix: str = "optimizer/"
) -> Any:
    """Puts `log_dict` of an optimizer into ``engine.state.metrics``.

    Handlers of an event run in the order in which they were attached: call this before the
    loggers are.

    Args:
        engine: the `ignite.engine.Engine` that trains.
        optimizer: one of this package, as it is or as a framework has wrapped it.
        every: iterations from one look to the next; on CUDA each waits for the device.
        prefix: of every key.

    Returns:
        What ``engine.add_event_handler`` returns, whose ``remove()`` takes it away again.

    Raises:
        TypeError: `optimizer` is none of this package; `every` is no whole number.
        ValueError: `every` is below 1.
    """
    check_whole("every", every, least=1)
    unwrapped(optimizer)  # says now what would be said in the middle of training

    def look(engine: Any) -> None:
        engine.state.metrics.update(log_dict(optimizer, prefix))

    event = engine_module.Events.ITERATION_COMPLETED(every=every)
    return engine.add_event_handler(event, look)
