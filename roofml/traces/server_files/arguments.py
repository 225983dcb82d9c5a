"""What arguments of `vllm serve`, by their Python names, say of a server: as `Facts`, whoever wrote them down.

Names are those of vllm/engine/arg_utils.py. What changes a step and is not read is said in a finding, never dropped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

from roofml.traces.finding import Finding
from roofml.traces.settings import NAMES as SETTINGS
from roofml.traces.settings import NOT_MODELLED, is_on
from roofml.util.names import shown
from roofml.util.outside_text import for_line

FIELDS = {
    "model": "model",
    "tensor_parallel_size": "tensor_parallel",
    "max_num_seqs": "max_num_seqs",
    "max_num_batched_tokens": "max_num_batched_tokens",
    "block_size": "block_size",
    "num_gpu_blocks_override": "num_gpu_blocks",
    "max_model_len": "max_model_len",
    "enable_prefix_caching": "prefix_caching",
    "async_scheduling": "async_scheduling",
    "kv_cache_dtype": "kv_dtype",
    "scheduling_policy": "policy",
    "cuda_graph_sizes": "cudagraph_capture_sizes",
} | {name: name for name in SETTINGS}
"""Argument of `vllm serve` -> field of `Server`, or of its settings."""

ALIASES = {"model_tag": "model", "max_seq_len": "max_model_len", "chunked_prefill_enabled": "enable_chunked_prefill"}
"""Other names that logs give an argument."""

SHORT = {
    "tp": "tensor_parallel_size",
    "pp": "pipeline_parallel_size",
    "dp": "data_parallel_size",
    "dcp": "decode_context_parallel_size",
    "ep": "enable_expert_parallel",
    "O": "compilation_config",
    "q": "quantization",
    "cc": "compilation_config",
    "sc": "speculative_config",
}
"""Arguments of one dash."""

BESIDE = ("dtype", "quantization", "gpu_memory_utilization", "served_model_name", "max_cudagraph_capture_size")
"""Arguments that are no field of `Server`, and are kept for whoever derives one from them."""

COUNTS = frozenset(
    (
        *("tensor_parallel_size", "max_num_seqs", "max_num_batched_tokens", "block_size", "num_gpu_blocks_override"),
        *("max_model_len", "max_num_active_seqs", "long_prefill_token_threshold", "prefill_schedule_interval"),
        *("max_num_queued_reqs", "max_num_queued_tokens", "stream_interval", "max_cudagraph_capture_size"),
        *("pipeline_parallel_size", "data_parallel_size", "decode_context_parallel_size"),
        *("prefill_context_parallel_size", "num_speculative_tokens"),
    )
)
"""Arguments that are whole numbers; vLLM reads `32k` and `32K` too."""
SWITCHES = frozenset(
    (
        *("enable_prefix_caching", "async_scheduling", "enforce_eager", "enable_chunked_prefill"),
        *("scheduler_reserve_full_isl", "long_prefill_token_threshold_adaptive", "enable_expert_parallel"),
        *("enable_lora", "trust_remote_code", "disable_log_stats", "disable_log_requests", "enable_log_requests"),
        *("enable_auto_tool_choice", "enable_server_load_tracking", "enable_prompt_tokens_details", "headless"),
        *("enable_log_outputs", "enable_return_routed_experts", "disable_custom_all_reduce", "enable_dbo"),
        *("enable_eplb", "language_model_only", "disable_hybrid_kv_cache_manager", "enable_sleep_mode"),
        *("disable_log_stats", "enable_logging_iteration_details", "disable_uvicorn_access_log"),
        *("enable_force_include_usage", "enable_reasoning", "enable_request_id_headers", "skip_tokenizer_init"),
    )
)
"""Arguments that need no value."""
NUMBERS = frozenset({"watermark", "gpu_memory_utilization"})

KV_DTYPES = {"auto": "auto", "bfloat16": "bfloat16", "float16": "float16", "half": "float16"}
"""`--kv-cache-dtype` -> type of the cache; every FP8 format is fp8."""

NOT_READ = {
    "enable_lora": "LoRA adapters",
    "enable_dbo": "overlapped batches",
    "enable_eplb": "balancing of experts",
    "max_num_partial_prefills": "several partial prefills",
    "scheduler_cls": "another scheduler",
}
"""Arguments that change a schedule or a step in a way that is neither modelled nor refused."""

AT_LOAD = ("fp8", "ptpc_fp8", "mxfp8", "experts_int8", "bitsandbytes", "torchao")
"""Values of `--quantization` that make other weights of a checkpoint when it is loaded."""

_NUMBER = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,6}))?([kKmMgG]?)")
_THOUSANDS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}


def facts_of(arguments: Mapping[str, object]) -> tuple[dict[str, object], tuple[Finding, ...]]:
    """The facts that arguments of `vllm serve` say, by their Python names, and what about them is not read.

    A value that is text is read as the command line does. None is what vLLM was not told.
    """
    facts: dict[str, object] = {}
    findings: list[Finding] = []
    for given, value in arguments.items():
        name = ALIASES.get(given, given)
        if value is None:
            continue
        if name == "kv_cache_dtype":
            findings += _kv_dtype(facts, str(value))
        elif name == "compilation_config" and isinstance(value, Mapping):
            facts |= _graphs(cast("Mapping[str, object]", value))
        elif name == "enable_chunked_prefill" and value is False:
            findings.append(_unread(name, value, "prompts are not cut into chunks"))
        elif name in NOT_READ and is_on(value):
            findings.append(_unread(name, value, NOT_READ[name]))
        elif name == "quantization" and value in AT_LOAD:
            facts[name] = value
            findings.append(_at_load(str(value)))
        elif name in FIELDS or name in NOT_MODELLED or name in BESIDE:
            facts[FIELDS.get(name, name)] = model_name(str(value)) if name == "model" else value
    return facts, tuple(findings)


def read_value(name: str, text: str) -> object:
    """The value of an argument as a command line has it. A text that is no such value stays a text."""
    if name in COUNTS:
        match = _NUMBER.fullmatch(text.replace("_", ""))
        if match:
            number = float(f"{match[1]}.{match[2] or 0}") * _THOUSANDS[match[3]]
            return int(number) if number == int(number) else text
    if name in NUMBERS:
        try:
            return float(text)
        except ValueError:
            return text
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return text


def model_name(text: str) -> str:
    """The name of a model: of a folder in the Hub's cache (`models--ORG--NAME/snapshots/..`), ORG/NAME."""
    cached = re.search(r"models--([\w.-]+?)--([\w.-]+)/snapshots/", text)
    return f"{cached[1]}/{cached[2]}" if cached else text


