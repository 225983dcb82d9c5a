"""Multi-head latent attention without its projections -> mla_prefill.csv and mla_decode.csv, by heads on one GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from roofml.hardware.gpu import Gpu
from roofml.microbench.derive.attention import PROMPTS, decode_lines, prompt_lines
from roofml.microbench.derive.dtypes import CACHE_DTYPES
from roofml.microbench.derive.family import Derived, Family

LATENT_ENTRY = 576
"""Elements of a token in the cache of multi-head latent attention: 512 compressed and 64 rotary."""


def latent_decode(table: Any, gpu: Gpu) -> Derived:
    """Lines of mla_decode.csv, by heads on one GPU, and the median relative residual of its lines."""
    lines: list[str] = []
    errors: list[float] = []
    for source_dtype, (dtype, size) in CACHE_DTYPES.items():
        rows = table[table.kv_cache_dtype == source_dtype].assign(entry_bytes=LATENT_ENTRY * size, pairs=1)
        dtype_lines, error = decode_lines(rows, ["num_heads"], dtype, gpu)
        lines += dtype_lines
        errors += [error] * len(dtype_lines)
    return Derived(["kv_dtype,heads,fixed_us,item_us,mbu,sd", *lines], float(np.median(errors)) if errors else 0.0)


def latent_prefill(table: Any, gpu: Gpu) -> Derived:
    """Lines of mla_prefill.csv: queries and keys have 128 + 64 elements a head, values 128, so 640 FLOP a pair."""
    lines, sd = prompt_lines(table.assign(flops_per_pair=640.0 * table.num_heads), ["num_heads"], gpu)
    return Derived(["dtype,heads," + ",".join(f"s{s}" for s in PROMPTS), *lines], sd)


PREFILL = ("kv_cache_dtype", "batch_size", "isl", "num_heads", "latency")
DECODE = ("kv_cache_dtype", "batch_size", "isl", "step", "num_heads", "latency")
FAMILIES = (
    Family("mla_prefill", "context_mla", PREFILL, latent_prefill),
    Family("mla_decode", "generation_mla", DECODE, latent_decode),
)
