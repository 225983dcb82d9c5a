"""Settings: what a server was told beyond its limits, by the names of `vllm serve`'s arguments.

`None` and the other defaults are those of a server that was told nothing; what a version then does is in
`engine/versions.py`. What a version does not have yet is ignored by it, as it refuses to start with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from annotated_types import Ge, Le, Len
from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from roofml.traces.limits import MOST_OF_SERVER, MOST_REQUESTS, MOST_TOKENS
from roofml.util.errors import InputError, NotSupportedError
from roofml.util.names import shown

Seats = Annotated[int, Ge(1), Le(MOST_OF_SERVER["max_num_seqs"])]
Budget = Annotated[int, Ge(0), Le(MOST_OF_SERVER["max_num_batched_tokens"])]
Sizes = Annotated[tuple[Annotated[int, Ge(1), Le(MOST_OF_SERVER["max_num_batched_tokens"])], ...], Len(0, 10_000)]


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class SchedulerSettings:
    """What a server was told about its schedule and its CUDA graphs."""

    policy: Literal["fcfs", "priority"] = "fcfs"
    """First come, first served, or by each request's priority."""
    scheduler_reserve_full_isl: bool | None = None
    """A waiting request is admitted only if its whole prompt fits the free KV blocks. None: as the version has it."""
    watermark: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of the KV blocks that stay free when a waiting request is admitted beside running ones."""
    max_num_active_seqs: Seats | None = None
    """Running requests beyond which none is admitted. None: max_num_seqs."""
    long_prefill_token_threshold: Budget = 0
    """Most tokens of one prompt in a step. 0: the budget alone."""
    long_prefill_token_threshold_adaptive: bool = False
    """That is never less than the budget over the number of requests."""
    prefill_schedule_interval: Annotated[int, Ge(1), Le(1_000_000)] = 1
    """Steps from one with prompts to the next, while others decode."""
    max_num_queued_reqs: Annotated[int, Ge(1), Le(MOST_REQUESTS)] | None = None
    """Requests in the queue beyond which another is turned away (HTTP 503)."""
    max_num_queued_tokens: Annotated[int, Ge(1), Le(MOST_TOKENS)] | None = None
    """Prompt tokens in the queue beyond which another is turned away."""
    stream_interval: Annotated[int, Ge(1), Le(1_000_000)] = 1
    """Output tokens of one chunk to the client, but for the first."""
    cudagraph_capture_sizes: Sizes | None = None
    """Numbers of tokens for which CUDA graphs were captured. None: as the version chooses."""
    enforce_eager: bool = False
    """No CUDA graphs at all."""
    performance_mode: Literal["balanced", "interactivity", "throughput"] = "balanced"


NOT_MODELLED = {
    **dict.fromkeys(("data_parallelism", "data_parallel_size"), "data parallelism"),
    **dict.fromkeys(("expert_parallelism", "expert_parallel_size", "enable_expert_parallel"), "expert parallelism"),
    **dict.fromkeys(("pipeline_parallelism", "pipeline_parallel_size"), "pipeline parallelism"),
    **dict.fromkeys(("decode_context_parallel_size", "prefill_context_parallel_size"), "context parallelism"),
    **dict.fromkeys(("speculative_config", "speculative_model", "num_speculative_tokens"), "speculative decoding"),
    **dict.fromkeys(("kv_transfer_config", "kv_offloading_size", "cpu_offload_gb"), "offloading and transfer of KV"),
}
"""Names of settings that change a step, or its schedule, in a way that nothing here prices."""
OFF: tuple[object, ...] = (None, 0, 1, "", {})
"""Values of them that change nothing: one GPU in each group, and nothing asked for. True is no 1."""
NAMES = tuple(SchedulerSettings.__dataclass_fields__)


def is_on(value: object) -> bool:
    """Whether a setting of NOT_MODELLED has a value that changes something."""
    return value is True or value not in OFF


def refuse_unmodelled(given: Mapping[str, object], source: str) -> None:
    """Raise NotSupportedError, naming it, for a setting that changes what nothing here prices."""
    for name, what in NOT_MODELLED.items():
        if name in given and is_on(given[name]):
            raise NotSupportedError(
                f"{source}: {name} is {shown(given[name])}: {what} is not modelled, only tensor parallelism is"
            )


def settings_of(given: Mapping[str, object], source: str) -> SchedulerSettings:
    """The settings that `given` says by name; the others are those of a server that was told nothing.

    Raises InputError, naming `source` and the setting, for an unknown name or an impossible value.
    """
    refuse_unmodelled(given, source)
    for name in given:
        if name not in NAMES and name not in NOT_MODELLED:
            raise InputError(
                f"{source}: {shown(name)}: no setting that is known here, expected one of {', '.join(NAMES)}"
            )
    values: dict[str, Any] = {
        name: tuple(cast("list[object]", value)) if isinstance(value, list) else value
        for name, value in given.items()
        if name not in NOT_MODELLED
    }
    try:
        return SchedulerSettings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        raise InputError(f"{source}: {name}: {shown(given.get(name))}: {first['msg'].lower()}") from None


def read_settings(lines: list[str], source: str) -> dict[str, object]:
    """`NAME=VALUE` lines as a mapping; values are numbers, true, false, lists of numbers with commas, or words.

    Raises InputError for a line without a name and a value, and for a name given twice.
    """
    said: dict[str, object] = {}
    for line in lines:
        name, equals, text = line.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        if not equals or not name or not text.strip():
            raise InputError(f"{source} {shown(line)}: expected NAME=VALUE, such as watermark=0.01")
        if name in said:
            raise InputError(f"{source} {name}: given twice")
        said[name] = _value(text.strip()) if "," not in text else [_value(part.strip()) for part in text.split(",")]
    return said


def _value(text: str) -> object:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
