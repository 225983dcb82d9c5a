"""Server: the engine that served a run, which a replay has to imitate, from files and from the user's flags."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from roofml.traces.engine_version import ENGINES, parse_version, schedules_ahead
from roofml.traces.finding import Finding, Number
from roofml.traces.limits import MOST_OF_SERVER, MOST_TOKENS
from roofml.traces.settings import NAMES as SETTINGS
from roofml.traces.settings import NOT_MODELLED, SchedulerSettings, refuse_unmodelled, settings_of
from roofml.util.errors import InputError
from roofml.util.gpu_names import name_key
from roofml.util.names import shown


@dataclass(frozen=True)
class Server:
    """The engine that served a run, which the replay has to imitate. Units are tokens and blocks."""

    model: str
    """Hub repository or local name with which the server was started."""
    tensor_parallel: int
    max_num_seqs: int
    """Most requests in one step."""
    max_num_batched_tokens: int
    """Most new tokens in one step (vLLM's token budget)."""
    block_size: int
    """Tokens in one KV block."""
    num_gpu_blocks: int
    """KV blocks that the engine reported at start."""
    max_model_len: int
    gpu: str | None = None
    """Name in `hardware/`; None if the run does not say."""
    prefix_caching: bool = True
    async_scheduling: bool = True
    """The next batch is formed while the current step runs (vLLM's default since 0.14)."""
    fresh: bool = True
    """The engine had served nothing before the run (`engine.cold_start`)."""
    engine: str = "vllm"
    """One of `engine_version.ENGINES`."""
    engine_version: str | None = None
    """As the engine calls it, such as 0.15.1; None if nobody says."""
    kv_dtype: str | None = None
    """Type of the KV cache, where another than the model's was asked for."""
    settings: SchedulerSettings = field(default_factory=SchedulerSettings)
    missing: tuple[str, ...] = ()
    """Fields that nobody says and a replay needs. Their values here are as if there were no limit: no run of such a
    server is computed with."""
    said_by: Mapping[str, str] = field(default_factory=dict[str, str], compare=False, repr=False)
    """Field -> the file or flag that gave it."""


@dataclass(frozen=True)
class ServerOverrides:
    """Facts that the user gives about a run instead of its files or beyond them. None: not given."""

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
    engine: str | None = None
    engine_version: str | None = None
    kv_dtype: str | None = None
    settings: Mapping[str, object] | None = None
    """Names and values of `SchedulerSettings`."""
    output_tokens: int | None = None
    """Tokens that every request really made, if the trace counts them wrongly."""
    deadline_s: float | None = None
    """Seconds after which the client gives a request up; `inf`: never, whatever the trace shows."""
    server_file: ServerFileFacts | None = None
    """What a file that the user names says of the server: below the user's own facts, above other files."""

    def __post_init__(self) -> None:
        for name, flag in FLAGS.items():
            value: object = getattr(self, name)
            if name == "settings":
                settings_of(self.settings or {}, flag)
            elif value is not None and name != "server_file":
                _checked(name, value, flag)

    def said(self, name: str) -> tuple[object, str]:
        """The user's value of a field of `Server`, and the flag or file it is from; None where he says nothing."""
        value: object = getattr(self, name)
        if value is None and self.server_file is not None and name in self.server_file.facts:
            return self.server_file.facts[name], self.server_file.name
        return value, FLAGS[name]


@dataclass(frozen=True)
class ServerFileFacts:
    """The file of `--server`. Facts are checked where it is read (`check_facts`)."""

    name: str
    facts: Mapping[str, object]
    """Field of `Server`, or of its settings -> value."""


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
    "engine": "--engine",
    "engine_version": "--engine-version",
    "kv_dtype": "--kv-dtype",
    "settings": "--server-arg",
    "output_tokens": "--output-tokens",
    "deadline_s": "--deadline",
    "server_file": "--server",
}
"""Field of `ServerOverrides` -> the flag of the command line that sets it; messages name it."""

OPTIONAL = ("gpu", "prefix_caching", "async_scheduling", "fresh", "engine", "engine_version", "kv_dtype", "settings")
"""Server fields that a run need not give; the defaults of `Server` then hold, or those of its release."""

KV_DTYPES = ("auto", "bfloat16", "float16", "fp8")
"""Types of a KV cache; `auto` is the model's own."""

