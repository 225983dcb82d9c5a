"""What tables leave out: rows that no kernel can be, formats that no server runs, campaigns known to be bad."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roofml.hardware.gpu import load_gpu
from roofml.microbench.derive import derive
from roofml.microbench.derive.allreduce import allreduce
from roofml.microbench.derive.attention import decode_window, prefill_attention, prefill_window
from roofml.microbench.derive.bounds import LeftOut, possible
from roofml.microbench.derive.gemm import gemm
from roofml.microbench.derive.known_bad import BAD, version_of, without_known_bad
from roofml.microbench.derive.moe import moe
from roofml.microbench.derive.routing import experts_hit
from roofml.microbench.importer import read_table

GPU = load_gpu("H100")
SIDES = (1024, 2048, 4096, 8192)
M = (1, 16, 64, 256, 1024, 4096)
ABOUT = {"framework": "VLLM", "version": "0.25.0", "device": "NVIDIA H100 80GB HBM3"}


def products(dtype: str = "bfloat16", slower: float = 2.0, launch_us: float = 0.0, **about: str) -> pd.DataFrame:
    """Products that take `slower` times the roofline of their type, and a launch."""
    rate, size = (1978.9e6, 1) if dtype.startswith("fp8") else (989.4e6, 2)
    rows = [
        (dtype, m, n, k, 1e-3 * (launch_us + slower * max(2 * m * n * k / rate, size * n * k / 3.35e6)))
        for m, n, k in product(M, SIDES, SIDES)
    ]
    return pd.DataFrame(rows, columns=["gemm_dtype", "m", "n", "k", "latency"]).assign(**{**ABOUT, **about})


def formats(lines: list[str]) -> set[str]:
    return {line.split(",")[0] for line in lines[1:]}


def test_good_products_all_stay() -> None:
    found = gemm(pd.concat([products(), products("fp8"), products("fp8_block", 1.8)]), GPU)
    assert formats(found.lines) == {"bfloat16", "fp8", "fp8_block"}
    assert found.about == {}


def test_a_narrow_format_that_is_slower_in_arithmetic_is_left_out() -> None:
    """FP8 of vLLM 0.14 on an H100: 287 µs where BF16 takes 156."""
    found = gemm(pd.concat([products(), products("fp8", slower=2 * 2 * 1.5)]), GPU)
    assert formats(found.lines) == {"bfloat16"}
    assert "of fp8: slower than bfloat16 (1.50 times" in found.about["left out"]


def test_a_format_timed_with_its_launch_by_the_cpu_is_left_out() -> None:
    """Block-FP8 of 0.24: 55 µs at least, where BF16 takes 2.5."""
    found = gemm(pd.concat([products(), products("fp8_block", slower=1.8, launch_us=25)]), GPU)
    assert formats(found.lines) == {"bfloat16"}
    assert "outside of a CUDA graph" in found.about["left out"]


def test_rows_above_the_roofline_and_failed_ones_are_left_out_and_counted() -> None:
    table = products()
    quick = (table.m == 4096) & (table.n == 8192)
    slow = (table.m == 64) & (table.n == 4096) & (table.k == 4096)
    table.loc[quick, "latency"] /= 3
    table.loc[slow, "latency"] *= 20
    found = gemm(table, GPU)
    assert "4 faster than the datasheet" in found.about["left out"]
    assert "1 below a tenth of the roofline between others" in found.about["left out"]
    shares = {tuple(line.split(",")[:3]): [float(x) for x in line.split(",")[3:]] for line in found.lines[1:]}
    assert shares["bfloat16", "4096", "4096"] == pytest.approx([0.5] * 10, rel=0.1)


def test_what_a_cache_explains_stays() -> None:
    """2 MB read at three times the memory's speed: measured again and again, they never leave the cache."""
    sizes, left_out = np.array([1.0, 16.0, 64.0]), LeftOut()
    reading = np.full(3, 2e6 / 3.35e6)
    kept = possible(sizes, reading / 3, 0 * sizes, reading, np.full(3, 2e6), left_out)
    assert np.isfinite(kept).all()
    gone = possible(sizes, 1e3 * reading / 3, 0 * sizes, 1e3 * reading, np.full(3, 2e9), left_out)
    assert np.isnan(gone).all()


