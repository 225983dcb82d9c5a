"""The load whose batches coefficients are derived for: a workload file, or the requests of a recorded run."""

from __future__ import annotations

from pathlib import Path

from roofml.traces.formats import workload
from roofml.traces.read import read_all
from roofml.traces.run import Run
from roofml.util.errors import InputError
from roofml.util.reading import is_folder
from roofml.workloads.files import read_load
from roofml.workloads.load import Load


def load_named(text: str, requests_per_s: float | None = None) -> Load:
    """The requests of a workload file or a run, as they came, or at so many a second.

    What served a run is not asked: its requests are. Raises InputError for what is neither, and for several runs.
    """
    path = Path(text)
    if not is_folder(path) and workload.detect(path):
        return read_load(path, requests_per_s=requests_per_s).load
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
