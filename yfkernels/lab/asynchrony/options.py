"""What an asynchronous run is told, and what does not fit together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from yfkernels.asynchronous import RULES, StalenessRule
from yfkernels.lab.options import OptionError
from yfkernels.lab.recipes import misread, options_of
from yfkernels.lab.workloads.digits import digits_conv, digits_mlp
from yfkernels.lab.workloads.examples import ExamplesTask
from yfkernels.lab.workloads.text import TextTask, text_lstm, text_transformer

Task = ExamplesTask | TextTask

ENGINES = ("simulator", "gloo", "ray")
ORDERS = ("round-robin", "memoryless")
WORKLOADS: dict[str, Callable[[], Task]] = {
    "digits-conv": digits_conv,
    "digits-mlp": digits_mlp,
    "text-lstm": text_lstm,
    "text-transformer": text_transformer,
}
NO_RULE = "none"
BATCH_SIZES = {"text-lstm": 16, "text-transformer": 16}
BATCH_SIZE = 64  # of the others
PUSHES = {"text-lstm": 1000, "text-transformer": 1000}  # a third of an epoch
EPOCHS = 20  # of the others


@dataclass(frozen=True)
class Options:
    """All that the course of a run depends on, on the simulator to the bit.

    Attributes:
        engine: of `ENGINES`.
        workers: number of them.
        optimizer: a recipe, as `optimizers.read_optimizer` reads it.
        workload: of `WORKLOADS`.
        staleness: of `ORDERS`: who pushes next on the simulator. None for round-robin there.
        rule: of `RULES`, with options; or none.
        max_staleness: pushes that are more stale are refused; None for no limit.
        batch_size: examples a push; None for what suits the workload.
        epochs: passes over the training examples; None for what suits the workload, or with pushes.
        pushes: applied pushes after which training ends; None to end with the epochs.
        seed: of the weights, the order of the batches, and that of memoryless workers.
        threads: CPU threads for torch in each process.
    """

    engine: str = "simulator"
    workers: int = 4
    optimizer: str = "yellowfin"
    workload: str = "digits-conv"
    staleness: str | None = None
    rule: str = NO_RULE
    max_staleness: int | None = None
    batch_size: int | None = None
    epochs: int | None = None
    pushes: int | None = None
    seed: int = 0
    threads: int = 1

    def completed(self) -> Options:
        """The same with a value for everything that was left to the workload or the engine.

        Raises:
            OptionError: something does not fit.
        """
        for option, choices in (("engine", ENGINES), ("workload", WORKLOADS)):
            value = getattr(self, option)
            if value not in choices:
                raise OptionError(option, value, f"choose from {', '.join(choices)}")
        if self.workers < 2:
            raise OptionError(
                "workers",
                self.workers,
                "give at least 2; with fewer no gradient is ever stale",
            )
        if self.pushes is not None and self.epochs is not None:
            raise OptionError("pushes", self.pushes, "--epochs says when to end; leave one out")
        pushes, epochs = self.pushes, self.epochs
        if pushes is None and epochs is None:
            pushes = PUSHES.get(self.workload)
            epochs = EPOCHS if pushes is None else None
        return replace(
            self,
            staleness=self._order(),
            batch_size=self.batch_size or BATCH_SIZES.get(self.workload, BATCH_SIZE),
            epochs=epochs,
            pushes=pushes,
        )

    def _order(self) -> str | None:
        if self.engine != "simulator":
            if self.staleness is not None:
                raise OptionError(
                    "staleness",
                    self.staleness,
                    f"{self.engine} runs real workers, whose staleness nobody chooses; leave it "
                    "out, or take --engine simulator",
                )
            return None
        order = self.staleness or ORDERS[0]
        if order not in ORDERS:
            raise OptionError("staleness", order, f"choose from {', '.join(ORDERS)}")
        return order

    def build_task(self) -> Task:
        """The workload, of completed options.

        Raises:
            OptionError: a batch larger than the training set.
        """
        task = WORKLOADS[self.workload]()
        assert self.batch_size is not None
        if self.batch_size > task.training_size:
            raise OptionError(
                "batch_size",
                self.batch_size,
                f"there are {task.training_size} training examples; give that or less",
            )
        return task.with_batch_size(self.batch_size)

    def build_rule(self) -> StalenessRule | None:
        """The staleness rule.

        Raises:
            OptionError: no such rule, or it refuses its options.
        """
        name, _, settings = self.rule.partition(":")
        if self.rule == NO_RULE:
            return None
        if name not in RULES:
            raise OptionError("rule", self.rule, f"choose from {', '.join((NO_RULE, *RULES))}")
        if name == "drop_older":  # whose one option has a short form
            settings = f"limit={settings}" if settings.isdecimal() else settings
            if not settings:
                raise OptionError("rule", self.rule, "say how old: drop_older:8")
        try:
            return RULES[name](**options_of(settings))
        except TypeError as error:
            raise OptionError("rule", self.rule, misread(error)) from error
        except ValueError as error:
            raise OptionError("rule", self.rule, str(error)) from error
