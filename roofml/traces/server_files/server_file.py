"""Server file: the facts of a server said once, as YAML of our own, for `--server FILE`.

    schema: roofml-server/1
    model: meta-llama/Llama-3.1-8B-Instruct
    gpu: H100
    tensor_parallel: 1
    settings: {policy: fcfs}

Keys are the fields of `roofml.traces.server.Server`; `settings` are other arguments of `vllm serve`, as in
`roofml.traces.settings`. A key that is left out is not said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import cast

from roofml.traces.recording import Facts
from roofml.traces.server import FLAGS, Server, ServerOverrides, check_facts
from roofml.traces.server_files.said import Said
from roofml.traces.settings import NAMES as SETTINGS
from roofml.traces.settings import NOT_MODELLED, SchedulerSettings, is_on
from roofml.util.errors import InputError
from roofml.util.names import shown
from roofml.util.outside_text import for_line, for_yaml
from roofml.util.reading import first_bytes, is_there
from roofml.util.schema import check_version
from roofml.util.writing import check_writable, write_file
from roofml.util.yaml_io import read_mapping

SCHEMA = "roofml-server/1"
KEYS = tuple(each.name for each in fields(Server) if each.name not in ("settings", "missing", "said_by"))
"""Fields of `Server` that a file may say, in its order."""


@dataclass(frozen=True)
class Described:
    """A server as files and flags describe it."""

    facts: Facts
    said_by: Mapping[str, str]
    """Field -> the file or flag that gave it."""


def detect(path: Path) -> bool:
    """Whether a file begins as one of ours: comments, then `schema: roofml-server/..`."""
    for line in first_bytes(path, 4096).decode("utf-8", "replace").splitlines():
        if line.strip() and not line.startswith("#"):
            return line.startswith("schema: ") and SCHEMA.rpartition("/")[0] in line
    return False


def facts(path: Path) -> Said:
    """What a server file says. Raises InputError naming file and key for what it may not."""
    document = read_mapping(path)
    check_version(document, SCHEMA, path)
    found: dict[str, object] = {}
    for key, value in document.items():
        if key == "settings" and isinstance(value, dict):
            for name, setting in cast("dict[object, object]", value).items():
                if name not in SETTINGS and name not in NOT_MODELLED:
                    known = ", ".join(SETTINGS)
                    raise InputError(f"{path}: settings.{for_line(str(name))[:60]}: unknown, expected one of {known}")
                found[str(name)] = setting
        elif key in KEYS and value is not None:
            found[key] = value
        elif key != "schema":
            expected = "a value" if key in KEYS else "a mapping" if key == "settings" else f"one of {', '.join(KEYS)}"
            raise InputError(f"{path}: {for_line(key)[:60]}: found {shown(value)}, expected {expected}")
    check_facts(found, str(path))
    return Said(found)


def described(server: Server) -> Described:
    """What is known of a run's server: the fields that a file or a flag gave, and settings that are not the usual."""
    facts: dict[str, object] = {name: getattr(server, name) for name in KEYS if name in server.said_by}
    usual = asdict(SchedulerSettings())
    facts |= {name: value for name, value in asdict(server.settings).items() if value != usual[name]}
    return Described(facts, server.said_by)


def with_flags(server: Described, overrides: ServerOverrides) -> Described:
    """The server with the facts that flags and `--server` give before those of its files."""
    facts, said_by = dict(server.facts), dict(server.said_by)
    for name in KEYS:
        value, source = overrides.said(name)
        if value is not None:
            facts[name], said_by[name] = value, source
    own = overrides.server_file
    for name in SETTINGS:
        if own is not None and name in own.facts:
            facts[name], said_by[name] = own.facts[name], own.name
        if overrides.settings is not None and name in overrides.settings:
            facts[name], said_by[name] = overrides.settings[name], FLAGS["settings"]
    return Described(facts, said_by)


def server_yaml(server: Described) -> str:
    """The text of the server file, each line with where it came from."""
    lines = [
        "# Facts of a server, for `--server FILE`; written by `roofml doctor --write-server`.",
        f"schema: {SCHEMA}",
    ]
    for name in KEYS:
        if server.facts.get(name) is not None:
            lines.append(_line(name, server.facts[name], server.said_by.get(name, "")))
    settings = [name for name in SETTINGS if server.facts.get(name) is not None]
    # What nothing here prices is written too, so that the file is refused as the server itself is.
    settings += [name for name in NOT_MODELLED if is_on(server.facts.get(name))]
    if settings:
        lines += [
            "settings:",
            *(f"  {_line(name, server.facts[name], server.said_by.get(name, ''))}" for name in settings),
        ]
    return "\n".join(lines) + "\n"


def write_server(path: Path, servers: Sequence[Described]) -> None:
    """Write the one server that all of `servers` describe. What only some say is written too.

    Raises InputError where they disagree, where nothing is known, and where the file at `path` is no server file.
    """
    facts: dict[str, object] = {}
    said_by: dict[str, str] = {}
    for server in servers:
        for name, value in server.facts.items():
            if facts.setdefault(name, value) != value:
                both = f"{shown(facts[name])} and {shown(value)}"
                raise InputError(f"{path}: {name}: {both}: the runs are of different servers, expected one")
            said_by.setdefault(name, server.said_by.get(name, ""))
    if not any(name in facts for name in (*KEYS, *SETTINGS)):
        raise InputError(f"{path}: nothing is known of the server, expected its log, or flags")
    check_target(path)
    write_file(path, server_yaml(Described(facts, said_by)), in_place=True)


def check_target(path: Path) -> None:
    """Raise InputError where a server file must not be written: over any file that is not one."""
    check_writable(path, in_place=True)
    if is_there(path) and path.is_file() and path.stat().st_size and not detect(path):
        raise InputError(f"{path}: is there and is no server file of ours, expected another name")


def _line(name: str, value: object, source: str) -> str:
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, list | tuple):
        text = f"[{', '.join(str(item) for item in cast('Sequence[object]', value))}]"
    else:
        text = str(value) if isinstance(value, int | float) else for_yaml(str(value))
    return f"{name}: {text}" + (f"  # {for_line(source)[:200]}" if source else "")
