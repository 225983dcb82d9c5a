"""Server files: what lies beside a run, or is given alone, and says how its server was set.

A new kind is one file here and one row in `READERS`. What really ran weighs more than what was asked for: where two
files disagree, the one higher up in `READERS` is believed, and a finding says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from roofml.traces.finding import Finding
from roofml.traces.recording import Facts
from roofml.traces.server import alike
from roofml.traces.server_files import command_line, llmservingsim_meta, manifest, metrics, server_file, vllm_log
from roofml.traces.server_files.said import Said
from roofml.util.display import Shown, Table
from roofml.util.errors import InputError
from roofml.util.names import shown
from roofml.util.outside_text import for_line
from roofml.util.reading import is_folder, is_there


class Reader(NamedTuple):
    """How one kind of file is recognised and read."""

    detect: Callable[[Path], bool]
    facts: Callable[[Path], Said]


READERS: dict[str, Reader] = {
    "server file": Reader(server_file.detect, server_file.facts),
    "vLLM log": Reader(vllm_log.detect, vllm_log.facts),
    "LLMServingSim's meta.json": Reader(llmservingsim_meta.detect, llmservingsim_meta.facts),
    "/metrics": Reader(metrics.detect, metrics.facts),
    "manifest": Reader(manifest.detect, manifest.facts),
    "command line": Reader(command_line.detect, command_line.facts),
}
"""Kind -> reader, the one that weighs most first."""

NAMES_OF_VLLM = {
    "engine_version": "version",
    "tensor_parallel": "tensor_parallel_size",
    "prefix_caching": "enable_prefix_caching",
    "kv_dtype": "kv_cache_dtype",
}
"""Field of `Server` -> its name in a report, which is vLLM's."""
ALWAYS = (
    *("engine", "engine_version", "model", "gpu", "tensor_parallel", "pipeline_parallel_size", "data_parallel_size"),
    *("dtype", "quantization", "kv_dtype", "max_model_len", "max_num_seqs", "max_num_batched_tokens", "block_size"),
    *("num_gpu_blocks", "kv_cache_tokens", "kv_cache_requests", "prefix_caching", "async_scheduling"),
    *("cudagraph_capture_sizes", "attention_backend", "speculative_config"),
)
"""Fields that a report always has: null where nobody says."""
NEEDED = (
    *("model", "gpu", "engine_version", "tensor_parallel", "max_num_seqs", "max_num_batched_tokens", "block_size"),
    *("num_gpu_blocks", "max_model_len"),
)
"""Fields that a replay needs."""
MOST_FILES = 1_000
"""Files of one folder that are looked at."""


@dataclass(frozen=True, repr=False)
class ServerFiles(Shown):
    """What the files of one server say, with what they disagree about left to the one that weighs most."""

    facts: Mapping[str, Facts]
    """File name -> what it says, and what no weightier file contradicts."""
    findings: tuple[Finding, ...] = ()
    refused: str | None = None
    """Why no run of this server can be used."""
    hints: Mapping[str, Facts] = field(default_factory=dict[str, Facts])
    """File name -> what it says in passing: the name under which the model was served."""
    observed: Mapping[str, float | None] = field(default_factory=dict[str, "float | None"])
    """What the server counted and measured: requests, mean times in µs."""

    @property
    def merged(self) -> dict[str, object]:
        """Field -> value, of all files."""
        return {name: value for facts in reversed(list(self.facts.values())) for name, value in facts.items()}

    @property
    def said_by(self) -> dict[str, str]:
        """Field -> the file that says it."""
        return {name: file for file, facts in reversed(list(self.facts.items())) for name in facts}

    @property
    def missing(self) -> list[str]:
        """Fields that a replay needs and no file says."""
        return [name for name in NEEDED if name not in self.merged]

    @property
    def described(self) -> server_file.Described:
        """The server, to be written as a server file."""
        return server_file.Described(self.merged, self.said_by)

    def to_dict(self) -> dict[str, Any]:
        """The server as `roofml doctor --json` prints it, in vLLM's names; null where nobody says."""
        merged = self.merged
        values = {name: merged.get(name) for name in (*ALWAYS, *merged)}
        refused = {"refused": self.refused} if self.refused is not None else {}
        return {
            "files": list(self.facts),
            **{NAMES_OF_VLLM.get(name, name): _plain(value) for name, value in values.items()},
            "tp": merged.get("tensor_parallel"),
            **dict(self.observed),
            "said_by": {NAMES_OF_VLLM.get(name, name): file for name, file in self.said_by.items()},
            "missing": [NAMES_OF_VLLM.get(name, name) for name in self.missing],
            "findings": [asdict(finding) for finding in self.findings],
            **refused,
        }

    def tables(self) -> list[Table]:
        """A table of what is known, and which file says it."""
        merged, said_by = self.merged, self.said_by
        rows = [
            [NAMES_OF_VLLM.get(name, name), _short(merged[name]), said_by[name]]
            for name in dict.fromkeys((*ALWAYS, *merged))
            if name in merged
        ]
        rows += [[name, f"{value:.6g}", "counted"] for name, value in self.observed.items() if value is not None]
        rows += [[NAMES_OF_VLLM.get(name, name), "not said", ""] for name in self.missing]
        title = for_line(", ".join(self.facts))
        if len(self.facts) == 1:  # the title says it
            return [Table(title, ["setting", "value"], [row[:2] for row in rows])]
        return [Table(title, ["setting", "value", "said by"], rows)]


