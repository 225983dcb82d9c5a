"""Work: results of tasks, known ones first, the others from a cluster or from this process, each kept as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from roofml.jobs.cluster import Cluster, Doer, Wanted, is_installed, opened
from roofml.jobs.kept import Kept

T = TypeVar("T")
OnResult = Callable[[str, bool], None]
"""Called with the key of each result that is there, and whether it was known before."""


def _nobody(_dashboard: str) -> None:
    """Who does not want to know Dask's page."""


@dataclass
class Work(Generic[T]):
    """Tasks of one kind, plain data, and how they are done."""

    kept: Kept
    doer: Doer[T]
    """A function of a module, which a worker can import."""
    code: str
    """Digest of all code, and data, that results come from and that keys do not say."""
    wanted: Wanted
    stack: ExitStack
    """The cluster lives as long as it."""
    on_cluster: Callable[[str], None] = _nobody
    """Called with the address of Dask's page when there is a cluster."""
    in_turn: bool = False
    """Whether this process does them itself where one process is enough, or where Dask is not installed."""
    used: list[str] = field(default_factory=list[str])
    """The keys of all tasks that were asked for."""
    computed: int = 0
    """Tasks that were done now; the others were known."""
    _cluster: Cluster | None = None

    def results(
        self, tasks: Mapping[str, T], on_result: OnResult, *, lasting: bool = True
    ) -> dict[str, dict[str, Any]]:
        """Key -> result of every task. What is not `lasting` is computed every time.

        Raises as `Cluster.results`; what was computed until then is kept.
        """
        self.used += tasks
        found = self.kept.load(tasks) if lasting else {}
        for key in found:
            on_result(key, True)
        left = {key: task for key, task in tasks.items() if key not in found}
        self.kept.forget(left)
        for key, result in self._computed(left):
            found[key] = self.kept.keep(key, result)
            self.computed += 1
            on_result(key, False)
        return found

    def _computed(self, left: Mapping[str, T]) -> Iterator[tuple[str, dict[str, Any]]]:
        if not left:
            return
        alone = self.wanted.scheduler is None and (min(self.wanted.workers, len(left)) == 1 or not is_installed())
        if self.in_turn and self._cluster is None and alone:
            for key, task in left.items():
                yield key, self.doer(task, self.code)["result"]
            return
        if self._cluster is None:
            self._cluster = self.stack.enter_context(opened(self.wanted))
            self.on_cluster(self._cluster.dashboard)
        yield from self._cluster.results(self.doer, left, self.code)
