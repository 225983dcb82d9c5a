"""The engine that served a run: what a replay has to imitate, pinned down from files and from what the user says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from roofml.traces.finding import Finding, Number
from roofml.util.errors import InputError


@dataclass(frozen=True)
class Server:
    """The engine that served a run: what the replay has to imitate. Tokens and blocks, no times."""

    model: str
    """Hub repository or local name, as the server was started with."""
    tensor_parallel: int
    max_num_seqs: int
    """Most requests in one step."""
    max_num_batched_tokens: int
    """Most new tokens in one step (vLLM's token budget)."""
    block_size: int
    """Tokens in one KV block."""
    num_gpu_blocks: int
    """KV blocks the engine reported at start."""
    max_model_len: int
    gpu: str | None = None
    """Name in `hardware/`; None where the run does not say."""
    prefix_caching: bool = True
    async_scheduling: bool = True
    """The next batch is formed while the current step runs (vLLM's default since 0.14)."""
    fresh: bool = True
    """It had served nothing before the run (`coldstart`)."""


@dataclass(frozen=True)
class ServerOverrides:
    """What the user says about a run instead of its files, or beyond them. None: not said."""

    model: str | None = None
    tensor_parallel: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    block_size: int | None = None
    num_gpu_blocks: int | None = None
    max_model_len: int | None = None
    gpu: str | None = None
    prefix_caching: bool | None = None
    async_scheduling: bool | None = None
    fresh: bool | None = None
    output_tokens: int | None = None
    """Tokens every request really made, where the trace counts them wrongly."""

    def __post_init__(self) -> None:
        for name, flag in FLAGS.items():
            value: object = getattr(self, name)
            if value is not None:
                _checked(name, value, flag)


FLAGS = {
    "model": "--model",
    "tensor_parallel": "--tp",
    "max_num_seqs": "--max-num-seqs",
    "max_num_batched_tokens": "--max-num-batched-tokens",
    "block_size": "--block-size",
    "num_gpu_blocks": "--num-gpu-blocks",
    "max_model_len": "--max-model-len",
    "gpu": "--gpu",
    "prefix_caching": "--prefix-caching/--no-prefix-caching",
    "async_scheduling": "--async-scheduling/--no-async-scheduling",
    "fresh": "--fresh/--warm",
    "output_tokens": "--output-tokens",
}
"""Field of `ServerOverrides` -> the flag of the command line that sets it; messages name it."""

OPTIONAL = ("gpu", "prefix_caching", "async_scheduling", "fresh")
"""Server fields a run may leave unsaid: `Server` documents what then holds."""

Said = Mapping[str, object]
"""Server field -> value, as one file says it."""


def resolve_server(
    path: Path, files: Mapping[str, Said], hints: Mapping[str, Said], overrides: ServerOverrides
) -> tuple[Server, tuple[Finding, ...]]:
    """The server of a run, from what its `files` say (by file name) and what the user says.

    The user wins over every file, and a finding says so. `hints` are read only where neither speaks: files about
    something else that mention the server in passing.

    Raises InputError where two files disagree and the user does not decide, where a field is said by nobody, and
    for a value that cannot be one.
    """
    values: dict[str, object] = {}
    findings: list[Finding] = []
    for field in fields(Server):
        name = field.name
        said = {
            file: _checked(name, told[name], f"{path / file}: {name}") for file, told in files.items() if name in told
        }
        hinted = {
            file: _checked(name, told[name], f"{path / file}: {name}") for file, told in hints.items() if name in told
        }
        given: object = getattr(overrides, name)
        if given is not None:
            values[name] = given
            others = {file: value for file, value in said.items() if value != given}
            if others:
                findings.append(_overruled(name, given, others))
            continue
        if len(set(said.values())) > 1:
            pairs = ", ".join(f"{file} says {value}" for file, value in said.items())
            raise InputError(f"{path}: {name}: {pairs}; expected them to agree, or {FLAGS[name]}")
        for value in (*said.values(), *hinted.values()):
            values.setdefault(name, value)
        strangers = {file: value for file, value in hinted.items() if value != values[name]}
        if strangers:
            findings.append(_mentioned(name, values[name], strangers))
        if name not in values and name not in OPTIONAL:
            wanted = " or ".join(files) if files else "a file beside the trace"
            raise InputError(f"{path}: {name}: not said by {wanted}; give {FLAGS[name]}")
    return Server(**values), tuple(findings)  # pyright: ignore[reportArgumentType]  # _checked has checked each


def _checked(name: str, value: object, where: str) -> Number:
    if name in ("model", "gpu"):
        if isinstance(value, str) and value.strip() and value.isprintable():
            return value
        raise InputError(f"{where}: {value!r}, expected a name")
    if name in ("prefix_caching", "async_scheduling", "fresh"):
        if isinstance(value, bool):
            return value
        raise InputError(f"{where}: {value!r}, expected true or false")
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**53:
        return value
    raise InputError(f"{where}: {value!r}, expected a whole number above 0")


def _overruled(name: str, given: object, others: Mapping[str, Number]) -> Finding:
    pairs = ", ".join(f"{file} says {value}" for file, value in others.items())
    return Finding(
        "flag-overrules-file",
        "warning",
        f"{name} is taken as {given} from {FLAGS[name]}, although {pairs}.",
        {"field": name, "flag": str(given), **others},
        f"Leave {FLAGS[name]} out if the file is right; correct the file if the flag is.",
    )


def _mentioned(name: str, value: object, strangers: Mapping[str, Number]) -> Finding:
    pairs = ", ".join(f"{file} says {other}" for file, other in strangers.items())
    return Finding(
        "server-name-differs",
        "warning",
        f"{name} is {value} by the server's own settings, but {pairs}.",
        {"field": name, "server": str(value), **strangers},
        "Nothing was changed. Harmless if it is an alias (--served-model-name); otherwise files of two runs are mixed.",
    )
