"""The load whose batches coefficients are derived for: any LOAD, or the requests of a run whose server nobody knows."""

from __future__ import annotations

from pathlib import Path

from roofml.traces.formats import workload
from roofml.traces.read import read_all
from roofml.traces.run import Run
from roofml.util.errors import InputError
from roofml.util.reading import is_folder, is_there
from roofml.workloads.load import Load
from roofml.workloads.mixture import SUFFIXES
from roofml.workloads.read import read_load
from roofml.workloads.spec import is_spec


def is_load(text: str) -> bool:
    """Whether a text names requests that nobody has served: a line, or a workload file."""
    return is_spec(text) or (is_there(Path(text)) and not _may_be_a_run(Path(text)))


def load_named(text: str, requests_per_s: float | None = None) -> Load:
    """The requests of a LOAD, as they came, or at so many a second.

    What served a run is not asked: its requests are. Raises InputError for what is neither, and for several runs.
    """
    path = Path(text)
    if is_spec(text) or not is_there(path) or not _may_be_a_run(path):
        return read_load(text, rate=requests_per_s)
    runs = [run for run in read_all([path], complete=False).every if isinstance(run, Run)]
    if len(runs) != 1:
        raise InputError(f"{text}: {len(runs)} runs with the times of their requests in it, expected one")
    (run,) = runs
    load = Load(
        run.name,
        run.arrival_us,
        run.prompt_tokens,
        run.output_tokens,
        run.clients,
        run.prefix_group,
        run.prefix_tokens,
    )
    return load if requests_per_s is None else load.at_rate(requests_per_s)


def _may_be_a_run(path: Path) -> bool:
    return is_folder(path) or not (path.suffix.lower() in SUFFIXES or workload.detect(path))
