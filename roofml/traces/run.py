"""Run: one served workload as arrays, whatever tool recorded it; and how runs of one name are told apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePath
from typing import Any, ClassVar, Protocol, Self, TypeVar

import numpy as np

from roofml.traces.finding import Finding
from roofml.traces.overview import Overview
from roofml.traces.server import Server, flags_for
from roofml.util.arrays import Bools, Floats, Ints
from roofml.util.digest import digest
from roofml.util.display import Shown, Table

NOT_COUNTED = np.zeros(0, np.int64)
OPTIONAL = ("counted_tokens", "late", "priority", "pause_us", "stage", "kv_tokens", "kv_block_us", "kv_latency_us")
"""Columns of a run that may be empty."""


@dataclass(frozen=True, eq=False, repr=False)
class Run(Shown):
    """Requests of one run in order of arrival. Every array has shape (requests,).

    Two requests with the same `prefix_group` (>= 0) share their first `min(prefix_tokens)` prompt tokens; a
    repeated prompt is a group whose `prefix_tokens` is the whole prompt. -1 shares with nobody.
    """

    name: str
    """Name of the folder or file it was read from, for display. Runs may share it; `identity` tells them apart."""
    server: Server
    request_id: Ints
    arrival_us: Floats
    """When the client sent the request, µs from the run's first send; ascending."""
    prompt_tokens: Ints
    output_tokens: Ints
    prefix_group: Ints
    prefix_tokens: Ints
    ttft_us: Floats
    """First chunk minus send, µs; NaN where `ok` is False."""
    e2e_us: Floats
    """Last chunk minus send, µs; NaN where `ok` is False."""
    ok: Bools
    """Requests to measure; the others only load the server."""
    findings: tuple[Finding, ...] = ()
    """What the doctor found, and what it corrected."""
    saturated: bool = False
    """The queue grew until the end: predict this run, do not tune on it alone."""
    counted_tokens: Ints = field(default_factory=lambda: NOT_COUNTED)
    """Output tokens as the client counted them, before any correction; empty if it did not."""
    source: str = ""
    """Path it was read from; empty for a run made in memory."""
    deadline_us: float = math.inf
    """After how long the client gives a request up that has no answer yet; infinite if it never does."""
    late: Bools = field(default_factory=lambda: NOT_COUNTED.astype(np.bool_))
    """Requests that the client did give up, which have no latency; empty if it gave up none."""
    priority: Ints = field(default_factory=lambda: NOT_COUNTED)
    """Lower numbers first, where the server's policy is `priority`; empty if all are equal."""
    stage: Ints = field(default_factory=lambda: NOT_COUNTED)
    """The stage of the generator's plan that each request is of, from 0; empty if no plan is known."""
    clients: int = 0
    """Of a closed loop: each sends its next request when its last one is answered, and `arrival_us` is read of the
    first so many alone. 0: requests arrived when `arrival_us` says."""
    goes_on: bool = False
    """The load went on when the recording ends: more requests were planned, at a rate that was kept until there."""
    shares_answers: bool = False
    """Of sessions, whose next prompt holds the answer too: `prefix_tokens` may go beyond the prompt into it."""
    pause_us: Floats = field(default_factory=lambda: NOT_COUNTED.astype(np.float64))
    """Of a closed loop, how long its client waits after an answer before it sends this request; empty: not at all."""
    kv_tokens: Ints = field(default_factory=lambda: NOT_COUNTED)
    """Tokens of the start of each prompt that another server computed and sends; empty: all are computed here."""
    kv_block_us: Floats = field(default_factory=lambda: NOT_COUNTED.astype(np.float64))
    """How long the link takes for a block of them, µs."""
    kv_latency_us: Floats = field(default_factory=lambda: NOT_COUNTED.astype(np.float64))
    """How long a transfer takes beside that, µs."""
    overview: Overview | None = None
    """What its file says of it as a whole; None of a run made in memory."""
    identity: str = ""
    """A digest of the measurements. What a fit learns about a server is stored under it, not under the name."""

    def __post_init__(self) -> None:
        """Derive the identity of a run made in memory from its arrays."""
        if not self.identity:
            arrays = (self.arrival_us, self.prompt_tokens, self.output_tokens, self.ttft_us, self.e2e_us, self.ok)
            object.__setattr__(self, "identity", digest(*arrays))

    def __len__(self) -> int:
        return len(self.arrival_us)

    @property
    def tpot_us(self) -> Floats:
        """Mean time per output token after the first, µs; NaN with fewer than two output tokens."""
        gaps = np.where(self.output_tokens > 1, self.output_tokens - 1, np.nan)
        return (self.e2e_us - self.ttft_us) / gaps

    def take(self, chosen: Bools) -> Self:
        """The `chosen` requests, shape (requests,), of the same recording; time begins with the first of them."""
        if chosen.all():
            return self
        arrival = self.arrival_us[chosen]
        columns = ("request_id", "prompt_tokens", "output_tokens", "prefix_group", "prefix_tokens")
        columns += ("ttft_us", "e2e_us", "ok", *(name for name in OPTIONAL if len(getattr(self, name))))
        arrays = {name: getattr(self, name)[chosen] for name in columns}
        return replace(self, arrival_us=arrival - arrival[:1], **arrays)

    def on(self, gpu: str) -> Self:
        """The run on `gpu`, unless its files or the user named a GPU."""
        return self if self.server.gpu is not None else replace(self, server=replace(self.server, gpu=gpu))

    def tables(self) -> list[Table]:
        """A table of a few lines that describes the run."""
        server = self.server
        rows = [
            ["model", server.model or "not said"],
            ["GPU, TP", f"{server.gpu or 'not said'}, {tp_said(server)}"],
            ["requests", f"{len(self)}, {int(self.ok.sum())} to measure"],
            ["saturated", "yes" if self.saturated else "no"],
            *([finding.severity, finding.summary] for finding in self.findings),
        ]
        return [Table(self.name, ["run", ""], rows)]

    @property
    def headline(self) -> str:
        """What ran, and how many requests, in a line."""
        return f"{served_by(self.server)}; {len(self)} requests, {int(self.ok.sum())} to measure"

    @property
    def reservations(self) -> list[str]:
        """What stands in the way of using it: what nobody says, and why no fit may see it."""
        unfit = self.overview.unfit if self.overview is not None else None
        return [*(missing_of(self.server)), *([f"cannot be fitted on: {unfit}"] if unfit else [])]

    @property
    def means(self) -> dict[str, float | None]:
        """Mean TTFT, TPOT and E2E, µs, of the requests to measure, or as the file has them where it knows better.

        None where neither says.
        """
        said = self.overview.means if self.overview is not None else dict[str, float]()
        found: dict[str, float | None] = {}
        for kind, values in (("ttft", self.ttft_us), ("tpot", self.tpot_us), ("e2e", self.e2e_us)):
            measured = values[self.ok & np.isfinite(values)]
            own = float(measured.mean()) if len(measured) else None
            found[f"mean_{kind}_us"] = said.get(f"{kind}_mean", own)
        return found

    def to_dict(self) -> dict[str, Any]:
        """The run as `roofml doctor --json` prints it. Times in µs."""
        told = self.overview
        return {
            "run": self.name,
            "format": told.format if told is not None else None,
            **server_said(self.server),
            "requests": told.requests if told is not None else len(self),
            "completed": told.completed if told is not None else int(self.ok.sum()),
            "measured": int(self.ok.sum()),
            **self.means,
            "saturated": self.saturated,
            "unfit": told.unfit if told is not None else None,
            "deadline_us": self.deadline_us if math.isfinite(self.deadline_us) else None,
            "findings": [asdict(finding) for finding in self.findings],
        }


