"""Checking a catalogue: does each deployment's calibration still hold on new runs of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from roofml.calibration.calibrate import calibration_of
from roofml.catalog.candidate_runs import Source, runs_of, told
from roofml.catalog.catalog import Catalog
from roofml.catalog.discovery import candidates
from roofml.catalog.index import Failure, Row
from roofml.catalog.key import Key
from roofml.jobs.places import Place
from roofml.latency.deployment import deployment_of
from roofml.planning.drift import Drift, check
from roofml.traces.server import ServerOverrides
from roofml.util.display import Shown, Table
from roofml.util.errors import InputError
from roofml.util.outside_text import for_line


@dataclass(frozen=True, eq=False)
class CheckedRun:
    """One new run, by its deployment's calibration."""

    folder: str
    deployment: str
    drift: Drift


@dataclass(frozen=True, eq=False, repr=False)
class CheckedCatalog(Shown):
    """Verdicts of new runs."""

    catalog: str
    runs: Sequence[CheckedRun]
    unchecked: Sequence[Failure]
    """What could not be checked, and why: no calibration of its deployment, too short, not readable."""

    def fails(self, above_pct: float | None = None) -> bool:
        """Whether to act: a verdict fails as `roofml check` has it, or nothing could be checked."""
        return not self.runs or any(run.drift.fails(above_pct) for run in self.runs)

    @property
    def counts(self) -> dict[str, int]:
        """Runs by verdict."""
        return dict(sorted(Counter(run.drift.verdict for run in self.runs).items()))

    @property
    def sentence(self) -> str:
        """How many of which verdict."""
        said = ", ".join(f"{count} {verdict}" for verdict, count in self.counts.items()) or "no run checked"
        return f"{said}; {len(self.unchecked)} not checked" if self.unchecked else said

    def tables(self) -> list[Table]:
        """The runs, those that need something done first, and what was not checked."""
        ordered = sorted(self.runs, key=lambda run: (run.drift.verdict == "holds", run.folder, run.drift.run))
        rows = [
            [_named(run.folder, run.drift.run), run.deployment, run.drift.verdict, _change(run.drift)]
            for run in ordered
        ]
        shown = [Table("", ["run", "deployment", "verdict", "steps longer by"], rows, self.sentence)] if rows else []
        if self.unchecked:
            listed = [[_named(each.folder, each.run), each.reason] for each in self.unchecked]
            shown.append(Table("not checked", ["what", "reason"], listed))
        return shown

    def markdown(self) -> str:
        """A summary for a nightly job's page."""
        lines = [f"# {_cell(self.catalog)}: {self.sentence}", ""]
        if self.runs:
            lines += ["| run | deployment | verdict | steps longer by | what to do |", "|---|---|---|---|---|"]
            ordered = sorted(self.runs, key=lambda run: (run.drift.verdict == "holds", run.folder, run.drift.run))
            for run in ordered:
                said = " ".join((*run.drift.reasons, run.drift.advice)).strip()
                cells = (_named(run.folder, run.drift.run), run.deployment, run.drift.verdict, _change(run.drift), said)
                lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
            lines.append("")
        if self.unchecked:
            lines += ["## Not checked", "", "| what | reason |", "|---|---|"]
            lines += [f"| {_cell(_named(e.folder, e.run))} | {_cell(e.reason)} |" for e in self.unchecked]
            lines.append("")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """As `roofml catalog check --json` prints it."""
        return {
            "catalog": self.catalog,
            "verdicts": self.counts,
            "runs": [{"folder": run.folder, "deployment": run.deployment, **run.drift.to_dict()} for run in self.runs],
            "not_checked": [
                {"folder": each.folder, "run": each.run or None, "reason": each.reason} for each in self.unchecked
            ],
        }


def check_catalog(catalog: Catalog, place: Place, overrides: ServerOverrides) -> CheckedCatalog:
    """Check every run below a place by the calibration of its deployment.

    Raises InputError where the place cannot be listed. What cannot be checked is listed, and ends nothing.
    """
    by_key = {row.key: row for row in catalog.rows}
    checked: list[CheckedRun] = []
    unchecked: list[Failure] = []
    for candidate in candidates(place):
        if candidate.problem:
            unchecked.append(Failure(candidate.folder, "", "read", candidate.problem))
            continue
        source = Source.of(place, candidate)
        found = told(source, overrides)
        unchecked += [Failure(candidate.folder, each["run"] or "", "read", each["reason"]) for each in found["refused"]]
        for run in found["runs"]:
            row = by_key.get(Key.of_dict(run["key"]).sha256)
            if row is None:
                reason = f"no calibration of its deployment, {_deployment(run)}: `roofml catalog fit` makes one"
                unchecked.append(Failure(candidate.folder, run["name"], "check", reason))
                continue
            try:
                checked.append(CheckedRun(candidate.folder, row.name, _drift(catalog, row, source, overrides, run)))
            except InputError as error:
                unchecked.append(Failure(candidate.folder, run["name"], "check", for_line(str(error))))
    return CheckedCatalog(catalog.place.shown, checked, unchecked)


def _drift(catalog: Catalog, row: Row, source: Source, overrides: ServerOverrides, run: dict[str, Any]) -> Drift:
    """The verdict of one run. Raises InputError for one that says too little."""
    read, path = catalog.coefficients(row)
    (new,) = runs_of(source, overrides, [run], {"model": row.hf_repo})
    return check(calibration_of(read, path, deployment_of([new])), new)


def _deployment(run: dict[str, Any]) -> str:
    key = run["key"]
    version = key["engine_version"] or "of a version not said"
    return f"{run['model']} on {key['tp']} x {key['gpu']} by {key['engine']} {version}"


def _named(folder: str, run: str) -> str:
    """A run with its folder, unless that is called so."""
    return folder if not run or folder == run or folder.endswith(f"/{run}") else f"{folder} {run}"


def _change(drift: Drift) -> str:
    if drift.value_pct is None or drift.interval_90_pct is None:
        return "-"
    low, high = drift.interval_90_pct
    return f"{drift.value_pct:+.2f} % ({low:+.2f} to {high:+.2f})"


def _cell(text: str) -> str:
    """A text that stays in its cell of a Markdown table, and is no markup."""
    safe = for_line(text).replace("\\", "\\\\").replace("|", "\\|")
    return safe.replace("<", "&lt;").replace("[", "\\[").replace("`", "'")
