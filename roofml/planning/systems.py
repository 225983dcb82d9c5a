"""Systems: what a load is served by, one server or several alike, and how unsure that is.

A `System` takes a load and gives an `Answer`: one replay of it, and the replays of servers that differ by all that is
uncertain of them. `disaggregated` has the system whose prompts and answers are made by different servers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from roofml.calibration.calibration import Calibration
from roofml.calibration.prediction import Prediction
from roofml.engine.replay import Replay
from roofml.latency.doubts import Doubt, by_size
from roofml.latency.launches import said_of_launches
from roofml.planning.replicas import check_replicas, serve_by_replicas, served_anew
from roofml.planning.routing import Router
from roofml.planning.sessions import sent_anew, serve
from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.util.arrays import Ints
from roofml.workloads.load import Load

T = TypeVar("T")


class Spread(Protocol):
    """Replays of a load at draws of all that is uncertain (`calibration.drawn_replays`)."""

    @property
    def doubts(self) -> Sequence[Doubt]:
        """Why it is less sure than what was measured."""
        ...

    def each(self, figures: Callable[[Replay], T]) -> list[T]:
        """What `figures` makes of each."""
        ...

    def predicted(
        self, metric: str, value: float, drawn: Sequence[float | None], more: Mapping[str, float] | None = None
    ) -> Prediction:
        """The prediction of a figure that draws have so."""
        ...


@dataclass(frozen=True, eq=False)
class Answer:
    """A load as a system served it."""

    run: Run
    """As it was sent to the servers that make the tokens."""
    of_class: Ints
    """(requests,) the class of each, where there are several; empty: one."""
    replay: Replay
    spread: Callable[[Run], Spread]
    """Of this run, which may be marked as one whose queue grows."""
    facts: Mapping[str, float] | None = None
    """What is to be told of servers and links beside the schedule."""
    warnings: Sequence[str] = ()
    prompts: tuple[Run, Replay] | None = None
    """Where other servers compute prompts: how these served them."""


class System(Protocol):
    """What a load is served by."""

    @property
    def server(self) -> Server:
        """One of the servers that make tokens."""
        ...

    @property
    def servers(self) -> int:
        """How many of them there are."""
        ...

    @property
    def prompt_servers(self) -> int:
        """How many others compute prompts; 0: they do."""
        ...

    @property
    def said(self) -> str:
        """For people; empty of one server."""
        ...

    def serve(self, load: Load, progress: Ints | None = None) -> Answer:
        """Serve a load. Raises InputError for one that it cannot be given."""
        ...

    def warnings(self, answer: Answer, run: Run) -> list[str]:
        """What is taken on trust."""
        ...

    def to_dict(self) -> dict[str, Any] | None:
        """JSON-able; None of one server."""
        ...


@dataclass(frozen=True, eq=False)
class OneServer:
    """A calibrated server."""

    calibration: Calibration
    server: Server
    servers: int = 1
    prompt_servers: int = 0
    said: str = ""

    def serve(self, load: Load, progress: Ints | None = None) -> Answer:
        """Serve a load, whoever waits for whose answer."""
        served = serve(self.calibration, load, self.server, progress)

        def spread(of: Run) -> Spread:
            return replace(self.calibration.replays(of, served=served.replay), again=sent_anew(served, load))

        return Answer(served.run, served.load.of_class, served.replay, spread)

    def warnings(self, answer: Answer, run: Run) -> list[str]:
        """What is taken on trust."""
        return warnings_of(self.calibration, run, answer.replay)

    def to_dict(self) -> None:
        """Nothing beside what is said of its server."""


@dataclass(frozen=True, eq=False)
class Replicas:
    """Servers alike behind a router. Raises InputError for a number of them, or a router, that is none."""

    calibration: Calibration
    server: Server
    servers: int
    router: Router = "least loaded"
    prompt_servers: int = 0

    def __post_init__(self) -> None:
        """Check them."""
        check_replicas(self.servers, self.router)

    @property
    def said(self) -> str:
        """For people."""
        return f"{self.servers} replicas, {self.router}"

    def serve(self, load: Load, progress: Ints | None = None) -> Answer:
        """Serve a load, whoever waits for whose answer."""
        served = serve_by_replicas(self.calibration, load, self.server, self.servers, self.router, progress)
        again = served_anew(served, load, self.server, self.servers, self.router)

        def spread(of: Run) -> Spread:
            return replace(self.calibration.replays(of, served=served.joined), again=again)

        of_class = load.of_class[served.order] if len(load.of_class) else load.of_class
        return Answer(served.run, of_class, served.joined, spread)

    def warnings(self, answer: Answer, run: Run) -> list[str]:
        """What is taken on trust."""
        return warnings_of(self.calibration, run, answer.replay)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"replicas": self.servers, "router": self.router, "gpus": self.servers * self.server.tensor_parallel}


def on_tables(calibration: Calibration, server: Server) -> Calibration:
    """The calibration with the tables of a server, which are made once for all replays."""
    return replace(calibration, deployment=calibration.deployment.serving(server))


def warnings_of(calibration: Calibration, run: Run, replayed: Replay) -> list[str]:
    """What is taken on trust of servers of a calibration."""
    schedule = replayed.schedule
    tables = calibration.deployment.serving(run.server).tables
    launched = said_of_launches(schedule.step_time_us, schedule.steps.new_tokens, tables)
    doubts = [doubt.sentence for doubt in by_size(calibration.open_doubts)]
    return [*calibration.warnings_for(run), *doubts, *calibration.outside(schedule.steps), *launched]
