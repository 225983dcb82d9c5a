"""Making a catalogue: runs found, read, grouped by deployment, fitted, pooled, fitted again with that, and written.

Each stage is a set of tasks, done by a cluster or known from before. What is written is made of their results alone, in
an order of its own: the bytes do not depend on the number of workers, on who ended first, or on interruptions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from roofml.calibration.other_models import OtherModels, SavedPosterior, pooled_text
from roofml.catalog.candidate_runs import Source
from roofml.catalog.discovery import Candidate, candidates
from roofml.catalog.index import Failure, Row, failures_text, index_bytes, read_index, row_of
from roofml.catalog.judged import prior_document
from roofml.catalog.key import Key, file_names
from roofml.catalog.made import Made
from roofml.catalog.names import COEFFS, FAILURES, GLOBAL, INDEX, PAGE, global_name
from roofml.catalog.page import page
from roofml.catalog.tasks import Stage, Task, code_digest, done
from roofml.hardware.gpu import load_gpu
from roofml.jobs.cluster import Wanted, check_installed
from roofml.jobs.kept import FOLDER, Kept
from roofml.jobs.places import Place, below, listing
from roofml.jobs.work import Work
from roofml.latency.parameters import NAMES
from roofml.traces.run import told_apart
from roofml.traces.server import ServerOverrides
from roofml.util.errors import InputError
from roofml.util.outside_text import for_line

STAGES: Mapping[Stage, str] = {"read": "reading runs", "evidence": "fitting", "fit": "fitting with what others say"}

OnProgress = Callable[[str, int, int], None]
"""Called with a stage, and how many of its tasks are done of how many."""


@dataclass(frozen=True)
class Request:
    """What a command line asks for."""

    runs: Place
    output: Place
    overrides: ServerOverrides
    cluster: Wanted
    accept_misfit: bool = False
    blis: bool = False
    """Whether BLIS's own form is fitted too."""


@dataclass(frozen=True)
class Group:
    """The runs of one deployment, in the order of their folders."""

    key: Key
    model: str
    server: Mapping[str, Any]
    """Fields of `Server` that all of them get, for people call one thing by several names."""
    members: tuple[tuple[Source, tuple[dict[str, Any], ...]], ...]
    """Sources, and of each the runs as `candidate_runs.told` has them."""

    @property
    def runs(self) -> list[dict[str, Any]]:
        """All runs."""
        return [run for _, runs in self.members for run in runs]

    def fit(self, request: Request, prior: Mapping[str, Any] | None) -> Task:
        """A fit of them with what others say."""
        accept, blis = request.accept_misfit, request.blis
        return replace(self.evidence(request), stage="fit", prior=prior, accept_misfit=accept, blis=blis)

    def evidence(self, request: Request) -> Task:
        """A fit of them by itself."""
        wanted = tuple(
            tuple({"name": run["name"], "content": run["content"]} for run in runs) for _, runs in self.members
        )
        return Task("evidence", tuple(s for s, _ in self.members), request.overrides, wanted, self.server)


@dataclass(frozen=True)
class _Stages:
    """The work by stages, for people."""

    work: Work[Task]
    request: Request
    on_progress: OnProgress

    def results(self, stage: Stage, tasks: Mapping[str, Task], lasting: bool = True) -> dict[str, dict[str, Any]]:
        """Key -> result of every task."""
        ended = 0

        def count(_key: str, _known: bool) -> None:
            nonlocal ended
            ended += 1
            self.on_progress(STAGES[stage], ended, len(tasks))

        self.on_progress(STAGES[stage], 0, len(tasks))
        return self.work.results(tasks, count, lasting=lasting)


