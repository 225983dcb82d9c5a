"""Efficiencies: interpolated all-reduces, what is shipped, what is refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import GPU, ROUND

from roofml.hardware.gpu import load_gpu
from roofml.hardware.load_kernels import load_efficiency
from roofml.hardware.read_kernels import read_efficiency, read_rows, tables_folder
from roofml.util.errors import InputError
from roofml.util.package_data import data_folder

MEASURED = sorted(folder.name for folder in data_folder("bench_data").iterdir() if folder.is_dir())


@pytest.mark.parametrize("name", MEASURED)
def test_shipped_tables_are_small_say_their_source_and_hold_possible_numbers(name: str) -> None:
    """An efficiency past 1.15 would mean a wrong datasheet: a cache can make a kernel measured alone look so fast."""
    found = load_efficiency(load_gpu(name))
    assert found.source
    for path in (data_folder("bench_data") / name).rglob("*.csv"):
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
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "h100" else pytest.mark.exhaustive) for name in MEASURED]
)
@settings(max_examples=25)
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
    assert (table.n[0], table.k[0], table.n[-1]) == (32, 32, 65536)
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
    """CodeLlama-34B at TP2: 32 heads share 4 KV heads. So many heads of their own as 512 are not measured."""
    found = load_efficiency(load_gpu("H100"))
    grouped = found.decode_attention("bfloat16", 32, 4, 128)
    assert 0.8 < grouped.mbu < 1.1
    assert 5 < grouped.fixed_us < 20
    rows = found.decode_attention_rows
    own = (rows.sizes[:, 0] == rows.sizes[:, 1]) & (rows.sizes[:, 2] == 128) & (np.array(rows.dtype) == "bfloat16")
    most = int(rows.sizes[own, 0].max())
    largest, beyond = (found.decode_attention("bfloat16", heads, heads, 128) for heads in (most, 512))
    assert most < 512
    assert (beyond.fixed_us, beyond.mbu) == (largest.fixed_us, largest.mbu)
    assert beyond.sd > largest.sd


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
        ("8,8,128", "8,,128", ":4: kv_heads: expected a number above 0, found ''"),
        ("8,8,128", "8,nan,128", ":4: kv_heads: expected a number above 0, found 'nan'"),
        ("8,8,128", "8,0,128", ":4: kv_heads: expected a number above 0, found '0'"),
        ("8,8,128", "8,8.5,128", ":4: kv_heads: expected a whole number, found '8.5'"),
        ("8,8,128", "8,8,1_28", ":4: head_dim: expected a number above 0, found '1_28'"),
        (",1,0.1", ",0,0.1", ":4: mbu: expected a number above 0, found '0'"),
        (",1,0.1", ",,0.1", ":4: mbu: expected a number above 0, found ''"),
        (",12,", ",1e13,", ":4: fixed_us: expected a number of at least 0, found '1e13'"),
        ("bfloat16,", "b float,", ":4: kv_dtype: expected a data type, found 'b float'"),
        ("sd: 0.05", "sd: much", ": sd: expected a number of at least 0 and at most 10, found 'much'"),
        ("mbu,sd", "mbu,mbu", ":3: expected the columns kv_dtype,heads,kv_heads,head_dim,fixed_us,item_us,mbu,sd"),
        (
            GOOD.splitlines()[3],
            "bfloat16,8,8,128,12,0.02,1,0.1\nbfloat16,8.0,8,128,1,0,1,0",
            ":5: the same shape stands on line 4",
        ),
        (
            "kv_dtype,",
            "#kv_dtype,",
            ":4: expected the columns kv_dtype,heads,kv_heads,head_dim,fixed_us,item_us,mbu,sd",
        ),
        ("bfloat16,8,8,128,12,0.02,1,0.1\n", "", ": no rows"),
    ],
)
def test_impossible_files_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "decode_attention.csv"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(InputError) as error:
        read_rows(path, ("heads", "kv_heads", "head_dim"), "kv_dtype", FITTED)
    assert str(error.value) == f"{path}{message}"


def test_the_tables_of_every_shipped_gpu_are_where_its_name_says() -> None:
    for path in data_folder("hardware").glob("*.yaml"):
        gpu = load_gpu(path.stem)
        assert tables_folder(gpu) == data_folder("bench_data") / gpu.name.lower()


@pytest.mark.parametrize("name", ["../../outside", "/etc", "..", ".hidden", "a/../../b", "A\\B", "\x00", "x" * 5000])
def test_no_name_leads_out_of_the_tables_folder(name: str) -> None:
    folder = tables_folder(replace(GPU, name=name))
    assert folder.parent == data_folder("bench_data")
    assert not folder.name.startswith(".")
    assert len(folder.name) <= 100


@pytest.mark.parametrize("name", ["h100", "H100.", "-H100-"])
def test_another_sheet_does_not_take_a_packaged_gpus_tables_by_a_name_like_it(name: str) -> None:
    with pytest.raises(InputError, match=r"not those of hardware/H100\.yaml"):
        tables_folder(replace(load_gpu("H100"), name=name, sm_count=131))


@pytest.fixture
def own_tables(tmp_path: Path) -> Path:
    """A copy of the H100's tables, to damage."""
    return Path(shutil.copytree(data_folder("bench_data") / "h100", tmp_path / "h100"))