def _kv_dtype(facts: dict[str, object], text: str) -> list[Finding]:
    kind = "fp8" if text.startswith("fp8") else KV_DTYPES.get(text)
    if kind is not None:
        facts["kv_dtype"] = kind
        return []
    return [_unread("kv_cache_dtype", text, "a KV cache of another type than is modelled")]


def _graphs(config: Mapping[str, object]) -> dict[str, object]:
    """The sizes of CUDA graphs that a compilation config names."""
    sizes, most = config.get("cudagraph_capture_sizes"), config.get("max_cudagraph_capture_size")
    found: dict[str, object] = {}
    if isinstance(sizes, list) and all(isinstance(size, int) for size in cast("list[object]", sizes)):
        found["cudagraph_capture_sizes"] = sorted(cast("list[int]", sizes))
    if isinstance(most, int):
        found["max_cudagraph_capture_size"] = most
    return found


def _unread(name: str, value: object, what: str) -> Finding:
    return Finding(
        "server-setting-not-read",
        "warning",
        f"The server ran with {name} = {shown(value)}: {what}, which no replay imitates.",
        {"argument": name, "value": for_line(str(value))[:200]},
        "Predictions leave it out. Record a server without it to calibrate.",
    )


def _at_load(kind: str) -> Finding:
    return Finding(
        "quantized-at-load",
        "warning",
        f"The server was told to quantize ({kind}): if the checkpoint is not of that kind, its config does not say it.",
        {"quantization": kind},
        "Give --model with the name of a copy in that precision, or the run is priced as its config says.",
    )
