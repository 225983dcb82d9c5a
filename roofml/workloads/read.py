"""Reading a LOAD: a line that says it, a YAML file of several classes, a workload file, or a recorded run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from roofml.traces.formats.workload import detect as is_workload
from roofml.traces.read import kind_of_path, read_runs
from roofml.traces.run import Run
from roofml.traces.server import FLAGS, Server, ServerOverrides
from roofml.util.errors import InputError
from roofml.util.names import shown
from roofml.util.reading import is_folder, is_there
from roofml.workloads.arrivals import Closed, Open, Recorded, own_rate
from roofml.workloads.files import read_file_load
from roofml.workloads.load import Load
from roofml.workloads.mixture import SUFFIXES, read_mixture
from roofml.workloads.requests import Given, Requests
from roofml.workloads.spec import KINDS, is_spec, parse_spec
from roofml.workloads.workload import Workload

EXPECTED = (
    "expected a run, a workload file, a YAML file of classes, or a line such as "
    f"poisson:rate=8,input=1024,output=256 (or {', '.join(KINDS[1:])})"
)


@dataclass(frozen=True, eq=False)
class ReadLoad:
    """A workload, and the run that it was recorded in, if it was."""

    workload: Workload
    run: Run | None = None

    @property
    def server(self) -> Server | None:
        """What served it when it was recorded."""
        return None if self.run is None else self.run.server


def read_workload(
    text: str,
    *,
    rate: float | None = None,
    concurrency: int | None = None,
    requests: int | None = None,
    overrides: ServerOverrides | None = None,
) -> ReadLoad:
    """What a LOAD says: `rate` rescales it, or gives lengths alone one; `concurrency` makes a closed loop of it.

    `requests` is how many there are to be, `overrides` the user's facts of the server of a recorded run. Raises
    InputError for what is no load, and for a rate, a concurrency or a number of requests that cannot be.
    """
    _check(rate, concurrency, requests)
    overrides = overrides or ServerOverrides()
    found = _read(text, rate, concurrency, overrides)
    if found.run is None:
        _check_recorded(text, overrides)
    workload = found.workload
    if concurrency is not None:
        if workload.sessions:
            raise InputError(f"--concurrency {concurrency}: {workload.name} is of sessions, which begin at a rate")
        pause = workload.pattern.pause_s if isinstance(workload.pattern, Closed) else None
        closed = Closed(concurrency) if pause is None else Closed(concurrency, pause)
        workload = replace(workload, pattern=closed)
    elif rate is not None:
        if workload.closed:
            raise InputError(f"--rate {rate:g}: {workload.name} is a closed loop, whose rate is its server's answer")
        workload = workload.at(rate)
    if requests is not None:
        workload = workload.of(requests)
    return replace(found, workload=workload)


def read_load(
    text: str,
    *,
    rate: float | None = None,
    concurrency: int | None = None,
    requests: int | None = None,
    overrides: ServerOverrides | None = None,
    seed: int = 0,
) -> Load:
    """The requests of a LOAD, drawn with a seed: `load.run(server)` is what a calibration's `replay` takes.

    As many as the load has, or `requests`, or `Workload.usual`. Raises InputError as `read_workload`.
    """
    read = read_workload(text, rate=rate, concurrency=concurrency, requests=requests, overrides=overrides)
    return read.workload.load(seed=seed)


def _check(rate: float | None, concurrency: int | None, requests: int | None) -> None:
    if rate is not None and not 0 < rate <= 1e6:
        raise InputError(f"--rate {rate:g}: expected requests a second above 0, up to 1e6")
    if concurrency is not None and not 1 <= concurrency <= 100_000:
        raise InputError(f"--concurrency {concurrency}: expected clients from 1 to 100,000")
    if rate is not None and concurrency is not None:
        raise InputError("--rate and --concurrency: a load is open or closed, expected one of them")
    if requests is not None and not 1 <= requests <= 5_000_000:
        raise InputError(f"--requests {requests}: expected from 1 to 5,000,000")


def _check_recorded(text: str, overrides: ServerOverrides) -> None:
    """Raise InputError for what is said of a recorded run's client, where there is none."""
    for name in ("output_tokens", "deadline_s"):
        if getattr(overrides, name) is not None:
            raise InputError(f"{FLAGS[name]}: corrects a recorded run, and load {shown(text)} is none")


def _read(text: str, rate: float | None, concurrency: int | None, overrides: ServerOverrides) -> ReadLoad:
    if is_spec(text):
        return ReadLoad(parse_spec(text))
    path = Path(text)
    if not is_there(path):
        if ":" in text and "=" in text:
            parse_spec(text)  # says what is wrong with it
        raise InputError(f"load {shown(text)}: no such file or folder; {EXPECTED}")
    if not is_folder(path):
        if path.suffix.lower() in SUFFIXES:
            return ReadLoad(read_mixture(path))
        if is_workload(path):
            return ReadLoad(_of_file(path, rate, concurrency))
    if kind_of_path(path) != "run":
        raise InputError(f"load {shown(text)}: tells of a server or of steps, and of no requests; {EXPECTED}")
    run = read_runs([path], overrides)[0]
    return ReadLoad(of_run(run), run)


def of_run(run: Run) -> Workload:
    """The load of a recorded run: its requests, all that were sent, as they came."""
    requests = Requests(
        run.prompt_tokens, run.output_tokens, run.prefix_group, run.prefix_tokens, np.zeros(len(run), np.int64)
    )
    pattern = Closed(run.clients) if run.clients else Recorded(run.arrival_us, own_rate(run.arrival_us))
    return Workload(
        run.name,
        pattern,
        Given(requests),
        len(run),
        deadline_us=run.deadline_us,
        priority=run.priority,
        findings=run.findings,
    )


def _of_file(path: Path, rate: float | None, concurrency: int | None) -> Workload:
    read = read_file_load(path, requests_per_s=rate, clients=concurrency)
    load = read.load
    size = len(load)
    if not len(load.prefix_group):
        group, prefix = np.full(size, -1, np.int64), np.zeros(size, np.int64)
    else:
        group, prefix = load.prefix_group, load.prefix_tokens
    given = Given(Requests(load.prompt_tokens, load.output_tokens, group, prefix, np.zeros(size, np.int64)))
    if concurrency is not None:
        return Workload(load.name, Closed(concurrency), given, size, findings=read.findings)
    if read.drawn:
        assert rate is not None
        return Workload(load.name, Open(rate), given, size, findings=read.findings)
    return Workload(
        load.name, Recorded(load.arrival_us, own_rate(load.arrival_us)), given, size, findings=read.findings
    )