def make(request: Request, on_progress: OnProgress, on_cluster: Callable[[str], None]) -> Made:
    """Make the catalogue, or bring it up to date. `on_cluster` is called with the address of Dask's page.

    Raises InputError where no run below the place can be used, and JobFailedError where the cluster goes away: what was
    computed until then is kept, and the same call goes on.
    """
    check_installed("roofml catalog fit")
    inside = below(request.output, request.runs)
    if inside == ".":
        raise InputError(f"{request.output.shown}: is the folder of the runs, expected another")
    found = candidates(request.runs, inside)
    request.output.check_writable()
    there = {entry.name for entry in listing(request.output)}
    if there and INDEX not in there and not any(name.startswith(f"{FOLDER}/") for name in there):
        raise InputError(f"{request.output.shown}: holds other files and no catalogue, expected a new or empty folder")
    before = read_index(request.output, INDEX) if INDEX in there else []
    with ExitStack() as stack:
        kept = Kept.at(request.output, there)
        work = Work(kept, done, code_digest(), request.cluster, stack, on_cluster)
        stages = _Stages(work, request, on_progress)
        told, failures = _read(stages, found)
        groups, more = grouped(told)
        failures += more
        if not groups:
            first = failures[0] if failures else None
            why = "no run" if first is None else f"{first.folder}: {first.reason}"
            raise InputError(f"{request.runs.shown}: nothing can be used of {len(found)} folders: {why}")
        members, unpooled = _evidence(stages, groups)
        pooled = {gpu: _pooled(gpu, of_gpu) for gpu, of_gpu in _by_gpu(groups, members).items()}
        rows, coefficients = _fits(stages, groups, pooled, failures, before)
    written = {row.key for row in rows}
    failures += [failure for key, failure in unpooled.items() if key.sha256 in written]
    ordered = sorted(failures)
    files = {
        **{f"{COEFFS}/{name}.yaml": text.encode() for name, text in coefficients.items()},
        **{global_name(gpu): _global_text(others).encode() for gpu, others in pooled.items()},
        FAILURES: failures_text(ordered).encode(),
        PAGE: page(rows, ordered).encode(),
    }
    _write(request.output, files, there)
    request.output.write(INDEX, index_bytes(rows))  # last: until it is there, the catalogue is the one before
    _clear(request.output, {*files, INDEX}, there)
    kept.clear(work.used)
    return Made(request.output.shown, rows, ordered, work.computed)


def _read(stages: _Stages, found: Sequence[Candidate]) -> tuple[list[tuple[Source, dict[str, Any]]], list[Failure]]:
    """Every run of all candidates with its source, and what cannot be used."""
    failures = [Failure(each.folder, "", "read", each.problem) for each in found if each.problem]
    usable = [each for each in found if not each.problem]
    tasks: dict[str, Task] = {}
    changing: dict[str, Task] = {}
    by_key: dict[str, Candidate] = {}
    for candidate in usable:
        task = Task("read", (Source.of(stages.request.runs, candidate),), stages.request.overrides)
        signature = candidate.signature
        key = task.key([signature or ""])
        by_key[key] = candidate
        (tasks if signature is not None else changing)[key] = task
    results = {**stages.results("read", tasks), **(stages.results("read", changing, lasting=False) if changing else {})}
    told: list[tuple[Source, dict[str, Any]]] = []
    for key, candidate in by_key.items():
        result = results[key]
        if "failed" in result:
            failures.append(Failure(candidate.folder, "", "read", result["failed"]))
            continue
        failures += [Failure(candidate.folder, r["run"] or "", "read", r["reason"]) for r in result["refused"]]
        told += [(Source.of(stages.request.runs, candidate), run) for run in result["runs"]]
    return told, failures


def grouped(told: Sequence[tuple[Source, dict[str, Any]]]) -> tuple[list[Group], list[Failure]]:
    """The runs by deployment, in the order of the keys; a recording that is there twice counts once."""
    first: dict[str, str] = {}
    failures: list[Failure] = []
    by_key: dict[Key, list[tuple[Source, dict[str, Any]]]] = {}
    for source, run in told:
        here = f"{source.folder}/{run['name']}"
        if run["identity"] in first:
            reason = f"the same recording as {first[run['identity']]}, number by number: counted once"
            failures.append(Failure(source.folder, run["name"], "read", reason))
            continue
        first[run["identity"]] = here
        by_key.setdefault(Key.of_dict(run["key"]), []).append((source, run))
    return [_group(key, pairs) for key, pairs in sorted(by_key.items())], failures


@dataclass(frozen=True)
class _Named:
    """A run's name and folder, as `told_apart` takes them."""

    name: str
    source: str


def _group(key: Key, pairs: Sequence[tuple[Source, dict[str, Any]]]) -> Group:
    repo = min(run["hf_repo"] for _, run in pairs)
    model = next(run["model"] for _, run in pairs if run["hf_repo"] == repo)
    server = {"model": repo, "gpu": min(run["gpu_said"] for _, run in pairs)}
    if key.engine_version:
        server["engine_version"] = min(run["engine_version_said"] for _, run in pairs)
    server["kv_dtype"] = min((run["kv_said"] for _, run in pairs), key=str)
    names = told_apart([_Named(run["name"], f"/{source.folder}/run") for source, run in pairs])
    by_source: dict[Source, list[dict[str, Any]]] = {}
    for (source, run), named in zip(pairs, names, strict=True):
        by_source.setdefault(source, []).append({**run, "name": for_line(named.name)})
    return Group(key, model, server, tuple((source, tuple(runs)) for source, runs in by_source.items()))