def served_by(server: Server) -> str:
    """Model, tensor parallel size and GPU, for people."""
    return f"{server.model or 'model not said'}, TP {tp_said(server)}, GPU {server.gpu or 'not said'}"


def missing_of(server: Server) -> list[str]:
    """One line that says which facts of a server commands that compute will ask for; none if they have all."""
    if not server.missing:
        return []
    wanted = [*server.missing, *(["gpu"] if server.gpu is None else [])]
    return [f"nobody says {', '.join(wanted)}; to compute, give {flags_for(wanted)}"]


def tp_said(server: Server) -> str:
    """The tensor parallel size, for people."""
    return "not said" if "tensor_parallel" in server.missing else str(server.tensor_parallel)


def server_said(server: Server) -> dict[str, Any]:
    """What is known of a run's server, as `roofml doctor --json` prints it: null where nobody says, and listed."""
    facts = {name: value for name, value in asdict(server).items() if name not in ("missing", "said_by")}
    facts |= dict.fromkeys(server.missing)
    wanted = [*server.missing, *(name for name in ("gpu", "engine_version") if facts[name] is None)]
    return {
        "model": facts["model"],
        "gpu": facts["gpu"],
        "tp": facts["tensor_parallel"],
        "server": facts,
        "said_by": dict(server.said_by),
        "missing": wanted,
    }


class _Named(Protocol):
    """What `told_apart` needs of a run."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str: ...


Named = TypeVar("Named", bound=_Named)


def told_apart(runs: Sequence[Named]) -> list[Named]:
    """The runs, each with a unique name: runs that share a name get as many parent folders before it as they need.

    Runs that their folders do not tell apart either are numbered: `run`, `run#2`, ...
    """
    names = [run.name for run in runs]
    folders = [PurePath(run.source).parts[1:-1][::-1] for run in runs]
    for depth in range(max(map(len, folders), default=0)):
        if len(set(names)) == len(names):
            break
        names = [
            f"{parents[depth]}/{name}" if names.count(name) > 1 and depth < len(parents) else name
            for name, parents in zip(names, folders, strict=True)
        ]
    used: set[str] = set()
    result: list[Named] = []
    for run, name in zip(runs, names, strict=True):
        unique, number = name, 1
        while unique in used or (number > 1 and unique in names):
            number += 1
            unique = f"{name}#{number}"
        used.add(unique)
        result.append(run if unique == run.name else replace(run, name=unique))
    return result