@given(st.lists(st.floats(1.0, 1.0999), min_size=8, max_size=8))
def test_noise_of_a_tenth_is_not_a_fault(noise: list[float]) -> None:
    sizes, left_out = np.asarray(2.0 ** np.arange(8), np.float64), LeftOut()
    times = 10 * np.array(noise)
    none = np.zeros(8)
    assert np.isfinite(possible(sizes, times, none, none + 4, none, left_out)).all()
    assert left_out.about() == {}


def test_a_size_slower_than_twice_its_size_is_left_out() -> None:
    times = possible(np.array([1.0, 2, 4]), np.array([5.0, 9, 5]), np.zeros(3), np.ones(3), np.zeros(3), LeftOut())
    assert np.isnan(times).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("kernel", "about", "gone"),
    [
        ("gemm", {"version": "0.24.0", "format": "fp8_block"}, True),
        ("gemm", {"version": "0.25.0", "format": "fp8_block"}, False),
        ("gemm", {"version": "0.31.0", "format": "fp8_block"}, False),
        ("gemm", {"version": "0.27.1", "format": "fp8_block"}, True),
        ("gemm", {"version": "0.14.0", "format": "fp8"}, True),
        ("gemm", {"version": "0.14.0", "format": "bfloat16"}, False),
        ("context_attention", {"version": "0.19.0"}, True),
        ("generation_attention", {"version": "0.22.0"}, True),
        ("generation_attention", {"version": "0.24.0"}, False),
        ("moe", {"version": "0.25.0", "format": "fp8", "device": "NVIDIA H200"}, True),
        ("moe", {"version": "0.25.0", "format": "fp8", "device": "NVIDIA B200"}, False),
        ("moe", {"version": "0.19.0", "format": "fp8", "device": "NVIDIA H200"}, False),
        ("moe", {"version": "0.19.0", "format": "int4_wo"}, True),
        ("moe", {"version": "0.19.0", "format": "w4a16_mxfp4", "device": "NVIDIA B200"}, True),
    ],
)
def test_campaigns_that_are_known_to_be_wrong(kernel: str, about: dict[str, str], gone: bool) -> None:
    row = {**ABOUT, f"{kernel}_dtype": "any", **about}
    if "format" in row:
        row[f"{kernel}_dtype"] = row.pop("format")
    left_out = LeftOut()
    assert without_known_bad(pd.DataFrame([row]), kernel, left_out).empty is gone
    assert bool(left_out.reasons) is gone


def test_versions_and_reasons() -> None:
    assert version_of("0.24.0") == (0, 24, 0)
    assert version_of("0.1.dev19262") == (0, 1)
    assert all(bad.since <= bad.until and bad.reason for bad in BAD)
    own = pd.DataFrame([{"gemm_dtype": "fp8", "latency": 1.0}])
    assert len(without_known_bad(own, "gemm", LeftOut())) == 1  # one's own measurements name no campaign


def test_experts_hit_in_turn_and_by_a_power_law() -> None:
    """Times of H100, vLLM 0.25: as if 69 of 128 experts were hit at M = 16, 8 a token, and 136 of 256 at M = 32."""
    assert experts_hit("balanced", 128, 8, 4) == 32
    assert experts_hit("balanced", 128, 8, 1000) == 128
    assert experts_hit("power_law_1.01", 128, 8, 1) == pytest.approx(8, rel=0.05)
    assert experts_hit("power_law_1.01", 128, 8, 16) == pytest.approx(69, rel=0.1)
    assert experts_hit("power_law_1.01", 256, 8, 32) == pytest.approx(136, rel=0.1)
    with pytest.raises(ValueError, match="expected balanced or power_law"):
        experts_hit("zipf", 8, 2, 1)


def mixtures(distribution: str, dtype: str = "bfloat16", slower: float = 2.0) -> pd.DataFrame:
    rows = []
    for m, inter in product((1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192), (512, 1024)):
        hit = experts_hit(distribution, 64, 8, m)
        time = slower * max(6 * m * 8 * 2048 * inter / 989.4e6, 6 * hit * 2048 * inter / 3.35e6)
        rows.append((dtype, m, 2048, inter, 8, 64, 1, 1, distribution, 1e-3 * time))
    names = "moe_dtype num_tokens hidden_size inter_size topk num_experts moe_tp_size moe_ep_size distribution latency"
    return pd.DataFrame(rows, columns=names.split()).assign(**ABOUT)


