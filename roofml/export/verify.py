"""The live check: does BLIS itself, with our file, predict what was measured?

It runs `blis replay` and `blis calibrate` on a run, with what it read before any export and with our coefficients.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from roofml.blis.deployment import BlisDeployment, blis_deployment_of
from roofml.blis.fit import errors_of
from roofml.blis.replay import replay as replay_blis
from roofml.calibration.calibrate import load
from roofml.calibration.calibration import Calibration
from roofml.export.before import before_export
from roofml.export.belongs import check_belongs
from roofml.export.deployment import BlisExport
from roofml.export.edit import write_edits
from roofml.export.folder import HORIZON_US, config_of
from roofml.export.form_cost import FormCost, form_cost
from roofml.export.hardware import edit_hardware
from roofml.export.trace import TraceFiles, as_replayed, write_trace
from roofml.traces.read import read_run
from roofml.traces.run import Run
from roofml.util.arrays import Floats
from roofml.util.errors import InputError, JobFailedError
from roofml.util.interrupts import run_to_end, temporary_folder
from roofml.util.outside_text import for_line
from roofml.util.reading import MOST_BYTES_OF_A_TABLE, is_file, read_json, read_text
from roofml.util.writing import write_file

TIMEOUT_S = 600.0


class BlisFailedError(JobFailedError):
    """The `blis` binary failed. The message is one line: the command, and BLIS's first error or last line."""


@dataclass(frozen=True)
class Grade:
    """The verdict of `blis calibrate` on one metric."""

    mape_pct: float
    pearson_r: float
    quality: str
    """excellent, good, fair or poor."""


@dataclass(frozen=True)
class Check:
    """BLIS on one run: signed errors of its means against the measured means, %, and its own verdict."""

    requests: int
    """Measured requests that BLIS finished."""
    missing: int
    """Measured requests that BLIS did not finish."""
    e2e_pct: float
    ttft_pct: float
    tpot_pct: float
    grades: dict[str, Grade]
    mean_e2e_us: float


@dataclass(frozen=True)
class Verification:
    """BLIS without and with our file. If it could not run without, `before` is None and `before_problem` says why."""

    before: Check | None
    before_problem: str
    after: Check
    drift_pct: float | None
    """Mean E2E of BLIS against our replay of it, %. If it is not 0, this BLIS has another physics than we know. None
    where the client gave requests up: our replay of BLIS does not."""
    before_what: str = ""
    """What BLIS read before: a file, or what it ships."""
    cost: FormCost | None = None


def find_blis(given: Path | None = None) -> Path:
    """Return the given `blis` binary, or the one on PATH. Raises InputError if there is none."""
    if given is not None:
        if not is_file(given) or not os.access(given, os.X_OK):
            raise InputError(f"{given}: no executable file")
        return given.resolve()
    on_path = shutil.which("blis")
    if on_path is None:
        raise InputError("blis: not on PATH; build it from github.com/inference-sim/inference-sim or give its path")
    return Path(on_path)


def verify(
    run: Run,
    deployment: BlisDeployment,
    export: BlisExport,
    blis: Path,
    defaults: Path | None = None,
    timeout_s: float = TIMEOUT_S,
    model_config_folder: Path | None = None,
    native: Calibration | None = None,
) -> Verification:
    """Run BLIS on `run` without and with `export`, and compare both with the measured latencies.

    `defaults` is the file that the export goes into; BLIS before is `before_export` of it. The model's `config.json`
    comes from `model_config_folder`, or from ours if that is None. `native` is our own calibration of the deployment,
    to say what BLIS's form costs. Raises InputError for a run of another deployment, and BlisFailedError if BLIS does
    not run with our coefficients.
    """
    check_belongs(export, run)
    config_folder = model_config_folder or config_of(export).parent
    with temporary_folder("roofml-verify-") as folder:
        files = write_trace(run, folder)
        hardware = edit_hardware(folder / "hardware_config.json", export.model.gpu, deployment.hardware)
        was, ours = folder / "before.yaml", folder / "defaults.yaml"
        read = before_export(defaults)
        write_file(was, read.text)
        if defaults is not None and is_file(defaults):
            write_file(ours, read_text(defaults))
        write_edits([hardware, export.edit(ours, replace=True)], backup=False)
        flags = [*export.server_flags(), "--model-config-folder", str(config_folder.resolve())]
        flags += ["--hardware-config", str(folder / "hardware_config.json"), "--horizon", str(HORIZON_US)]
        before, problem = None, ""
        try:
            before = _check(run, files, blis, [*flags, "--defaults-filepath", str(was)], folder / "before", timeout_s)
        except BlisFailedError as error:
            problem = str(error)
        after = _check(run, files, blis, [*flags, "--defaults-filepath", str(ours)], folder / "after", timeout_s)
    drift = None
    if not math.isfinite(run.deadline_us):
        expected = replay_blis(as_replayed(run), deployment, export.coefficients.alphas, export.coefficients.betas)
        drift = 100 * (after.mean_e2e_us / float(np.nanmean(expected.e2e_us[run.ok])) - 1)
    return Verification(before, problem, after, drift, read.what, form_cost(run, deployment, export, native))


