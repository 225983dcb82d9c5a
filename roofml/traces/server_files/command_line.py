"""Reader: `vllm serve` command lines, as they stand in shell scripts, job files and notes.

A name in the script has the value that the script gives it. What comes from anywhere else (the environment, a loop over
values, another file) is left out, and a finding says what.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from roofml.traces.finding import Finding
from roofml.traces.recording import Facts
from roofml.traces.server_files.arguments import SHORT, SWITCHES, facts_of, model_name, read_value
from roofml.traces.server_files.images import version_of_image
from roofml.traces.server_files.said import Said
from roofml.traces.server_files.shell import UNKNOWN, Script, joined, words_of
from roofml.util.errors import InputError
from roofml.util.outside_text import for_line
from roofml.util.reading import as_text, first_bytes, is_file, read_bytes
from roofml.util.yaml_io import read_mapping

HEAD = 65_536
MOST_COMMANDS = 100

_COMMAND = re.compile(
    r"(?:^|[\s'\"/(=])(?:vllm\s+serve(?=\s)|-m[\s'\",]+vllm\.entrypoints\.(?:openai\.)?api_server\b"
    r"|(?:vllm/vllm-openai|rocm/vllm)[^\s>|;&]*\s+(?=-)(?!-\w*c\s))"
)
_MARK = re.compile(_COMMAND.pattern.encode(), re.M)
_IMAGE = re.compile(r"\b(?:[\w.-]{1,100}/){0,4}vllm[\w./-]{0,100}:[\w.+-]{1,100}")
_INSTALLED = re.compile(r"\bvllm==(\d[\w.+]*)")
_JOB_GPU = re.compile(
    r"^#(?:SBATCH|PBS|\$) .*?\b(?:gres|gpus(?:-per-node)?|constraint)[= ](?:gpu:)?([a-zA-Z]\w+)\b", re.M
)
_OLD_ENGINE = re.compile(r"\bVLLM_USE_V1[=: ]+[\"']?(?:0|false)\b", re.I)
OLD_ENGINE = "VLLM_USE_V1=0 asks for the V0 engine, which has another scheduler"


@dataclass(frozen=True)
class Arguments:
    """Arguments of one server."""

    given: Mapping[str, object]
    """Python name -> value."""
    unknown: Mapping[str, str] = field(default_factory=dict[str, str])
    """Name of an argument whose value nobody says -> what it depends on."""


def detect(path: Path) -> bool:
    """Whether a text has a `vllm serve` command in its first 64 KiB, and is no JSON."""
    head = first_bytes(path, HEAD)
    return not head.lstrip().startswith((b"{", b"[")) and b"\0" not in head and bool(_MARK.search(head))


def facts(path: Path) -> Said:
    """What the command lines of a script say of the server; where it starts several, what they have in common.

    Raises InputError if the file cannot be read.
    """
    return said_of_script(as_text(read_bytes(path), path), path)


def said_of_script(text: str, path: Path, variables: Mapping[str, str | None] | None = None) -> Said:
    """What a script's text says of the server, with `variables` of its environment. `path` finds files it names."""
    script = Script(variables)
    servers: list[Arguments] = []
    versions: set[str] = set(_INSTALLED.findall(text))
    old = bool(_OLD_ENGINE.search(text))
    for line in script.run(joined(text)):
        for command in _COMMAND.finditer(line):
            if len(servers) < MOST_COMMANDS:
                servers.append(arguments(words_of(line[command.end() :]), path))
        versions |= {version for image in _IMAGE.findall(line) if (version := version_of_image(image))}
    found, findings = in_common(servers)
    if len(versions) == 1:
        found |= {"engine": "vllm", "engine_version": versions.pop()}
    gpus = {gpu for gpu in _JOB_GPU.findall(text) if gpu.lower() != "gpu"}
    if len(gpus) == 1:
        found["gpu"] = gpus.pop()
    return Said(found, findings, OLD_ENGINE if old or script.variables.get("VLLM_USE_V1") == "0" else None)


def arguments(words: Sequence[str], path: Path) -> Arguments:
    """The arguments of `vllm serve`, from the words after it. A `--config` beside `path` is read, below the others."""
    given: dict[str, object] = {}
    unknown: dict[str, str] = {}
    left = list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("-") or len(word) < 2 or word[1].isdecimal():
            if "model" not in {*given, *unknown} and word:
                _give(given, unknown, "model", word)  # the positional argument
            elif UNKNOWN in word:
                unknown.setdefault("arguments", _of(word))
            continue
        word, equals, value = word.partition("=")
        short = word.startswith("-") and not word.startswith("--")
        name, _, part = word.lstrip("-").partition(".")
        if name.startswith(UNKNOWN):
            unknown.setdefault("arguments", _of(name))
            continue
        name = SHORT.get(name, name) if short else name.replace("-", "_")
        if name.startswith("no_"):
            given[name.removeprefix("no_")] = False
            continue
        if not equals:
            if name in SWITCHES and not (left and left[0].lower() in ("true", "false")):
                given[name] = True
                continue
            following: list[str] = []
            while (
                left
                and not _is_flag(left[0])
                and (not following or name in ("cuda_graph_sizes", "cudagraph_capture_sizes"))
            ):
                following.append(left.pop(0))
            if not following:
                given[name] = True
                continue
            value = " ".join(following)
        if part:
            name = f"{name}.{part}"
        _give(given, unknown, name, value)
    return Arguments(_with_config(given, unknown, path), unknown)