def without_bfloat16(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith("bfloat16,"))


@pytest.mark.parametrize(
    ("table", "damage", "message"),
    [
        ("gemm", without_bfloat16, r"gemm\.csv: no row of bfloat16, which stands in"),
        ("moe", without_bfloat16, r"moe\.csv: no row of bfloat16"),
        ("gemm", lambda text: text.replace("m1,m16", "m16,m1"), r"gemm\.csv:9: expected the columns dtype,n,k,\.\.\."),
        ("gemm", lambda text: text.replace("m1,m16", "m1,x"), r"gemm\.csv:9: expected the columns"),
        ("gemm", lambda text: text.replace("m1,m16", "m1,m1"), r"gemm\.csv:9: expected the columns"),
        ("moe", lambda text: text.replace(",m", ",s"), r"moe\.csv:10: expected columns m1, m16"),
        ("gemm", lambda text: text.replace("32,32,0.000232", "32,32,", 1), r"gemm\.csv: a number is missing"),
        ("gemm", lambda text: text.replace("0.000232", "0", 1), r"gemm\.csv:10: m1: expected a number above 0 and at"),
        ("gemm", lambda text: text.replace("0.000232", "11", 1), r"m1: expected a number above 0 and at most 10, f"),
        ("gemm", lambda text: "\n".join(text.splitlines()[:11]), r"gemm\.csv: 1 n and 2 k, expected at least two"),
        ("gemm", lambda text: "# nothing", r"gemm\.csv: no header"),
        ("gemm", lambda text: text + text.splitlines()[-1] + "\n", r"gemm\.csv:1459: the same shape stands on line"),
        ("prefill_attention", lambda text: text + "bfloat16,7,7,7,,,,,\n", r"expected a number in one of the columns"),
        ("allreduce", lambda text: text.replace(",4.29", ",0", 1), r"time_us: expected a number above 0, found '0'"),
        ("gemm", lambda text: "#" * 5_000_000, r"gemm\.csv: 5000000 bytes, expected at most"),
        ("gemm", lambda text: text + "".join(f"fp8,{i},{i}{',1' * 10}\n" for i in range(70000, 99000)), "20000"),
    ],
)  # fmt: skip
def test_a_damaged_table_is_refused_by_file_and_line(
    own_tables: Path, table: str, damage: Callable[[str], str], message: str
) -> None:
    path = own_tables / f"{table}.csv"
    path.write_text(damage(path.read_text()))
    with pytest.raises(InputError, match=message) as refused:
        read_efficiency(own_tables, load_gpu("H100"))
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without FIFOs")
@pytest.mark.parametrize("table", ["gemm", "moe", "allreduce", "mla_decode"])
def test_a_table_that_is_there_but_no_file_is_refused_not_left_out(own_tables: Path, table: str) -> None:
    path = own_tables / f"{table}.csv"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="is a FIFO, expected a file"):
        read_efficiency(own_tables, load_gpu("H100"))
    path.unlink()
    path.symlink_to("nowhere")
    with pytest.raises(InputError, match="no such file"):
        read_efficiency(own_tables, load_gpu("H100"))


def test_rows_in_any_order_are_the_same_table(own_tables: Path) -> None:
    path = own_tables / "allreduce.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:8], *reversed(lines[8:])]))
    assert lines[7].startswith("gpus,")
    found, given = read_efficiency(own_tables, load_gpu("H100")), load_efficiency(load_gpu("H100"))
    assert {gpus: times.tolist() for gpus, times in found.allreduce_us.items()} == {
        gpus: times.tolist() for gpus, times in given.allreduce_us.items()
    }