def _check(run: Run, files: TraceFiles, blis: Path, flags: Sequence[str], folder: Path, timeout_s: float) -> Check:
    folder.mkdir()
    results, report = folder / "results.json", folder / "report.json"
    header = ["--trace-header", str(files.header)]
    call(
        [str(blis), "replay", *header, "--trace-data", str(files.replay), "--results-path", str(results), *flags],
        timeout_s,
    )
    call(
        [str(blis), "calibrate", *header, "--trace-data", str(files.judge), "--sim-results", str(results), "--report",
         str(report)],
        timeout_s,
    )  # fmt: skip
    ttft, e2e = parse_results(results, run)
    errors = errors_of(run, ttft, e2e)
    return Check(
        requests=errors.requests,
        missing=int(run.ok.sum()) - errors.requests,
        e2e_pct=errors.e2e_pct,
        ttft_pct=errors.ttft_pct,
        tpot_pct=errors.tpot_pct,
        grades=parse_report(report),
        mean_e2e_us=float(np.nanmean(e2e[run.ok])),
    )


def call(command: Sequence[str], timeout_s: float) -> str:
    """Run a command and return its standard output. Nothing it started outlives the call.

    Raises BlisFailedError for a time-out or a failure.
    """
    name = f"{Path(command[0]).name} {command[1]}"
    try:
        done = run_to_end(command, timeout_s)
    except subprocess.TimeoutExpired:
        raise BlisFailedError(f"{name}: not done after {timeout_s:g} s") from None
    except OSError as error:
        raise BlisFailedError(f"{name}: cannot be run: {error.strerror or error}") from None
    if done.returncode != 0:
        raise BlisFailedError(f"{name}: exit code {done.returncode}: {_reason(done.stderr or done.stdout)}")
    return done.stdout


def _reason(output: str) -> str:
    """Return the line of BLIS's log that says what went wrong: its first error or panic, or else the last line."""
    lines = [for_line(line) for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "level=fatal" in line or "level=error" in line or line.startswith("panic:")]
    reason = (errors or lines[-1:] or ["it said nothing"])[0]
    return reason if len(reason) <= 400 else f"{reason[:400]}..."


def _read_json(path: Path, content: str) -> Any:
    try:
        return read_json(path, MOST_BYTES_OF_A_TABLE)
    except InputError as error:
        raise BlisFailedError(f"blis: no readable {content} was written: {error}") from None


def parse_results(path: Path, run: Run) -> tuple[Floats, Floats]:
    """Read TTFT and E2E, µs, from a file of `blis replay --results-path`: (requests,), NaN for a request not in it.

    Raises BlisFailedError for a file that is missing or malformed.
    """
    loaded = _read_json(path, "results")
    if not isinstance(loaded, list):
        raise BlisFailedError("blis replay: results: expected a list of requests")
    row_of = {int(number): row for row, number in enumerate(run.request_id)}
    ttft, e2e = np.full(len(run), np.nan), np.full(len(run), np.nan)
    for entry in cast("list[Any]", loaded):
        try:
            row = row_of.get(int(entry["request_id"]))
            latencies = float(entry["ttft_us"]), float(entry["e2e_us"])
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise BlisFailedError(f"blis replay: results: a request without {error}") from None
        if row is not None:
            ttft[row], e2e[row] = latencies
    return ttft, e2e


def parse_report(path: Path) -> dict[str, Grade]:
    """Read the grades by metric (ttft, e2e and, if there is one, itl) from a report of `blis calibrate`.

    Raises BlisFailedError for a report that is missing or malformed.
    """
    loaded = _read_json(path, "report")
    try:
        metrics = loaded["metrics"]
        return {
            name: Grade(
                100 * float(metric["request_level"]["mape"]),
                float(metric["request_level"]["pearson_r"]),
                str(metric["request_level"]["quality"]),
            )
            for name, metric in metrics.items()
        }
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise BlisFailedError(f"blis calibrate: report without {error}") from None


def verify_export(
    export: BlisExport,
    run_path: Path,
    binary: Path,
    defaults: Path | None,
    timeout_s: float,
    coeffs: Path | None = None,
) -> Verification:
    """Read a run and run BLIS on it, with what it read before and with the export, which is of the file `coeffs`.

    Raises InputError for a run of another deployment.
    """
    run = read_run(run_path).on(export.model.gpu)
    check_belongs(export, run)
    native = None
    with suppress(InputError):  # a file of older kernel tables says what BLIS needs all the same
        native = load(coeffs) if coeffs is not None else None
    return verify(run, blis_deployment_of(run), export, binary, defaults, timeout_s, native=native)