def is_server_file(path: Path) -> bool:
    """Whether `path` is a file that says how a server was set."""
    return not is_folder(path) and any(reader.detect(path) for reader in READERS.values())


def server_facts(paths: Sequence[Path]) -> dict[str, Facts]:
    """File name -> what it says of the server, of those of `paths` that say anything. Raises InputError as they do."""
    return dict(read_server_files(paths).facts)


def read_server_files(paths: Sequence[Path]) -> ServerFiles:
    """What files say of the one server they belong to; those that are no server files are passed over.

    Two scrapes or more are taken as before and after a load. Raises InputError if a file cannot be read.
    """
    order = list(READERS)
    known = [(kind, path) for path in paths if (kind := kind_of(path)) is not None]
    known.sort(key=lambda one: order.index(one[0]))
    facts: dict[str, Facts] = {}
    hints: dict[str, Facts] = {}
    findings: list[Finding] = []
    observed: dict[str, float | None] = {}
    refused: str | None = None
    for kind, path in known:
        said = READERS[kind].facts(path)
        name = path.name if path.name not in facts else str(path)
        own, lost = _not_contradicted(said.facts, facts)
        findings += [_disagree(name, *loss) for loss in lost]
        findings += [finding for finding in said.findings if finding not in findings]
        refused = refused or said.refused
        observed = {**said.observed, **observed}
        if isinstance(served := own.get("served_model_name"), str):
            hints[name] = {"model": served}
        facts[name] = own
    scrapes = [metrics.read(path) for kind, path in known if kind == "/metrics"]
    if len(scrapes) > 1:
        difference, finding = metrics.between(scrapes)
        findings = [one for one in findings if one.code != "counters-since-start"] + ([finding] if finding else [])
        observed |= difference
    order_of = ("error", "warning", "corrected", "info")
    findings.sort(key=lambda finding: order_of.index(finding.severity))
    return ServerFiles(facts, tuple(findings), refused, hints, observed)


def server_reports(paths: Sequence[Path]) -> list[ServerFiles]:
    """What files and folders given alone say of their servers: one report a path; a folder's files are of one server,
    unless it holds nothing but logs.

    Scrapes given together are of one server, before and after a load. Raises InputError if a file cannot be read, or
    says nothing of a server.
    """
    groups: list[list[Path]] = []
    scrapes: list[Path] = []
    for path in paths:
        inside = files_in(path) if is_folder(path) else [path]
        known = [file for file in inside if kind_of(file) is not None]
        if not known:
            kinds = ", ".join(READERS)
            raise InputError(f"{path}: says nothing of a server, expected one of: {kinds}")
        logs = [file for file in known if kind_of(file) == "vLLM log"]
        if len(logs) > 1 and len(logs) == len(known):  # of one server each
            groups += [[log] for log in logs]
        elif known == [path] and kind_of(path) == "/metrics":
            if not scrapes:
                groups.append(scrapes)
            scrapes.append(path)
        else:
            groups.append(known)
    return [read_server_files(group) for group in groups]


def read_server(path: Path) -> Facts:
    """What `--server PATH` says: a server file of ours, or whatever else says how a server was set, a folder too.

    Raises InputError if it says nothing, and for a server whose runs cannot be used.
    """
    if not is_there(path):
        raise InputError(f"{path}: no such file or folder")
    report = server_reports([path])[0]
    if report.refused:
        raise InputError(f"{path}: {report.refused}")
    return report.merged


def files_in(folder: Path) -> list[Path]:
    """The files of a folder, by name. Raises InputError for more than MOST_FILES."""
    files = sorted(entry for entry in folder.iterdir() if not is_folder(entry))
    if len(files) > MOST_FILES:
        raise InputError(f"{folder}: {len(files)} files, expected at most {MOST_FILES}")
    return files


def kind_of(path: Path) -> str | None:
    """The kind of a server file; None for anything else."""
    return next((kind for kind, reader in READERS.items() if reader.detect(path)), None)


def _not_contradicted(facts: Facts, before: Mapping[str, Facts]) -> tuple[Facts, list[tuple[str, object, str, object]]]:
    """The facts that no weightier file contradicts; and of the others (field, value, the other file, its value)."""
    own: dict[str, object] = {}
    lost: list[tuple[str, object, str, object]] = []
    for name, value in facts.items():
        other = next(
            (file for file, earlier in before.items() if name in earlier and not alike(name, earlier[name], value)),
            None,
        )
        if other is None:
            own[name] = value
        else:
            lost.append((name, value, other, before[other][name]))
    return own, lost


def _disagree(file: str, name: str, value: object, other: str, taken: object) -> Finding:
    known = NAMES_OF_VLLM.get(name, name)
    return Finding(
        "server-files-disagree",
        "warning",
        f"{known} is {_short(taken)} by {for_line(other)}, and {_short(value)} by {for_line(file)}.",
        {"field": known, "taken": _short(taken), "by": other, "other": _short(value), "other_file": file},
        f"{for_line(other)} was believed. If the two are of different servers, keep them apart.",
    )


def _plain(value: object) -> object:
    """A fact, ready for JSON."""
    return list(value) if isinstance(value, tuple) else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


LONGEST_SHOWN = 40
"""Characters of a value in a table."""


def _short(value: object) -> str:
    text = value if isinstance(value, str) else shown(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."
