"""Reader: the resolved configuration of the load generator inference-perf, which describes the requests it sent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from roofml.traces.limits import MOST_PROMPTS, MOST_TOKENS
from roofml.traces.raw import Generator
from roofml.util.errors import InputError
from roofml.util.names import shown
from roofml.util.yaml_io import read_mapping


def read_inference_perf(path: Path) -> tuple[Generator, str | None]:
    """The generator's settings and the model name it asked for, from a resolved inference-perf configuration.

    The file belongs to another tool: keys that roofml does not use are ignored. Raises InputError if the file cannot
    be read or a key that roofml uses has an impossible value.
    """
    settings = read_mapping(path)
    data = _mapping(path, settings, "data")
    server = _mapping(path, settings, "server")
    ignore_eos: object = server.get("ignore_eos")
    if ignore_eos is not None and not isinstance(ignore_eos, bool):
        raise InputError(f"{path}: server.ignore_eos: {shown(ignore_eos)}, expected true or false")
    model: object = server.get("model_name")
    if model is not None and not isinstance(model, str):
        raise InputError(f"{path}: server.model_name: {shown(model)}, expected a name")
    prompts = per_group = system = output = None
    if data.get("type") == "shared_prefix":
        shared = _mapping(path, data, "shared_prefix", "data.")
        groups = _either(path, shared, "num_groups", "num_unique_system_prompts")
        per_group = _either(path, shared, "num_prompts_per_group", "num_users_per_system_prompt")
        system = _count(path, shared, "system_prompt_len", "data.shared_prefix.", least=0)
        output = _count(path, shared, "output_len", "data.shared_prefix.")
        prompts = groups * per_group if groups is not None and per_group is not None else None
        if prompts is not None and prompts > MOST_PROMPTS:
            product = f"data.shared_prefix: num_groups x num_prompts_per_group is {prompts}"
            raise InputError(f"{path}: {product}, expected at most {MOST_PROMPTS}")
    else:
        lengths = _mapping(path, data, "output_distribution", "data.")
        least = _count(path, lengths, "min", "data.output_distribution.", least=0)
        most = _count(path, lengths, "max", "data.output_distribution.", least=0)
        output = least if least is not None and least > 0 and least == most else None
    return Generator(path.name, ignore_eos, output, prompts, per_group, system, _stages(path, settings)), model


def _stages(path: Path, settings: dict[str, Any]) -> tuple[tuple[float, float], ...]:
    """Rate and duration of each stage of an open load; none where a stage does not say them, or clients wait."""
    load = _planned_load(path, settings)
    if any(load.clients):
        return ()
    stages = [(rate, seconds) for rate, seconds in zip(load.rates, load.seconds, strict=True) if rate and seconds]
    return tuple(stages) if len(stages) == len(load.rates) else ()


@dataclass(frozen=True)
class PlannedLoad:
    """The load that a configuration asks for."""

    kind: str | None
    """`constant`, `poisson`, `concurrent`, ...: how requests arrive."""
    rates: tuple[float | None, ...]
    """Requests per second of each stage; None where it is not said."""
    seconds: tuple[float | None, ...]
    """How long each stage lasts; None where it is not said."""
    clients: tuple[int | None, ...]
    """Requests in flight of each stage of a closed loop; None where it is not said."""
    most_in_flight: int | None
    """Requests that the client's own workers hold at once."""


def read_planned_load(path: Path) -> PlannedLoad:
    """The stages of a configuration, and the client's own limit. Raises InputError as `read_inference_perf` does."""
    return _planned_load(path, read_mapping(path))


def _planned_load(path: Path, asked: dict[str, Any]) -> PlannedLoad:
    load = _mapping(path, asked, "load")
    kind: object = load.get("type")
    stages: object = load.get("stages")
    if stages is not None and not isinstance(stages, list):
        raise InputError(f"{path}: load.stages: {shown(stages)}, expected a list")
    rates: list[float | None] = []
    seconds: list[float | None] = []
    clients: list[int | None] = []
    for place, stage in enumerate(cast("list[object]", stages or [])):
        prefix = f"load.stages[{place}]."
        if not isinstance(stage, dict):
            raise InputError(f"{path}: {prefix[:-1]}: {shown(stage)}, expected a mapping")
        settings = cast("dict[str, Any]", stage)
        rates.append(_positive(path, settings, "rate", prefix, "requests per second"))
        seconds.append(_positive(path, settings, "duration", prefix, "seconds"))
        clients.append(_count(path, settings, "concurrency_level", prefix))
    workers = _count(path, load, "num_workers", "load.", least=0)
    each = _count(path, load, "worker_max_concurrency", "load.")
    return PlannedLoad(
        kind if isinstance(kind, str) else None,
        tuple(rates),
        tuple(seconds),
        tuple(clients),
        max(workers, 1) * each if workers is not None and each is not None else None,
    )


def _positive(path: Path, stage: dict[str, Any], name: str, prefix: str, expected: str) -> float | None:
    value: object = stage.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9):
        raise InputError(f"{path}: {prefix}{name}: {shown(value)}, expected {expected}")
    return float(value) if value is not None else None


def _either(path: Path, parent: dict[str, Any], name: str, newer: str) -> int | None:
    """A count by its older name or by its newer one."""
    return _count(path, parent, newer if newer in parent else name, "data.shared_prefix.")


def _mapping(path: Path, parent: dict[str, Any], key: str, prefix: str = "") -> dict[str, Any]:
    value: object = parent.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{path}: {prefix}{key}: {shown(value)}, expected a mapping")
    return cast("dict[str, Any]", value)


def _count(path: Path, parent: dict[str, Any], key: str, prefix: str, least: int = 1) -> int | None:
    value: object = parent.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST_TOKENS:
        expected = f"a whole number of at least {least}"
        if isinstance(value, int) and value > MOST_TOKENS:
            expected = f"at most {MOST_TOKENS}"
        raise InputError(f"{path}: {prefix}{key}: {shown(value)}, expected {expected}")
    return value
