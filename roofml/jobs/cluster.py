"""A Dask cluster, one of this machine or one that is there, and tasks done on it in whatever order they end.

Dask comes with the extra `cluster` and is imported when there is something to do. Between an embedded cluster's
processes connections are encrypted with a certificate of this run alone: nobody else on the machine can hand it work.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar, cast

from roofml.util.environment import environment
from roofml.util.errors import InputError, JobFailedError
from roofml.util.interrupts import quiet_tracker, temporary_folder, wait_if_ending, workers_undisturbed
from roofml.util.names import shown

CONNECT_S = 15.0
"""How long a scheduler may take to answer."""
DEATHS = 3
"""Workers that one task may end on an embedded cluster before it is tried alone."""
_ADDRESS = re.compile(r"(tcp|tls|ucx|wss?)://[^\s/@]+:[0-9]{1,5}/?")
ONE_THREAD = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "JAX_PLATFORMS": "cpu"}
"""Environment of a worker before JAX is loaded in it: workers run side by side, one to a core."""


SPAWNED_WITH = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""Environment that a worker of this machine starts with. Dask's own also has glibc give memory back at once, and then
every large array is mapped anew: a quarter of a fit's time."""

Told = TypeVar("Told", contravariant=True)
"""A task, as plain data."""
T = TypeVar("T")


class Doer(Protocol[Told]):
    """What a worker does: `{"result": ...}` of a task, plain data; a reason in place of a result is one too.

    `code` is the digest of the code, and data, that the asking process has. Where it is not the worker's own, there is
    no result: `{"other_code": ...}` has the worker's. What a task raises of ours ends them all.
    """

    def __call__(self, task: Told, code: str, /) -> dict[str, Any]:
        """Do a task."""
        ...


@dataclass(frozen=True)
class Wanted:
    """Which cluster a user asked for."""

    scheduler: str | None = None
    """Address of one that is there, `tcp://HOST:PORT`; None for one of this machine."""
    workers: int = 1
    """Processes of one of this machine."""


@dataclass(frozen=True, eq=False)
class Cluster:
    """A connection to a scheduler."""

    client: Any
    where: str
    """For people, in errors."""
    dashboard: str
    """Address of Dask's page about it; empty without one."""

    def results(self, doer: Doer[T], tasks: Mapping[str, T], code: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Key and result of every task, as they end.

        A task whose workers died comes last, alone, and if they die again its result says so. Raises JobFailedError
        where the scheduler goes away, InputError where workers run other code, and what a task raises of either kind.
        """
        suspects: list[str] = []
        yield from self._results(doer, tasks, code, suspects)
        for key in sorted(suspects):  # what else was on those workers may have ended them
            again: list[str] = []
            yield from self._results(doer, {key: tasks[key]}, code, again)
            if again:
                yield key, {"failed": "its worker process died again and again: too little memory?"}

    def _results(
        self, doer: Doer[T], tasks: Mapping[str, T], code: str, suspects: list[str]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        from distributed import KilledWorker, as_completed

        try:
            futures = {
                self.client.submit(_in_worker, doer, task, code, key=f"roofml-{key}", pure=False, priority=-number): key
                for number, (key, task) in enumerate(tasks.items())
            }
            ended = as_completed(list(futures), loop=self.client.loop)
            for future in cast("Any", ended):
                if future.status in ("pending", "lost"):  # its worker died with the result, and it is done again
                    ended.add(future)
                    continue
                key = futures.pop(future)
                try:
                    answer = cast("dict[str, Any]", future.result())
                except KilledWorker:
                    suspects.append(key)
                    continue
                except (InputError, JobFailedError):
                    raise
                except Exception as error:
                    if future.status != "error":
                        raise
                    raise JobFailedError(
                        f"{self.where}: a worker cannot do a task: {type(error).__name__}: {error}: expected the same "
                        "roofml and Dask on all of them"
                    ) from None
                future.release()
                if "other_code" in answer:
                    raise InputError(
                        f"{self.where}: a worker has another roofml, or sees other files "
                        f"({answer['other_code'][:12]}, not {code[:12]}): expected the same on all of them"
                    )
                yield key, answer["result"]
        except (InputError, JobFailedError):
            raise
        except Exception as error:  # of a connection that is gone, of many kinds
            raise self._lost(error) from None

    def _lost(self, error: BaseException | None) -> JobFailedError:
        wait_if_ending()
        said = "" if error is None else f" ({type(error).__name__})"
        return JobFailedError(f"{self.where}: the scheduler went away{said}: run the same command again to go on")


def _in_worker(doer: Doer[T], task: T, code: str) -> dict[str, Any]:
    """A task in a worker that somebody else may have started."""
    for name, value in ONE_THREAD.items():
        os.environ.setdefault(name, value)
    return doer(task, code)


def is_installed() -> bool:
    """Whether Dask is there."""
    return find_spec("distributed") is not None


def check_installed(who: str) -> None:
    """Raise InputError, naming the extra, where Dask is not installed and `who` needs it."""
    if not is_installed():
        raise InputError(f"{who} needs Dask: `pip install 'roofml[cluster]'`")


@contextmanager
def opened(wanted: Wanted) -> Generator[Cluster]:
    """The cluster, until the end of the block; one of this machine then ends.

    Raises InputError where Dask is missing or no scheduler answers.
    """
    check_installed("a cluster")
    from dask import config
    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    settings = {
        "distributed.scheduler.allowed-failures": DEATHS - 1,
        "distributed.scheduler.work-stealing": False,
        "distributed.scheduler.worker-ttl": None,  # compiled code holds a worker's thread that says that it lives
        "distributed.comm.timeouts.connect": CONNECT_S,
        "distributed.nanny.pre-spawn-environ": SPAWNED_WITH,
        "logging": {"distributed": "critical"},
    }
    with config.set(settings), ExitStack() as stack:
        if wanted.scheduler is not None:
            if not _ADDRESS.fullmatch(wanted.scheduler):
                raise InputError(f"--scheduler {shown(wanted.scheduler)}: expected an address such as tcp://HOST:8786")
            try:
                client = Client(wanted.scheduler, timeout=CONNECT_S, set_as_default=False)
            except (OSError, ValueError, TimeoutError) as error:
                raise InputError(f"--scheduler {wanted.scheduler}: nobody answers there ({error})") from None
            stack.callback(_closed, client, None)
            yield Cluster(client, f"--scheduler {wanted.scheduler}", _dashboard(client))
            return
        cluster = stack.enter_context(_embedded(wanted.workers))
        client = Client(cluster, set_as_default=False)
        stack.callback(_closed, client, cluster)
        yield Cluster(client, "this machine", _dashboard(client))


@contextmanager
def _embedded(workers: int) -> Generator[Any]:
    """A scheduler in this process, and workers that are processes of their own and end with it."""
    from distributed import LocalCluster
    from distributed.security import Security

    with temporary_folder("roofml-dask-") as scratch, environment({**quiet_tracker()}):
        with workers_undisturbed():  # the threads that start workers are made here, and hand down what they ignore
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                security=Security.temporary(),
                silence_logs=logging.CRITICAL,
                local_directory=str(scratch),
                memory_limit=0,
                env=dict(ONE_THREAD),
            )
        yield cluster


def _closed(client: Any, cluster: Any) -> None:
    """Close what is still open; what has gone away has nothing to say of it."""
    wait_if_ending()
    for each in (client, cluster):
        with suppress(Exception):
            if each is not None:
                each.close(timeout=5)


def _dashboard(client: Any) -> str:
    with suppress(Exception):
        if find_spec("bokeh") is not None:
            return str(client.dashboard_link)
    return ""