UNLIMITED: Mapping[str, object] = {
    "model": "",
    "tensor_parallel": 1,
    "max_num_seqs": MOST_OF_SERVER["max_num_seqs"],
    "max_num_batched_tokens": MOST_OF_SERVER["max_num_batched_tokens"],
    "block_size": 16,
    "num_gpu_blocks": MOST_OF_SERVER["num_gpu_blocks"],
    "max_model_len": MOST_TOKENS,
}
"""What stands for fields that nobody says, so that no request is found impossible by them."""
PASTED = {"model": "--model MODEL", "gpu": "--gpu GPU"}
"""Field -> flag with a place for its value; of the others the value is a number."""

Settings = Mapping[str, object]
"""Server field -> value, as one file gives it."""


def resolve_server(
    path: Path,
    files: Mapping[str, Settings],
    hints: Mapping[str, Settings],
    overrides: ServerOverrides,
    *,
    complete: bool = True,
    run: Path | None = None,
) -> tuple[Server, tuple[Finding, ...]]:
    """The server of a run, from its `files` (settings by file name) and the user's `overrides`.

    The user's value takes precedence over every file, and a finding says so. `hints` are files about something else
    that mention the server in passing; they count only if neither the user nor a file gives a value. `path` is their
    folder, `run` the run's own file, if errors are to name that.

    Raises InputError if two files disagree and the user does not decide, and for an impossible value; with `complete`
    also for required fields that nobody gives, all in one message. Without, they are listed as `missing`.
    """
    if overrides.server_file is not None:  # what it says and a flag overrules is told as of any other file
        by_flag = {name: value for name, value in overrides.server_file.facts.items() if _is_flag(overrides, name)}
        files = {**files, overrides.server_file.name: by_flag}
    values: dict[str, object] = {"settings": _settings(path, files, overrides)}
    findings: list[Finding] = []
    missing: list[str] = []
    said_by: dict[str, str] = {}
    for name in (each.name for each in fields(Server) if each.name not in ("settings", "missing", "said_by")):
        by_file, by_hint = _values_of(name, path, files), _values_of(name, path, hints)
        override, source = overrides.said(name)
        if override is not None:
            values[name], said_by[name] = override, source
            overruled = {file: value for file, value in by_file.items() if not alike(name, value, override)}
            if overruled:
                findings.append(_overruled(name, override, source, overruled))
            continue
        if any(not alike(name, value, next(iter(by_file.values()))) for value in by_file.values()):
            pairs = ", ".join(f"{file} says {_said(value)}" for file, value in by_file.items())
            raise InputError(f"{run or path}: {name}: {pairs}; expected them to agree, or {FLAGS[name]}")
        for file, value in (*by_file.items(), *by_hint.items()):
            if values.setdefault(name, value) == value:
                said_by.setdefault(name, file)
        deviations = {file: value for file, value in by_hint.items() if value != values[name]}
        if deviations:
            findings.append(_mentioned(name, values[name], deviations))
        if name not in values and name not in OPTIONAL:
            missing.append(name)
            values[name] = UNLIMITED[name]
    if missing and complete:
        raise InputError(_asks_for(run or path, missing, "gpu" not in values, files))
    if "async_scheduling" not in values:
        engine, version = str(values.get("engine", "vllm")), str(values.get("engine_version", ""))
        values["async_scheduling"] = schedules_ahead(engine, version or None)
    values |= {"missing": tuple(missing), "said_by": said_by}
    return Server(**values), tuple(findings)  # pyright: ignore[reportArgumentType]  # _checked has checked each


def _asks_for(path: Path, missing: list[str], no_gpu: bool, files: Mapping[str, Settings]) -> str:
    """One line that names all that nobody says, and the flags to paste."""
    sources = " or ".join(files) if files else "a file beside the trace"
    wanted = [*missing, *(["gpu"] if no_gpu else [])]
    return f"{path}: {', '.join(missing)}: not said by {sources}; give {flags_for(wanted)}"


def flags_for(missing: Sequence[str]) -> str:
    """The flags that say these fields, with a place for each value, to be pasted."""
    return " ".join(PASTED.get(name, f"{FLAGS[name]} N") for name in missing)


def _settings(path: Path, files: Mapping[str, Settings], overrides: ServerOverrides) -> SchedulerSettings:
    """The settings that files and the user say, the user's first."""
    said: dict[str, object] = {}
    users: dict[str, object] = {}
    if overrides.server_file is not None:
        refuse_unmodelled(overrides.server_file.facts, overrides.server_file.name)
        users = {name: value for name, value in overrides.server_file.facts.items() if name in SETTINGS}
    users |= overrides.settings or {}
    for file, given in files.items():
        of_file = {name: given[name] for name in SETTINGS if name in given}
        settings_of(of_file, str(path / file))
        for name, value in of_file.items():
            if said.setdefault(name, value) != value and name not in users:
                raise InputError(f"{path / file}: {name}: {shown(value)}, and another file says {shown(said[name])}")
    return settings_of({**said, **users}, FLAGS["settings"])


