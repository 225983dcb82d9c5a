"""roofml replay: serve a run again with given coefficients."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roofml.cli import options as o
from roofml.cli.console import print_json, progress, show, warn, warn_of, working

if TYPE_CHECKING:
    from roofml.traces.server import ServerOverrides


@o.server_options
def replay(
    run: o.OneRun,
    overrides: ServerOverrides,
    coeffs: o.Coeffs = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Predicted requests (CSV, µs).")] = None,
    allow_oversize: o.AllowOversize = False,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Serve a run's requests again, with vLLM's scheduler and the coefficients' step times, and compare.

    Without --coeffs from physics and what other models taught, with an interval for every figure.
    """
    import numpy as np

    from roofml.calibration.calibrate import load_for_runs, uncalibrated
    from roofml.latency.deployment import deployment_of
    from roofml.traces.read import read_runs
    from roofml.traces.selection import Selection
    from roofml.util.writing import check_writable, write_file
    from roofml.validation.evaluation import replay_run

    if output is not None:
        check_writable(output)
    with working(quiet or as_json, "reading"):
        runs = read_runs([run], overrides)
        if coeffs is None:
            calibration = uncalibrated(deployment_of(runs, allow_oversize=allow_oversize))
        else:
            calibration, runs = load_for_runs(coeffs, runs, allow_oversize=allow_oversize)
        calibration = replace(calibration, allow_oversize=allow_oversize)
    if output is not None:
        check_writable(output)  # what was read is an input now
    warn_of(runs)
    finished = np.zeros(1, np.int64)
    with progress(quiet or as_json) as shown, _Watched(shown, finished, len(runs[0])):
        replayed = replay_run(calibration, Selection.between(runs[0]), finished)
    for text in replayed.warnings:
        warn(text)
    if output is not None:
        write_file(output, _csv(replayed.columns()))
    if as_json:
        print_json({**replayed.to_dict(), "output": output and str(output)})
    elif output is None or not quiet:
        show(replayed)


class _Watched:
    """While inside, show how many requests the compiled loop has finished: it keeps the count for us."""

    def __init__(self, shown: Any, finished: Any, total: int) -> None:
        self.task = shown.add_task("replaying", total=total)
        self.shown, self.finished, self.done = shown, finished, threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self.done.wait(0.1):
            self.shown.update(self.task, completed=int(self.finished[0]))

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()


def _csv(columns: Mapping[str, Any]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
    return stream.getvalue()
