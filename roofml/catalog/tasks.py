"""Tasks: what workers do. Each is a function of plain data to plain data, and what it refuses is a result too.

A task costs nobody else anything: its reason comes back in place of its result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

from roofml.catalog.candidate_runs import Source
from roofml.traces.server import ServerOverrides
from roofml.util.digest import digest
from roofml.util.errors import InputError, JobFailedError

Stage = Literal["read", "evidence", "fit"]
VERSION = 1
"""Of what results mean: another one makes none of those that are kept count."""


@dataclass(frozen=True)
class Task:
    """One piece of work, as plain data."""

    stage: Stage
    sources: tuple[Source, ...]
    overrides: ServerOverrides
    runs: tuple[tuple[dict[str, Any], ...], ...] = ()
    """Of each source those that are fitted: name and identity."""
    server: Mapping[str, Any] | None = None
    """Fields of `Server` that all runs have the same, whatever each calls them."""
    prior: Mapping[str, Any] | None = None
    accept_misfit: bool = False
    blis: bool = False
    """Whether BLIS's own form is fitted too."""

    def key(self, signatures: Sequence[str] = ()) -> str:
        """A digest of all that its result depends on: `signatures` of files where no run's identity stands for them."""
        parts = [f"{VERSION}", self.stage, code_digest(), *signatures]
        if self.stage == "read":
            parts += [repr(sorted(asdict(self.overrides).items(), key=str)), *(s.folder for s in self.sources)]
        else:
            facts = (self.runs, self.server, self.prior, self.accept_misfit, self.blis)
            parts += [repr(sorted(asdict(self.overrides).items(), key=str)), repr(facts)]
        return digest(*parts)


def done(task: Task, code: str) -> dict[str, Any]:
    """Do a task. A reason in place of what it refuses; `code` is the digest of the code that asks for it.

    A result of other code is none: it says so instead.
    """
    if code_digest() != code:
        return {"other_code": code_digest()}
    try:
        return {"result": _done(task)}
    except (InputError, JobFailedError) as error:
        return {"result": {"failed": str(error)}}
    except Exception as error:  # a fault of ours in one deployment is no reason to lose the others
        return {"result": {"failed": f"{type(error).__name__}: {error or 'no message'}"}}


def _done(task: Task) -> dict[str, Any]:
    from roofml.catalog.candidate_runs import runs_of, told

    if task.stage == "read":
        (source,) = task.sources
        return told(source, task.overrides)
    from roofml.catalog.judged import evidence_of, judged_fit

    runs = [
        run
        for source, wanted in zip(task.sources, task.runs, strict=True)
        for run in runs_of(source, task.overrides, wanted, task.server or {})
    ]
    if task.stage == "evidence":
        return {"member": evidence_of(runs)}
    return judged_fit(runs, task.prior, accept_misfit=task.accept_misfit, blis=task.blis)


NO_RESULT = (
    "cli",
    "data",
    "export",
    "jobs/cluster.py",
    "jobs/kept.py",
    "jobs/work.py",
    "microbench",
    "planning",
    "models/hub.py",
    "validation/demo.py",
    "validation/leaderboard",
    "validation/points",
    "latency/inspection.py",
    "calibration/identifiability.py",
    "calibration/experiment_design.py",
    "catalog/catalog.py",
    "catalog/check.py",
    "catalog/index.py",
    "catalog/made.py",
    "catalog/making.py",
    "catalog/names.py",
    "catalog/nearest.py",
    "catalog/page.py",
    "catalog/using.py",
)
"""Parts of the package that no result comes from: a change of them leaves kept results good."""


@cache
def code_digest() -> str:
    """A digest of the code and data that results come from: workers must have the same, whatever their version says."""
    import hashlib
    from pathlib import Path

    from roofml.util.package_data import data_folder
    from roofml.util.source_digest import add_files

    package = Path(__file__).resolve().parents[1]
    sha = hashlib.sha256()
    data = [data_folder(name) for name in ("bench_data", "hardware", "model_configs")]
    others = data_folder("coeffs") / "global.yaml"
    add_files(sha, (package, *data), {package / name for name in NO_RESULT})
    sha.update(others.read_bytes())
    return sha.hexdigest()[:20]
