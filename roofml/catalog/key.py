"""The key of a deployment: what two runs must share for one fit to be of both, and a file name for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from roofml.hardware.gpu import load_gpu
from roofml.models.load import load_model
from roofml.traces.engine_version import parse_version, said, schedules_ahead
from roofml.traces.server import Server
from roofml.util.digest import digest
from roofml.util.errors import InputError
from roofml.util.outside_text import for_file_name

SHOWN_DIGITS = 8
"""Hexadecimal digits of a digest in a file's name."""


@dataclass(frozen=True, order=True)
class Key:
    """A model on GPUs behind an engine that is set so: all that changes the time of a step."""

    config_sha256: str
    """Of the model in its precision, whatever it is called."""
    gpu: str
    gpu_sheet_sha256: str
    tp: int
    engine: str
    engine_version: str
    """As `0.15.1`; empty if nobody says."""
    kv_dtype: str
    async_scheduling: bool
    enforce_eager: bool
    capture_sizes: tuple[int, ...]
    """Sizes of CUDA graphs; empty for those that the version chooses."""
    performance_mode: str

    @property
    def sha256(self) -> str:
        """Of all of it."""
        return digest(*(f"{name}={value!r}" for name, value in sorted(asdict(self).items())))

    @property
    def settings(self) -> dict[str, Any]:
        """What is set otherwise than a server of its version that was told nothing."""
        usual = schedules_ahead(self.engine, self.engine_version or None)
        return {
            **({"async_scheduling": self.async_scheduling} if self.async_scheduling != usual else {}),
            **({"enforce_eager": True} if self.enforce_eager else {}),
            **({"cudagraph_capture_sizes": list(self.capture_sizes)} if self.capture_sizes else {}),
            **({"performance_mode": self.performance_mode} if self.performance_mode != "balanced" else {}),
        }

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "capture_sizes": list(self.capture_sizes)}

    @classmethod
    def of_dict(cls, document: Mapping[str, Any]) -> Key:
        """The key that `to_dict` wrote."""
        values: dict[str, Any] = {**document, "capture_sizes": tuple(document["capture_sizes"])}
        return cls(**values)


def key_of(server: Server) -> Key:
    """The key of a run's server. Raises InputError for a model or GPU that is not known, and for an unsaid GPU."""
    if server.gpu is None:
        raise InputError("nobody says gpu; give --gpu GPU")
    model, gpu, settings = load_model(server.model), load_gpu(server.gpu), server.settings
    version = server.engine_version
    return Key(
        config_sha256=model.config_sha256,
        gpu=gpu.name,
        gpu_sheet_sha256=gpu.sheet_sha256,
        tp=server.tensor_parallel,
        engine=server.engine,
        engine_version=said(parse_version(version, "engine version")) if version is not None else "",
        kv_dtype=server.kv_dtype if server.kv_dtype not in (None, "auto") else model.kv_dtype or model.dtype,
        async_scheduling=server.async_scheduling,
        enforce_eager=settings.enforce_eager,
        capture_sizes=settings.cudagraph_capture_sizes or (),
        performance_mode=settings.performance_mode,
    )


def file_names(keys: Iterable[tuple[Key, str]]) -> dict[Key, str]:
    """A file name, such as `llama-2-7b-hf-h100-tp1-0.15.1`, without ending for each key, with its model's name.

    What is set otherwise than usual, another engine or KV type adds a digest; so do two keys that would share a name.
    """
    names: dict[Key, str] = {}
    for key, model in keys:
        plain = [model, key.gpu, f"tp{key.tp}", *([key.engine_version] if key.engine_version else [])]
        odd = key.settings or key.engine != "vllm" or key.kv_dtype.startswith("fp8")
        names[key] = for_file_name("-".join([*plain, *([key.sha256[:SHOWN_DIGITS]] if odd else [])]))
    shared = Counter(names.values())
    return {
        key: name if shared[name] == 1 else f"{name[:80]}-{key.sha256[: 2 * SHOWN_DIGITS]}"
        for key, name in names.items()
    }