ONE_SIZE = frozenset({"80gb", "sxm"})
"""Words that a name of a GPU of several sizes may lack: the bare H100 and A100 are the SXM cards of 80 GB."""
SEVERAL_SIZES = frozenset({"h100", "h800", "a100", "a800", "gh200"})


def alike(name: str, one: object, other: object) -> bool:
    """Whether two values of a field are the same: of the GPU, whether two names can be of one (`nvidia-h100-80gb`)."""
    if one == other or name != "gpu":
        return one == other
    words, others = name_key(str(one)), name_key(str(other))
    differing = words ^ others
    if not words & others:
        return False
    if words & SEVERAL_SIZES:
        return differing <= ONE_SIZE
    return all(word == "sxm" or re.fullmatch(r"\d+gb", word) for word in differing)


def _is_flag(overrides: ServerOverrides, name: str) -> bool:
    """Whether a flag, and not the server file, gives a field of `Server`."""
    return name in FLAGS and getattr(overrides, name) is not None


def check_facts(facts: Mapping[str, object], source: str) -> None:
    """Raise InputError, naming `source` and the field, for facts that no server can have. Other names are let pass."""
    for name, value in facts.items():
        if name in FLAGS and name not in ("settings", "server_file"):
            _checked(name, value, f"{source}: {name}")
    settings_of({name: value for name, value in facts.items() if name in SETTINGS or name in NOT_MODELLED}, source)


def _values_of(name: str, path: Path, files: Mapping[str, Settings]) -> dict[str, Number]:
    """File -> its checked value of the field `name`, for the files that give one."""
    return {
        file: _checked(name, settings[name], f"{path / file}: {name}")
        for file, settings in files.items()
        if name in settings
    }


def _checked(name: str, value: object, source: str) -> Number:
    if name in ("model", "gpu"):
        if isinstance(value, str) and value.strip() and value.isprintable():
            return value
        raise InputError(f"{source}: {shown(value)}, expected a name")
    if name == "engine":
        if value in ENGINES:
            return str(value)
        raise InputError(f"{source}: {shown(value)}, expected one of {', '.join(ENGINES)}")
    if name == "engine_version":
        if not isinstance(value, str):
            raise InputError(f"{source}: {shown(value)}, expected a version such as 0.15.1")
        parse_version(value, source)
        return value
    if name == "kv_dtype":
        if value in KV_DTYPES:
            return str(value)
        raise InputError(f"{source}: {shown(value)}, expected one of {', '.join(KV_DTYPES)}")
    if name == "deadline_s":
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return value
        raise InputError(f"{source}: {shown(value)}, expected seconds above 0, or inf")
    if name in ("prefix_caching", "async_scheduling", "fresh"):
        if isinstance(value, bool):
            return value
        raise InputError(f"{source}: {shown(value)}, expected true or false")
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise InputError(f"{source}: {shown(value)}, expected a whole number above 0")
    if value > MOST_OF_SERVER[name]:
        raise InputError(f"{source}: {shown(value)}, expected at most {MOST_OF_SERVER[name]}")
    return value


def _overruled(name: str, override: object, source: str, overruled: Mapping[str, Number]) -> Finding:
    pairs = ", ".join(f"{file} says {_said(value)}" for file, value in overruled.items())
    return Finding(
        "flag-overrules-file",
        "warning",
        f"{name} is taken as {override} from {source}, although {pairs}.",
        {"field": name, "flag": str(override), **overruled},
        f"Leave {source} out if the file is right; correct the file if it is not.",
    )


def _mentioned(name: str, value: object, deviations: Mapping[str, Number]) -> Finding:
    pairs = ", ".join(f"{file} says {_said(deviation)}" for file, deviation in deviations.items())
    return Finding(
        "server-name-differs",
        "warning",
        f"{name} is {value} by the server's own settings, but {pairs}.",
        {"field": name, "server": str(value), **deviations},
        "Nothing was changed. Harmless if it is an alias (--served-model-name); otherwise files of two runs are mixed.",
    )


def _said(value: object) -> str:
    """A setting as its file has it, not too long for a sentence."""
    text = str(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
