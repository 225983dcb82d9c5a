"""Derive `bench_data/<gpu>/efficiency.yaml` from tables of measured kernel latencies.

    python benchmarks/kernel_efficiency.py ../shared/kernels/h100_sxm-vllm-0.14.0 H100 > bench_data/h100/efficiency.yaml

The tables are those of NVIDIA's aiconfigurator (Apache-2.0), one parquet file an operation; what is written here are
ratios of ideal to measured time, the median over shapes that serving uses. Needs pyarrow.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from roofml.gpu import Gpu, load_gpu

GROUPED_IN_SERVING = 0.63
"""What grouped decode attention keeps of its kernel's bandwidth in serving. Not in the kernel tables, whose batches
have one context length each: the saturated CodeLlama-34B run (batch 128, contexts 1,080-2,530) streams its KV cache at
0.53-0.63 of the peak where the kernel alone reaches 0.87."""

TOKENS = [1, 8, 16, 32, 64, 128, 256, 384, 512, 768, 1024, 2048, 4096, 8192]


def gemm_efficiency(folder: Path, gpu: Gpu) -> list[float]:
    """Median over matrices of at least 2^25 weights of max(FLOP/peak, weight bytes/bandwidth) over measured time."""
    table = pd.read_parquet(folder / "gemm_perf.parquet")
    table = table[(table.gemm_dtype == "bfloat16") & (table.n * table.k >= 2**25) & (table.n <= 16384)]
    ideal = np.maximum(
        2.0 * table.m * table.n * table.k / gpu.flops_per_us["bfloat16"],
        2.0 * table.n * table.k / gpu.bandwidth_bytes_per_us,
    )
    by_tokens = (ideal / (1e3 * table.latency)).groupby(table.m).median()
    return [float(by_tokens.loc[m]) for m in TOKENS]


def moe_efficiency(folder: Path, gpu: Gpu) -> list[float]:
    """The same for the fused mixture of experts, weights of the experts that uniform routing is expected to hit.

    Only shapes that vLLM has tuned tile sizes for: the others, less than half as fast on thousands of tokens, would
    need a table by shape.
    """
    table = pd.read_parquet(folder / "moe_perf.parquet")
    table = table[(table.moe_dtype == "bfloat16") & (table.moe_ep_size == 1) & (table.moe_tp_size <= 4)]
    table = table[table.kernel_source == "vllm_fused_moe"]
    width = table.inter_size / table.moe_tp_size
    hit = table.num_experts * (1 - (1 - table.topk / table.num_experts) ** table.num_tokens)
    ideal = np.maximum(
        6.0 * table.num_tokens * table.topk * table.hidden_size * width / gpu.flops_per_us["bfloat16"],
        6.0 * hit * table.hidden_size * width / gpu.bandwidth_bytes_per_us,
    )
    table = table.assign(efficiency=ideal / (1e3 * table.latency), ideal=ideal)
    shape = ["num_experts", "hidden_size", "inter_size", "topk", "moe_tp_size"]
    fast = table[table.num_tokens == 8192].groupby(shape).efficiency.median()
    tuned = fast[fast > 0.7 * fast.max()].index
    table = table[pd.MultiIndex.from_frame(table[shape]).isin(tuned) & (table.ideal > 30)]
    by_tokens = table.groupby("num_tokens").efficiency.median()
    tokens = by_tokens.index.to_numpy()
    return [float(np.interp(np.log(m), np.log(tokens), by_tokens.to_numpy())) for m in TOKENS]


def attention_efficiency(folder: Path, gpu: Gpu) -> tuple[float, float]:
    """(MFU of causal prefill attention of long prompts, MBU of decode attention once it is bandwidth-bound)."""
    prefill = pd.read_parquet(folder / "context_attention_perf.parquet")
    prefill = prefill[(prefill.kv_cache_dtype == "bfloat16") & (prefill.num_heads >= 8)]
    flops = 2.0 * prefill.batch_size * prefill.isl**2 * prefill.num_heads * prefill.head_dim
    mfu = (flops / gpu.flops_per_us["bfloat16"] / (1e3 * prefill.latency))[(prefill.isl >= 2048)].median()
    decode = pd.read_parquet(folder / "generation_attention_perf.parquet")
    decode = decode[(decode.kv_cache_dtype == "bfloat16") & (decode.num_heads >= 8)]
    context = decode.isl + decode.step
    read = 4.0 * decode.batch_size * context * decode.num_key_value_heads * decode.head_dim
    # A step streams more than the cache holds, which a kernel measured alone on little data does not show.
    mbu = (read / gpu.bandwidth_bytes_per_us / (1e3 * decode.latency))[read > 4e8].median()
    return float(mfu), float(mbu)


def allreduce_us(folder: Path) -> tuple[list[int], dict[int, list[float]]]:
    """Measured time of an all-reduce inside a CUDA graph by message size and number of GPUs, µs."""
    table = pd.read_parquet(folder / "custom_allreduce_perf.parquet")
    graph = table[table.backend == "vllm_graph"] if "backend" in table else table
    wide = (1e3 * graph.pivot_table(index="message_size", columns="num_gpus", values="latency")).cummax()
    sizes = [128, *(2**p for p in range(16, 28))]
    wide = wide.loc[[size for size in sizes if size in wide.index]]
    columns = {int(str(n)): [round(float(v), 1) for v in wide[n].ffill()] for n in wide.columns}
    return [int(s) for s in wide.index], columns


def main() -> None:
    """Print the efficiency file of one GPU."""
    folder, gpu = Path(sys.argv[1]), load_gpu(sys.argv[2])
    mfu, mbu = attention_efficiency(folder, gpu)
    sizes, reduce = allreduce_us(folder)
    print(f"# Derived by benchmarks/kernel_efficiency.py from aiconfigurator's tables {folder.name} (Apache-2.0).")
    print(f"source: NVIDIA aiconfigurator, {folder.name}, BF16 kernels")
    gemm, moe = gemm_efficiency(folder, gpu), moe_efficiency(folder, gpu)
    print(f"gemm: {np.median(gemm[TOKENS.index(1024) :]):.3f}")
    print(f"moe: {np.median(moe[TOKENS.index(2048) :]):.3f}")
    print(f"weights: {gemm[0]:.3f}")
    print(f"moe_weights: {moe[TOKENS.index(64)]:.3f}")
    print(f"prefill_attention: {mfu:.3f}")
    print(f"decode_attention: {mbu:.3f}")
    print(
        f"decode_attention_grouped: {mbu * GROUPED_IN_SERVING:.3f}  # in serving: kernel alone x {GROUPED_IN_SERVING}"
    )
    print(f"allreduce_bytes: {sizes}")
    print("allreduce_us:")
    for gpus, times in reduce.items():
        print(f"  {gpus}: {times}")


if __name__ == "__main__":
    main()
