"""How well the tables of modules predict shapes that they were not derived from: every second one is left out.

    python benchmarks/held_out_modules.py GPU FOLDER...

FOLDER holds `<kernel>_perf.parquet` of NVIDIA's measurements. Prints, for each kind, the median and the 90th percentile
of |predicted / measured - 1| over the shapes left out, projections of whole blocks included.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from roofml.hardware.gpu import Gpu, load_gpu
from roofml.hardware.load_kernels import load_efficiency
from roofml.microbench.derive import blocks, recurrent
from roofml.microbench.importer import read_table
from roofml.util.arrays import Floats

BLOCKS = {
    "mla_generation_module": (blocks.MLA, False),
    "mla_context_module": (blocks.MLA, True),
    "dsa_generation_module": (blocks.DSA, False),
    "dsa_context_module": (blocks.DSA, True),
    "dsv4_csa_generation_module": (blocks.CSA, False),
    "dsv4_csa_context_module": (blocks.CSA, True),
    "dsv4_hca_generation_module": (blocks.HCA, False),
    "dsv4_hca_context_module": (blocks.HCA, True),
}
SCANS = ("gdn", "kda")


def block_errors(kernel: str, table: Any, gpu: Gpu) -> Floats:
    """Relative errors of the blocks left out."""
    block, prompts = BLOCKS[kernel]
    gemm = load_efficiency(gpu).gemm
    errors: list[Floats] = []
    case = ["batch_size", "isl", "step", "gemm_type"]
    for (kv_dtype, heads), rows in blocks.chosen(block, table, prompts).groupby(["kv_cache_dtype", "num_heads"]):
        rows = rows.groupby(case, as_index=False).latency.min()
        if len(rows) < 24:
            continue
        (fixed, item, share, index_share), _ = blocks.fit(block, rows[::2], gpu, gemm, int(heads), str(kv_dtype))
        held = rows[1::2]
        attention, index, items = blocks.ideals(block, int(heads), str(kv_dtype), held, gpu)
        tokens = (held.batch_size * held.isl).to_numpy(float)
        dtype = blocks.GEMM_DTYPES[str(held.gemm_type.iloc[0])]
        time = fixed + item * items + attention / share + index / index_share
        time = time + blocks.projections_us(block, int(heads), dtype, tokens, gpu, gemm)
        errors.append(time / (1e3 * held.latency.to_numpy(float)) - 1)
    return np.concatenate(errors)


def scan_errors(table: Any, gpu: Gpu) -> tuple[Floats, Floats]:
    """Relative errors of prompts left out, and of decodes whose states no cache holds."""
    prompts = recurrent.both_kernels(table[table.phase == "context"])
    prompts = prompts[prompts.seq_len >= recurrent.SHORTEST]
    fixed, stream, head, norm, conv, _ = recurrent.scan_fit(prompts[::2])
    held = prompts[1::2]
    batch, tokens, heads = (held[name].to_numpy(float) for name in ("batch_size", "seq_len", "num_v_heads"))
    time = recurrent.scan_us(fixed, stream, head, norm, batch, tokens, heads) + conv * batch * tokens * heads
    decodes: list[Floats] = []
    for number, rows in recurrent.both_kernels(table[table.phase == "generation"]).groupby("num_v_heads"):
        fixed, mbu, _ = recurrent.decode_line(rows[::2], gpu)
        held_rows = rows[1::2]
        ideal = 2 * held_rows.batch_size.to_numpy(float) * float(number) * recurrent.STATE / gpu.bandwidth_bytes_per_us
        measured = (held_rows.scan + held_rows.conv).to_numpy(float)
        decodes.append((fixed + ideal / mbu)[ideal > 40] / measured[ideal > 40] - 1)
    return time / (held.scan + held.conv).to_numpy(float) - 1, np.concatenate(decodes)


def main(name: str, folders: list[str]) -> None:
    """Print the errors of every kernel that lies in the folders."""
    gpu = load_gpu(name)

    def say(kernel: str, errors: Floats) -> None:
        off = 100 * np.abs(errors)
        print(
            f"{gpu.name:6} {kernel:28} median {np.median(off):5.1f} %  p90 {np.quantile(off, 0.9):5.1f} %  n {len(off)}"
        )

    for folder in map(Path, folders):
        for kernel in (*SCANS, *BLOCKS):
            path = folder / f"{kernel}_perf.parquet"
            if not path.exists():
                continue
            table = read_table(path, kernel)
            if kernel in BLOCKS:
                say(kernel, block_errors(kernel, table, gpu))
            else:
                for phase, errors in zip(("prompts", "decodes"), scan_errors(table, gpu), strict=True):
                    say(f"{kernel} {phase}", errors)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
