"""Efficiencies: interpolated all-reduces, what is shipped, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import GPU, ROUND

from roofml.hardware.gpu import load_gpu
from roofml.hardware.read_kernels import load_efficiency, read_rows
from roofml.util.errors import InputError
from roofml.util.files import data_folder

MEASURED = sorted(folder.name for folder in data_folder("bench_data").iterdir() if folder.is_dir())


@pytest.mark.parametrize("name", MEASURED)
def test_shipped_tables_are_small_say_their_source_and_hold_possible_numbers(name: str) -> None:
    """An efficiency past 1.15 would mean a wrong datasheet: a cache can make a kernel measured alone look so fast."""
    found = load_efficiency(load_gpu(name))
    assert found.source
    for path in (data_folder("bench_data") / name).iterdir():
        assert path.stat().st_size <= 300_000
        assert path.read_text().startswith("# ")
    assert all(np.all(slowdown > 1 / 1.15) for slowdown in found.gemm.slowdown.values())
    assert found.moe is not None
    assert np.nanmax(found.moe.values) < 1.15
    assert np.all(found.decode_attention_rows.values[:, 2] < 1.15)
    for times in found.allreduce_us.values():
        assert np.all(np.diff(times) >= 0)


sizes = st.floats(16, 200_000)


@pytest.mark.slow
@pytest.mark.parametrize("name", MEASURED)
@given(n=sizes, k=sizes, more=st.floats(1, 4))
def test_a_larger_product_never_takes_less(name: str, n: float, k: float, more: float) -> None:
    """In any of M, n and k, between measured shapes and outside them (1e-9: rounding)."""
    gpu = load_gpu(name)
    table = load_efficiency(gpu).gemm
    ideal = np.maximum(2 * table.tokens / gpu.flops_per_us["bfloat16"], 2 / gpu.bandwidth_bytes_per_us)

    def time(n: float, k: float) -> np.ndarray:
        return n * k * ideal * table.at("bfloat16", n, k)[0]

    first = time(n, k)
    assert np.all(np.diff(first) >= -1e-9 * first[1:])
    for wider in (time(n * more, k), time(n, k * more)):
        assert np.all(wider >= first * (1 - 1e-9))


def test_outside_the_measured_range_the_roofline_goes_on_and_certainty_falls() -> None:
    """Twice the largest matrix takes twice as long; a tiny one as long as the smallest measured."""
    gpu = load_gpu("H100")
    table = load_efficiency(gpu).gemm
    largest, sd = table.at("bfloat16", 65536, 16384)
    beyond, sd_beyond = table.at("bfloat16", 4 * 65536, 16384)
    assert beyond == pytest.approx(largest, rel=1e-12)
    assert sd_beyond > sd
    smallest, _ = table.at("bfloat16", 32, 32)
    tiny, _ = table.at("bfloat16", 8, 32)
    assert tiny * 8 == pytest.approx(smallest * 32, rel=1e-12)


def test_another_data_type_borrows_and_is_less_certain() -> None:
    table = load_efficiency(load_gpu("H100")).gemm
    own, sd = table.at("bfloat16", 4096, 4096)
    borrowed, sd_borrowed = table.at("int4", 4096, 4096)
    assert borrowed.tolist() == own.tolist()
    assert sd_borrowed > sd
    assert table.at("float16", 4096, 4096)[1] == sd


def test_decode_attention_takes_the_nearest_in_queries_per_kv_head() -> None:
    """CodeLlama-34B at TP2: 32 heads share 4 KV heads. 32 heads of their own are not measured: 8 of 8 stand in."""
    found = load_efficiency(load_gpu("H100"))
    grouped = found.decode_attention("bfloat16", 32, 4, 128)
    assert 0.8 < grouped.mbu < 1.1
    assert 5 < grouped.fixed_us < 20
    assert found.decode_attention("bfloat16", 32, 32, 128).mbu == found.decode_attention("bfloat16", 8, 8, 128).mbu
    assert found.decode_attention("bfloat16", 32, 32, 128).sd > grouped.sd


def test_an_all_reduce_by_hand() -> None:
    """4 µs up to 1 kB, 24 µs at 2 MB, in between linear in bytes, beyond at the bandwidth of the largest."""
    found = ROUND.allreduce_us_at(2, np.array([0.0, 1000.0, 1_000_500.0, 2e6, 6e6]))
    assert found.tolist() == [4.0, 4.0, 14.0, 24.0, 72.0]


@given(st.floats(0, 1e9), st.floats(0, 1e6), st.sampled_from([2, 4, 8]))
def test_larger_messages_take_no_less_time(size: float, more: float, gpus: int) -> None:
    """And the time is continuous: 1e-9 relative for rounding."""
    first, second = ROUND.allreduce_us_at(gpus, np.array([size, size + more]))
    assert first <= second * (1 + 1e-9)
    steepest = 46 / 2e6  # µs a byte, where 8 GPUs go on at the bandwidth of the largest message
    assert second - first <= more * steepest + 1e-9 * second


def test_a_number_of_gpus_that_was_not_measured_is_refused() -> None:
    with pytest.raises(InputError) as error:
        ROUND.allreduce_us_at(3, np.zeros(1))
    assert str(error.value) == "tensor parallel size 3: no all-reduce was measured for it (known: 1, 2, 4, 8)"


def test_a_gpu_without_measurements_is_refused() -> None:
    with pytest.raises(InputError, match=r"bench_data/round/gemm.csv: no measured kernel efficiencies for Round"):
        load_efficiency(GPU)


GOOD = """# source: made up
# sd: 0.05
kv_dtype,heads,kv_heads,head_dim,fixed_us,item_us,mbu,sd
bfloat16,8,8,128,12,0.02,1,0.1
"""
FITTED = ("fixed_us", "item_us", "mbu", "sd")


def test_a_file_is_read_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "decode_attention.csv"
    path.write_text(GOOD)
    rows = read_rows(path, ("heads", "kv_heads", "head_dim"), "kv_dtype", FITTED)
    assert (rows.about["source"], rows.sd, rows.dtype) == ("made up", 0.05, ("bfloat16",))
    assert rows.values.tolist() == [[12, 0.02, 1, 0.1]]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("mbu", "mfu", ":3: expected the columns kv_dtype,heads,kv_heads,head_dim,fixed_us,item_us,mbu,sd"),
        ("8,8,128,12", "8,8,12", ":4: 7 cells under 8 columns"),
        (",12,", ",twelve,", ":4: fixed_us: expected a number of at least 0, found 'twelve'"),
        (",12,", ",-12,", ":4: fixed_us: expected a number of at least 0, found '-12'"),
        (",12,", ",inf,", ":4: fixed_us: expected a number of at least 0, found 'inf'"),
        ("8,8,128", "8,,128", ":4: kv_heads: expected a number of at least 0, found ''"),
        ("bfloat16,8,8,128,12,0.02,1,0.1\n", "", ": no rows"),
    ],
)
def test_impossible_files_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "decode_attention.csv"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(InputError) as error:
        read_rows(path, ("heads", "kv_heads", "head_dim"), "kv_dtype", FITTED)
    assert str(error.value) == f"{path}{message}"
