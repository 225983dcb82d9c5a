"""Derivation of modules: made-up measurements give their numbers back, real ones predict what was left out."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roofml.hardware.gpu import load_gpu
from roofml.hardware.load_kernels import load_efficiency
from roofml.microbench.derive import blocks, recurrent

pd = pytest.importorskip("pandas")
H100 = load_gpu("H100")


def made_up_block(block: blocks.Block, heads: int, fixed: float, item: float, share: float, index: float) -> Any:
    """Decodes of a block that takes exactly so long besides its projections."""
    cases = product((1, 4, 16, 64, 256), (2, 64, 1024, 8192, 65536))
    rows = pd.DataFrame([(b, 1, c) for b, c in cases], columns=["batch_size", "isl", "step"])
    rows = rows.assign(num_heads=heads, kv_cache_dtype="bfloat16", gemm_type="bfloat16", model=block.model)
    attention, scores, requests = blocks.ideals(block, heads, "bfloat16", rows, H100)
    own = blocks.projections_us(block, heads, "bfloat16", requests, H100, load_efficiency(H100).gemm)
    return rows.assign(latency=(fixed + item * requests + attention / share + scores / index + own) / 1e3)


@pytest.mark.parametrize("block", [blocks.MLA, blocks.DSA, blocks.CSA])
def test_known_numbers_are_found_beside_the_projections(block: blocks.Block) -> None:
    table = made_up_block(block, 16, 40.0, 0.2, 0.8, 0.6)
    (fixed, item, share, index), sd = blocks.fit(block, table, H100, load_efficiency(H100).gemm, 16, "bfloat16")
    assert fixed == pytest.approx(40, rel=1e-6)
    assert item == pytest.approx(0.2, rel=1e-6)
    assert share == pytest.approx(0.8, rel=1e-6)
    if block is not blocks.MLA:  # it has no indexer
        assert index == pytest.approx(0.6, rel=1e-6)
    assert sd < 1e-6


def test_a_scan_and_its_convolution_are_found() -> None:
    cases = product((1, 4, 16), (128, 512, 4096), (8, 32))
    rows = pd.DataFrame(cases, columns=["batch_size", "seq_len", "num_v_heads"])
    batch, tokens, heads = (rows[name].to_numpy(float) for name in rows)
    rows = rows.assign(
        scan=recurrent.scan_us(10.0, 0.05, 0.0005, 3.0, batch, tokens, heads), conv=0.0004 * batch * tokens * heads
    )
    fixed, stream, head, norm, conv, _ = recurrent.scan_fit(rows)
    assert (fixed, stream, head, norm, conv) == pytest.approx((10.0, 0.05, 0.0005, 3.0, 0.0004), rel=1e-3)


@pytest.mark.parametrize(
    ("kernel", "block", "prompts"),
    [
        ("mla_generation_module", blocks.MLA, False),
        ("mla_context_module", blocks.MLA, True),
        ("dsv4_csa_generation_module", blocks.CSA, False),
        ("dsv4_hca_generation_module", blocks.HCA, False),
        ("dsv4_hca_context_module", blocks.HCA, True),
    ],
)
def test_every_second_real_block_is_predicted_from_the_others(
    shared: Path, kernel: str, block: blocks.Block, prompts: bool
) -> None:
    """To 10 % in the median, of one number of heads."""
    table = pd.read_parquet(shared / "kernels" / "h100_sxm-vllm-0.25.0" / f"{kernel}_perf.parquet")
    rows = blocks.chosen(block, table, prompts)
    rows = rows[(rows.num_heads == 16) & (rows.kv_cache_dtype == "fp8")]
    rows = rows.groupby(["batch_size", "isl", "step", "gemm_type"], as_index=False).latency.min()
    gemm = load_efficiency(H100).gemm
    (fixed, item, share, index_share), _ = blocks.fit(block, rows[::2], H100, gemm, 16, "fp8")
    held = rows[1::2]
    attention, index, items = blocks.ideals(block, 16, "fp8", held, H100)
    dtype = blocks.GEMM_DTYPES[str(held.gemm_type.iloc[0])]
    own = blocks.projections_us(block, 16, dtype, (held.batch_size * held.isl).to_numpy(float), H100, gemm)
    time = fixed + item * items + attention / share + index / index_share + own
    assert np.median(np.abs(time / (1e3 * held.latency.to_numpy()) - 1)) < 0.1
