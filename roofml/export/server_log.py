"""A Server as the lines of vLLM's start-up log that say how it was set. For examples and tests of readers.

Source of the lines: vllm/entrypoints/utils.py, vllm/v1/engine/core.py and vllm/v1/core/kv_cache_utils.py of 0.15.
"""

from __future__ import annotations

from roofml.traces.engine_version import ASSUMED, said
from roofml.traces.server import Server

API, CORE = "(APIServer pid=101)", "(EngineCore_DP0 pid=202)"


def server_log(server: Server, graph_sizes: tuple[int, ...], *, device: str = "", at: str = "02-28 12:00:00") -> str:
    """The log, as text. `device` is the line of `nvidia-smi` that the job printed first, `at` every line's time."""
    version = server.engine_version or said(ASSUMED)
    tokens = server.num_gpu_blocks * server.block_size
    longest = -(-server.max_model_len // server.block_size)
    asked = {
        "model_tag": server.model,
        "model": server.model,
        "max_model_len": server.max_model_len,
        "tensor_parallel_size": server.tensor_parallel,
        "max_num_batched_tokens": server.max_num_batched_tokens,
        "max_num_seqs": server.max_num_seqs,
    }
    graphs = list(graph_sizes)
    config = {
        "model": repr(server.model),
        "speculative_config": "None",
        "dtype": "torch.bfloat16",
        "max_seq_len": server.max_model_len,
        "tensor_parallel_size": server.tensor_parallel,
        "pipeline_parallel_size": 1,
        "data_parallel_size": 1,
        "quantization": "None",
        "enforce_eager": not graphs,
        "kv_cache_dtype": server.kv_dtype or "auto",
        "device_config": "cuda",
        "served_model_name": server.model,
        "enable_prefix_caching": server.prefix_caching,
        "enable_chunked_prefill": True,
        "compilation_config": {"cudagraph_capture_sizes": graphs, "max_cudagraph_capture_size": max(graphs, default=0)},
    }
    printed = ", ".join(f"{name}={value}" for name, value in config.items())
    scheduling = "enabled" if server.async_scheduling else "disabled"
    concurrency = f"{server.max_model_len:,} tokens per request: {server.num_gpu_blocks / longest:.2f}x"
    lines = [
        *([device] if device else []),
        f"{API} INFO {at} [api_server.py:1805] vLLM API server version {version}",
        f"{API} INFO {at} [utils.py:261] non-default args: {asked}",
        f"{API} INFO {at} [scheduler.py:226] Chunked prefill is enabled with "
        f"max_num_batched_tokens={server.max_num_batched_tokens}.",
        f"{API} INFO {at} [vllm.py:624] Asynchronous scheduling is {scheduling}.",
        f"{CORE} INFO {at} [core.py:96] Initializing a V1 LLM engine (v{version}) with config: {printed}",
        f"{CORE} INFO {at} [kv_cache_utils.py:1307] GPU KV cache size: {tokens:,} tokens",
        f"{CORE} INFO {at} [kv_cache_utils.py:1312] Maximum concurrency for {concurrency}",
        f"{API} INFO:     Application startup complete.",
    ]
    return "\n".join(lines) + "\n"
