"""RawRun: what a trace says, before the doctor has looked at it; and how the server that served it is pinned down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from roofml.traces.run import Bools, Floats, Ints, Server
from roofml.util.errors import InputError

Severity = Literal["info", "corrected", "warning", "error"]
Number = float | int | bool | str | None
Evidence = Mapping[str, Number | Sequence[Number]]


@dataclass(frozen=True)
class Finding:
    """One thing a trace says that its reader should know."""

    code: str
    """Short and stable; scripts may depend on it."""
    severity: Severity
    """info: good to know; corrected: the run was changed; warning: could not be settled; error: do not fit on this."""
    summary: str
    """One sentence with the numbers."""
    evidence: Evidence
    """The numbers, ready for JSON. Times in µs."""
    advice: str
    """What was done about it, or what the user can do."""


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


@dataclass(frozen=True)
class Generator:
    """What the load generator was told to send. None: not said."""

    source: str
    """File the settings were read from."""
    ignore_eos: bool | None = None
    output_tokens: int | None = None
    """Tokens asked for, where every request asked for the same number."""
    prompts: int | None = None
    """Number of different prompts, sent over and over in the same order."""
    prompts_per_group: int | None = None
    system_prompt_tokens: int | None = None
    """Leading tokens that the prompts of one group have in common."""


@dataclass(frozen=True)
class RawRun:
    """Requests in the order they were sent, as the trace reports them. Every array has shape (requests,).

    A count of 0 means the trace does not say. A reader fills this; `roofml.traces.doctor.examine` makes the `Run`.
    """

    name: str
    server: Server
    request_id: Ints
    send_us: Floats
    """µs from the first send; ascending."""
    lag_us: Floats
    """Send time minus planned arrival, µs, as recorded: the two clocks may have different origins."""
    input_tokens: Ints
    """Tokens of the prompt after its named prefix, as the client counted them."""
    server_input_tokens: Ints
    """Tokens of the whole prompt, as the server counted them; 0: not recorded."""
    output_tokens: Ints
    num_chunks: Ints
    prefix_group: Ints
    """Named shared prefix of the request, numbered from 0; -1: none named."""
    prefix_length: Ints
    ttft_us: Floats
    """First chunk minus send, µs; NaN where no chunk came."""
    e2e_us: Floats
    """Last chunk minus send, µs; NaN where no chunk came."""
    ok: Bools
    """The request succeeded."""
    streamed: Bools
    """Chunks came as they were made; without streaming the first chunk is the last, and TTFT was not measured."""
    warm_up: Bools
    """Sent to warm the server up: it loaded the server but must not be measured."""
    failure_messages: tuple[str, ...] = ()
    """Some of the different error messages of failed requests."""
    generator: Generator | None = None
    output_tokens_override: int | None = None
    findings: tuple[Finding, ...] = ()
    """What the reader itself noticed."""

    def __len__(self) -> int:
        return len(self.send_us)

    @property
    def measured(self) -> Bools:
        """Requests with both times measured, not counting warm-up."""
        return self.ok & self.streamed & ~self.warm_up


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