def _evidence(stages: _Stages, groups: Sequence[Group]) -> tuple[dict[Key, SavedPosterior], dict[Key, Failure]]:
    """What each deployment's own fit says, and why nothing is said by those whose fit does not describe their runs."""
    tasks = {group.key: group.evidence(stages.request) for group in groups}
    keys = {key: task.key() for key, task in tasks.items()}
    results = stages.results("evidence", {keys[key]: task for key, task in tasks.items()})
    members: dict[Key, SavedPosterior] = {}
    failures: dict[Key, Failure] = {}
    for group in groups:
        result = results[keys[group.key]]
        if "failed" in result:
            reason = f"left out of what others learn from: {result['failed']}"
            failures[group.key] = Failure(group.members[0][0].folder, "", "pool", reason)
        else:
            members[group.key] = SavedPosterior.model_validate(result["member"])
    return members, failures


def _by_gpu(
    groups: Sequence[Group], members: Mapping[Key, SavedPosterior]
) -> dict[str, list[tuple[Key, SavedPosterior]]]:
    found: dict[str, list[tuple[Key, SavedPosterior]]] = {}
    for group in groups:
        if group.key in members:
            found.setdefault(group.key.gpu, []).append((group.key, members[group.key]))
    return found


def _pooled(gpu: str, of_gpu: Sequence[tuple[Key, SavedPosterior]]) -> OtherModels:
    """What the fits on a GPU say together: of each model and tensor parallel size one deployment's.

    That is one with usual settings, the newest version and the most requests, in this order: others of the same model
    would count as more models.
    """
    chosen: dict[tuple[str, int], SavedPosterior] = {}
    for _, member in sorted(of_gpu, key=_standing):
        chosen[member.model.lower(), member.tensor_parallel] = member  # the last one has the best standing
    members = [chosen[name] for name in sorted(chosen)]
    return OtherModels(schema="roofml-global/1", gpu=gpu, parameters=list(NAMES), members=members)


def _standing(pair: tuple[Key, SavedPosterior]) -> tuple[Any, ...]:
    key, member = pair
    version = tuple(int(part) for part in key.engine_version.split(".")) if key.engine_version else ()
    return not key.settings, version, member.requests, key


def _global_text(others: OtherModels) -> str:
    return pooled_text(load_gpu(others.gpu), others.members)


def _fits(
    stages: _Stages,
    groups: Sequence[Group],
    pooled: Mapping[str, OtherModels],
    failures: list[Failure],
    before: Sequence[Row],
) -> tuple[list[Row], dict[str, str]]:
    """The index's rows and the coefficients by file name, of every deployment whose fit describes its runs."""
    priors: dict[tuple[str, str, str], dict[str, Any] | None] = {}
    tasks: dict[Key, Task] = {}
    for group in groups:
        of_model = (group.key.gpu, group.key.config_sha256, group.model)
        if of_model not in priors:  # its other settings and sizes learn from the same
            priors[of_model] = _prior(group, pooled)
        tasks[group.key] = group.fit(stages.request, priors[of_model])
    keys = {key: task.key() for key, task in tasks.items()}
    results = stages.results("fit", {keys[key]: task for key, task in tasks.items()})
    names = file_names((group.key, group.model) for group in groups)
    earlier = {row.key: row for row in before}
    rows: list[Row] = []
    coefficients: dict[str, str] = {}
    for group in groups:
        result, name = results[keys[group.key]], names[group.key]
        if "failed" in result:
            failures += [Failure(source.folder, "", "fit", result["failed"], name) for source, _ in group.members]
            continue
        coefficients[name] = result["coefficients"]
        rows.append(row_of(group.key, group.model, name, group.runs, result, earlier.get(group.key.sha256)))
    return sorted(rows, key=lambda row: row.name), coefficients


def _prior(group: Group, pooled: Mapping[str, OtherModels]) -> dict[str, Any] | None:
    """What the catalogue's other models say of one; None, for what the package's say, where there are none."""
    others = pooled.get(group.key.gpu)
    if others is None:
        return None
    theirs = {m.model for m in others.members if m.config_sha256 != group.key.config_sha256 and m.model != group.model}
    if not theirs:
        return None
    source = f"package, sharpened by {len(theirs)} other model{'s' * (len(theirs) > 1)} of a catalogue"
    return prior_document(others.without(group.model, group.key.config_sha256), source)


def _write(output: Place, files: Mapping[str, bytes], there: set[str]) -> None:
    """Write what is new or other than what is there."""
    known = output.read_some(sorted(set(files) & there))
    for name, content in files.items():
        if known.get(name) != content:
            output.write(name, content)


def _clear(output: Place, written: set[str], there: set[str]) -> None:
    """Remove the coefficients of deployments that are not in the catalogue any more."""
    ours = {name for name in there if name.startswith((f"{COEFFS}/", GLOBAL)) and name.endswith(".yaml")}
    output.remove(sorted(ours - written))