@pytest.mark.parametrize("distribution", ["balanced", "power_law_1.01"])
def test_a_mixtures_ideal_is_that_of_the_experts_its_routing_hits(distribution: str) -> None:
    found = moe(mixtures(distribution), GPU)
    assert found.about["routing"] == distribution
    for line in found.lines[1:]:
        assert [float(x) for x in line.split(",")[5:]] == pytest.approx([0.5] * 12, rel=0.01)


def test_a_mixtures_kernel_that_no_server_uses_is_left_out() -> None:
    found = moe(pd.concat([mixtures("balanced"), mixtures("balanced", "fp8", slower=5.0)]), GPU)
    assert formats(found.lines) == {"bfloat16"}


def test_messages_are_elements_and_none_is_faster_than_the_link() -> None:
    sizes = [128, 2**20, 2**29]
    table = pd.DataFrame({"num_gpus": 8, "message_size": sizes, "latency": [0.004, 0.02, 4.0], "backend": "vllm_graph"})
    found = allreduce(table, GPU)
    assert found.lines[1].startswith("8,256,")
    table.loc[2, "latency"] = 0.5  # 3.8 TB/s over 450 GB/s
    assert "1 faster than the link" in allreduce(table, GPU).about["left out"]


def test_windows_have_tables_of_their_own() -> None:
    """A window of 128 read at half the bandwidth, whatever the context; prefill over the pairs it leaves at a tenth."""
    decode = [
        (batch, 1, step, 64, 8, 64, 128, 1e-3 * (12 + 2 * batch * min(step + 1, 128) * 4 * 512 / 3.35e6))
        for batch, step in product((1, 64, 512, 2048), (1, 15, 127, 1023, 8191))
    ]
    names = "batch_size isl step num_heads num_key_value_heads head_dim window_size latency"
    table = pd.DataFrame(decode, columns=names.split()).assign(kv_cache_dtype="bfloat16", **ABOUT)
    header, line = decode_window(table, GPU).lines
    assert header == "kv_dtype,heads,kv_heads,head_dim,window,fixed_us,item_us,mbu,sd"
    assert line.startswith("bfloat16,64,8,64,128,")
    fixed, _, mbu = (float(x) for x in line.split(",")[5:8])
    assert (fixed, mbu) == pytest.approx((12, 0.5), rel=0.05)
    prefill = []
    for batch, s in product((8, 64), (4096, 16384)):
        pairs = s * 128 - 128**2 / 2
        prefill.append((batch, s, 64, 8, 64, 128, 1e-3 * 10 * 4 * 64 * 64 * batch * pairs / 989.4e6))
    names = "batch_size isl num_heads num_key_value_heads head_dim window_size latency"
    table = pd.DataFrame(prefill, columns=names.split()).assign(kv_cache_dtype="fp8", **ABOUT)
    header, line = prefill_window(table, GPU).lines
    assert line == "fp8,64,8,64,128,,,0.1,,0.1"
    assert len(prefill_attention(table, GPU).lines) == 1


@pytest.mark.parametrize(
    ("folder", "format"),
    [("h100_sxm-vllm-0.14.0", "fp8"), ("h200_sxm-vllm-0.14.0", "fp8_block"), ("l40s-vllm-0.14.0", "fp8")],
)
def test_bad_campaigns_fail_the_bounds_by_themselves(shared: Path, folder: str, format: str) -> None:
    """Without the list: their versions and devices are not said."""
    path = shared / "kernels" / folder / "gemm_perf.parquet"
    table = read_table(path, "gemm").drop(columns=["version", "device"])
    found = gemm(table, load_gpu(folder.split("-")[0].split("_")[0]))
    assert format not in formats(found.lines)
    assert f"of {format}: " in found.about["left out"]


def test_no_good_format_of_the_shipped_campaigns_is_missing(shared: Path) -> None:
    folder = shared / "kernels" / "b300_sxm-vllm-0.25.0"
    measured = {kernel: read_table(folder / f"{kernel}_perf.parquet", kernel) for kernel in ("gemm", "moe")}
    texts = derive(measured, load_gpu("B300"), {})
    found = {name: {line.split(",")[0] for line in text.splitlines() if line[0] != "#"} for name, text in texts.items()}
    assert {"bfloat16", "fp8", "fp8_block", "nvfp4"} <= found["gemm.csv"]
    assert {"bfloat16", "fp8", "fp8_block", "nvfp4", "mxfp4", "mxfp4_mxfp8", "int4"} <= found["moe.csv"]