def in_common(servers: Sequence[Arguments]) -> tuple[dict[str, object], tuple[Finding, ...]]:
    """What servers have in common, as facts, and findings about the rest.

    Where an argument is not given, vLLM's `tensor_parallel_size` is 1; other defaults depend on version and GPU.
    """
    every: list[tuple[Facts, tuple[Finding, ...]]] = []
    for server in servers:
        found, findings = facts_of(server.given)
        if not {"tensor_parallel", "arguments", "config"} & {*found, *server.given} and not (
            {"tensor_parallel_size", "arguments"} & set(server.unknown)
        ):
            found["tensor_parallel"] = 1
        every.append((found, findings))
    if not every:
        return {}, ()
    common = {name: value for name, value in every[0][0].items() if all(found.get(name) == value for found, _ in every)}
    differing = sorted({name for found, _ in every for name in found} - set(common))
    by_summary = {finding.summary: finding for _, findings in every for finding in findings}
    if differing:
        more = Finding(
            "several-servers",
            "warning",
            f"{len(servers)} servers are started with other arguments ({for_line(', '.join(differing))[:200]}).",
            {"servers": len(servers), "differing": differing[:20]},
            "What differs was left out: give the flags of the server that served.",
        )
        by_summary[more.summary] = more
    unresolved = {name: source for server in servers for name, source in server.unknown.items()}
    if unresolved:
        listed = ", ".join(f"{name} ({source})" for name, source in sorted(unresolved.items()))
        more = Finding(
            "arguments-not-said",
            "warning",
            f"The command line leaves to its environment: {for_line(listed)[:300]}.",
            {"arguments": sorted(unresolved)[:20]},
            "They were left out: give them as flags.",
        )
        by_summary[more.summary] = more
    return common, tuple(by_summary.values())


def _give(given: dict[str, object], unknown: dict[str, str], name: str, text: str) -> None:
    """Note an argument's value, or that nobody says it."""
    if UNKNOWN in text:
        unknown[name] = _of(text)
        return
    unknown.pop(name, None)
    if name in ("cuda_graph_sizes", "cudagraph_capture_sizes"):
        sizes = [int(word) for word in re.split(r"[\s,]+", text.strip("[] ")) if word.isdecimal()]
        # One number is the largest size (vllm/config/compilation.py), a list is the sizes.
        given[name if len(sizes) > 1 else "max_cudagraph_capture_size"] = sizes if len(sizes) > 1 else sum(sizes)
    elif text.startswith("{"):
        given[name] = _json(text)
    elif name.startswith("compilation_config."):
        _give(given, unknown, name.partition(".")[2], text)
    elif name == "compilation_config":
        given["optimization_level"] = text
    else:
        given[name] = model_name(text) if name == "model" else read_value(name, text)


def _json(text: str) -> object:
    for attempt in (text, text.replace('\\"', '"')):
        try:
            return cast("object", json.loads(attempt))
        except (ValueError, RecursionError):
            continue
    return text


def _with_config(given: dict[str, object], unknown: dict[str, str], path: Path) -> dict[str, object]:
    """The arguments, with those of the YAML file that `--config` names, if it lies beside the script."""
    named = given.get("config")
    if not isinstance(named, str):
        return given
    beside = path.parent / Path(named).name
    if not is_file(beside):
        unknown["config"] = named
        return given
    try:
        settings = read_mapping(beside)
    except InputError:
        unknown["config"] = named
        return given
    from_file: dict[str, object] = {}
    for key, value in settings.items():
        name = key.replace("-", "_")
        if isinstance(value, str):
            _give(from_file, unknown, name, value)
        else:
            from_file[name] = value
    return from_file | {name: value for name, value in given.items() if name != "config"}


def _is_flag(word: str) -> bool:
    return word.startswith("--") or (word.startswith("-") and len(word) > 1 and not word[1].isdecimal())


def _of(text: str) -> str:
    """What an unknown word depends on."""
    names = re.findall(rf"{UNKNOWN}([^{UNKNOWN}]*){UNKNOWN}", text)
    return ", ".join(dict.fromkeys(names)) or "?"
