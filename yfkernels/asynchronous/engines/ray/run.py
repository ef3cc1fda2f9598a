"""A run of the Ray engine, as the program that started it sees it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from yfkernels._checks import is_count, require
from yfkernels.asynchronous.engines.ray.arrays import as_tensor
from yfkernels.asynchronous.engines.ray.client import Loss, work
from yfkernels.asynchronous.engines.ray.server import Serving
from yfkernels.asynchronous.push_log import PushLog
from yfkernels.asynchronous.record import Record
from yfkernels.asynchronous.server import Server
from yfkernels.asynchronous.service import Service, WorkerCounts

_LOOK = 0.2  # seconds between looks at the server
_FAREWELL = 5.0  # seconds for workers to be told when the user wants an end
_CPUS = 1.0  # for a worker; Ray's own default


class Outcome(NamedTuple):
    """What a run has come to.

    Attributes:
        pushes: applied ones, those before a resume included.
        parameters: flat, for `FlatBuffers.copy_from` of a model of the same architecture.
        log: what became of the pushes.
        workers: what became of each worker's messages, by its name: "worker 1" is the first.
    """

    pushes: int
    parameters: tuple[Tensor, ...]
    log: PushLog
    workers: dict[str, WorkerCounts]


class Run:
    """A server actor and its workers; leaving its `with` block ends them.

    Args:
        make_server, make_worker, grace, worker_options, server_options: as of `start`.
        owns_ray: whether to shut Ray down at the end.
    """

    def __init__(
        self,
        make_server: Callable[[], Server | Service],
        make_worker: Callable[[], tuple[nn.Module, Loss]],
        *,
        grace: float,
        worker_options: Mapping[str, Any],
        server_options: Mapping[str, Any],
        owns_ray: bool,
    ) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray = ray
        self._make_worker = make_worker
        self._grace = grace
        self._options = {"num_cpus": _CPUS, "max_retries": 0, **worker_options}
        self._owns_ray = owns_ray
        self._started = 0
        self._working: dict[Any, int] = {}  # what Ray promises of each worker, and its number
        self._cause: BaseException | None = None  # why the last worker was lost
        # Beside the program, whose files the checkpoint is one of.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"num_cpus": 0, "scheduling_strategy": here, **server_options}
        self._server = ray.remote(Serving).options(**options).remote()
        try:
            self._token: int = self._ask("begin", make_server)
        except BaseException:
            self.close()
            raise

    def add(self, workers: int) -> None:
        """Starts further workers, which join the training where it is.

        Args:
            workers: number of them, >= 1. Where the cluster has no CPU left for one, it starts when
                there is.
        """
        require(is_count(workers), "workers", workers, "an integer >= 1")
        task = self._ray.remote(work).options(**self._options)
        for number in range(self._started + 1, self._started + workers + 1):
            reference = task.remote(self._server, self._token, number, self._make_worker)
            self._working[reference] = number
        self._started += workers
        self._warn_of_waiting()

    def _warn_of_waiting(self) -> None:
        cpus, needed = self._ray.cluster_resources().get("CPU", 0.0), self._options["num_cpus"]
        if needed * len(self._working) > cpus:
            warnings.warn(
                f"{len(self._working)} workers need {needed * len(self._working):g} CPUs and the "
                f"cluster has {cpus:g}: some of them wait until others have ended; give "
                "worker_options={'num_cpus': ...}, a fraction or 0",
                RuntimeWarning,
                stacklevel=3,
            )

    def wait(self, watch: Callable[[Record], None] | None = None) -> Outcome:
        """Waits until training has ended and the workers have been told, or are lost.

        The checkpoint is written if the service has one; on Ctrl-C, too.

        Args:
            watch: called five times a second, in this process, with the record of the last push.

        Returns:
            What training has come to.

        Raises:
            RuntimeError: all workers are lost before the end. After `add` it can be waited again.
            ConnectionError: the server died; what it had is in its checkpoint.
            Exception: the optimizer's or the callback's own, which ended training.
        """
        try:
            self._until_all_are_told(self._grace, watch)
        except KeyboardInterrupt:
            self._ask("stop")
            self._until_all_are_told(min(self._grace, _FAREWELL))
            self._ask("result")
            raise
        finished, outcome = self._ask("finished"), self._outcome()
        if not finished:
            losses = [f"{name} {', '.join(w.losses)}" for name, w in outcome.workers.items()]
            raise RuntimeError(
                f"no worker is left after {outcome.pushes} pushes: "
                + ("; ".join(losses) or "none was started")
            ) from self._cause
        return outcome

    def stop(self) -> None:
        """Ends training: every worker is told when it asks."""
        self._ask("stop")

    def _until_all_are_told(
        self, grace: float, watch: Callable[[Record], None] | None = None
    ) -> None:
        end = None
        while self._working:
            ended, _ = self._ray.wait(list(self._working), timeout=_LOOK)
            for reference in ended:
                self._see_off(reference)
            latest = None if watch is None else self._ask("latest")
            if watch is not None and latest is not None:
                watch(latest)
            if self._ask("finished"):
                end = time.monotonic() + grace if end is None else end
                if time.monotonic() > end:
                    break
        for reference, number in self._working.items():
            self._ask("lose", number, "did not come to be told of the end")
            self._ray.cancel(reference, force=True)
        self._working.clear()

    def _see_off(self, reference: Any) -> None:
        """A worker has returned, or not."""
        number = self._working.pop(reference)
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            self._cause = error.cause
            self._ask("lose", number, f"raised {type(error.cause).__name__}: {error.cause}")
        except self._ray.exceptions.RayError as error:  # its process, its node
            self._cause = error
            self._ask("lose", number, "died")

    def _ask(self, method: str, *args: Any) -> Any:
        """Calls a method of the actor.

        Raises:
            ConnectionError: it is dead.
        """
        try:
            return self._ray.get(getattr(self._server, method).remote(*args))
        except self._ray.exceptions.RayActorError as error:
            raise ConnectionError(
                "the server died; start again with a Service that resumes its checkpoint"
            ) from error

    def _outcome(self) -> Outcome:
        found = self._ask("result")
        flats = zip(found["parameters"], found["dtypes"])
        log = PushLog()
        log.load_state_dict(found["log"])
        workers = found["workers"].items()
        return Outcome(
            found["pushes"],
            tuple(as_tensor(array, dtype).clone() for array, dtype in flats),
            log,
            {name: WorkerCounts.from_state_dict(counts) for name, counts in workers},
        )

    def close(self) -> None:
        """Ends the workers and the server, wherever they are."""
        for reference in self._working:
            self._ray.cancel(reference, force=True)
        self._working.clear()
        self._ray.kill(self._server)
        if self._owns_ray:
            self._ray.shutdown()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
