"""How pytest-xdist hands tests to its workers, also when one of them ends in the middle."""

from __future__ import annotations

from typing import Any

from xdist.scheduler import LoadScopeScheduling

from support.sharing import scope_of


class Scheduling(LoadScopeScheduling):
    """One test after the other to whoever is free, but for those that share what they need.

    (The groups of pytest-xdist 3.8 itself have no effect under pytest 9.2.)
    """

    def __init__(self, config: Any, log: Any) -> None:
        super().__init__(config, log)
        self._ended_workers: set[str] = set()  # tests at which a worker ended

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)

    def _reschedule(self, node: Any) -> None:
        """Hand out units until a worker has two tests: it starts one when it knows the next.

        xdist hands out one unit an event. That of a test of its own, or of tests that have run
        already, leaves the replacement of a worker that ended waiting for a next test, and no
        event of its own would ever bring one. Each turn takes a unit from the queue; at its end
        the worker is told that there are no more, which ends the loop.
        """
        if node not in self.registered_collections:
            return  # a replacement that is starting; it is asked again when it has collected
        super()._reschedule(node)
        while not node.shutting_down and self._pending_of(self.assigned_work[node]) < 2:
            super()._reschedule(node)

    def remove_node(self, node: Any) -> str | None:
        """Queue again what a worker leaves, but no test at which a second worker ended.

        xdist queues the test at which a worker ended as well: one that ends every worker would be
        tried until no more are allowed.
        """
        units = self.assigned_work[node].values()
        left = [(unit, test) for unit in units for test, is_done in unit.items() if not is_done]
        if not left:
            super().remove_node(node)
            return None
        unit, test = left[0]
        unit[test] = test in self._ended_workers
        self._ended_workers.add(test)
        super().remove_node(node)
        return test
