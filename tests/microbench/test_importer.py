"""Tables derived from measurements: a known kernel comes back, bad files are refused, what ships is what is derived."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commandline import fails, ok, roofml

from roofml.hardware.gpu import load_gpu
from roofml.hardware.read_kernels import read_efficiency
from roofml.microbench.derive import derive
from roofml.microbench.derive.curves import never_falling, straight_line
from roofml.microbench.importer import import_folder
from roofml.util.package_data import data_folder

GPU = load_gpu("H100")
FLOPS, BANDWIDTH = GPU.flops_per_us["bfloat16"], GPU.bandwidth_bytes_per_us


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """Measurements of kernels that reach half of the roofline, and attention of 10 µs + 0.02 µs an item at 0.8."""
    folder = tmp_path / "measured"
    folder.mkdir()
    sizes = (1024, 2048, 4096, 8192)
    gemm = [
        ("bfloat16", m, n, k, 2e-3 * max(2 * m * n * k / FLOPS, 2 * n * k / BANDWIDTH))
        for m, n, k in product((1, 16, 64, 256, 512, 1024, 4096), sizes, sizes)
    ]
    pd.DataFrame(gemm, columns=["gemm_dtype", "m", "n", "k", "latency"]).to_csv(folder / "gemm_perf.csv", index=False)
    moe = []
    for m in (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192):
        hit = min(8, 2 * m)
        time = max(6 * m * 2 * 4096 * 7168 / FLOPS, 6 * hit * 4096 * 7168 / BANDWIDTH)
        moe.append(("bfloat16", m, 4096, 14336, 2, 8, 2, 1, "balanced", 2e-3 * time))
    names = "moe_dtype num_tokens hidden_size inter_size topk num_experts moe_tp_size moe_ep_size distribution latency"
    pd.DataFrame(moe, columns=names.split()).to_csv(folder / "moe_perf.csv", index=False)
    prefill = [
        ("bfloat16", batch, s, 32, 8, 128, 1e-3 * 2 * batch * s**2 * 32 * 128 / FLOPS / 0.5)
        for batch, s in product((8, 32), (1024, 4096))
    ]
    columns = ["kv_cache_dtype", "batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim", "latency"]
    pd.DataFrame(prefill, columns=columns).to_csv(folder / "context_attention_perf.csv", index=False)
    decode = []
    for batch, context in product((1, 32, 128, 512), (2, 16, 1024, 8192, 32768)):
        beyond = max(0, batch * 8 - GPU.sm_count)
        time = 10 + 0.02 * beyond + 4 * batch * context * 8 * 128 / BANDWIDTH / 0.8
        decode.append(("bfloat16", batch, 1, context - 1, 32, 8, 128, 1e-3 * time))
    columns.insert(3, "step")
    pd.DataFrame(decode, columns=columns).to_csv(folder / "generation_attention_perf.csv", index=False)
    reduce = [(gpus, 2**p, 1e-3 * (4 + 2**p / 1e5)) for gpus, p in product((2, 4), (7, *range(16, 28)))]
    pd.DataFrame(reduce, columns=["num_gpus", "message_size", "latency"]).to_csv(
        folder / "custom_allreduce_perf.csv", index=False
    )
    return folder


def test_known_kernels_come_back(measured: Path, tmp_path: Path) -> None:
    """To the three digits that are written."""
    out = tmp_path / "out"
    ok("bench", "import", "--gpu", "H100", "--from", measured, "--date", "2026-01-01", "-o", out)
    found = read_efficiency(out, GPU)
    assert found.gemm.at("bfloat16", 3000, 5000)[0] == pytest.approx(2, rel=2e-3)
    assert found.mixtures("bfloat16", 8, 2, 4096, 7168)[0][0][1] == pytest.approx(0.5, rel=2e-3)
    assert found.prefill_attention("bfloat16", 32, 8, 128)[0] == pytest.approx(0.5, rel=1e-3)
    decode = found.decode_attention("bfloat16", 32, 8, 128)
    assert (decode.fixed_us, decode.item_us, decode.mbu) == pytest.approx((10, 0.02, 0.8), rel=2e-3)
    assert found.allreduce_us_at(2, np.array([2.0**20]))[0] == pytest.approx(4 + 2**19 / 1e5, rel=2e-3)


def test_an_import_twice_writes_the_same_bytes(measured: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        ok("bench", "import", "--gpu", "H100", "--from", measured, "--date", "2026-01-01", "-o", tmp_path / name)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_provenance_is_in_every_file(measured: Path, tmp_path: Path) -> None:
    said = ok(
        "bench", "import", "--gpu", "H100", "--from", measured, "--source", "our lab", "--licence", "MIT",
        "--date", "2026-01-01", "-o", tmp_path / "out", "--json",
    ).document  # fmt: skip
    assert (said["source"], said["licence"], said["date"]) == ("our lab", "MIT", "2026-01-01")
    for path in (tmp_path / "out").iterdir():
        text = path.read_text()
        for line in ("# gpu: H100", "# source: our lab", "# licence: MIT", "# date: 2026-01-01", "# sd: "):
            assert line in text


def test_a_gross_outlier_is_left_out() -> None:
    """2,048 tokens measured at four times what 4,096 take; what stays never falls."""
    sizes = np.array([512.0, 1024, 2048, 4096])
    cleaned = never_falling(sizes, np.array([60.0, 110, 1600, 400]))
    assert np.all(np.diff(cleaned) >= 0)
    assert cleaned[-1] == pytest.approx(400, rel=0.15)
    assert cleaned[2] < 500


def test_a_straight_line_survives_a_wild_point() -> None:
    ideal = np.array([0.0, 0, 0, 50, 100, 200, 400, 800])
    items = np.array([0.0, 100, 1000, 0, 100, 1000, 0, 100])
    times = 10 + 0.02 * items + ideal / 0.8
    times[5] *= 3
    fixed, item, mbu, _ = straight_line(times, items, ideal, ideal == 0)
    assert (fixed, item, mbu) == pytest.approx((10, 0.02, 0.8), rel=0.1)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("gemm", "gemm_dtype", "dtype", "gemm_perf.csv: gemm_dtype: missing column"),
        ("gemm", "bfloat16,1,1024", "bfloat16,one,1024", "gemm_perf.csv: m: expected numbers"),
        ("gemm", "bfloat16,1,1024", "bfloat16,-1,1024", "gemm_perf.csv: m: expected positive numbers only"),
        ("custom_allreduce", None, None, "expected custom_allreduce_perf.parquet or custom_allreduce_perf.csv"),
    ],
)
def test_bad_measurements_are_refused_and_nothing_is_written(
    measured: Path, tmp_path: Path, name: str, old: str | None, new: str | None, message: str
) -> None:
    path = measured / f"{name}_perf.csv"
    if old is None or new is None:
        path.unlink()
    else:
        path.write_text(path.read_text().replace(old, new, 1))
    assert message in fails("bench", "import", "--gpu", "H100", "--from", measured, "-o", tmp_path / "out").err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["2026-01-01\ngemm,1,2", "a\rb", "a\x1b[2J", "a\u2028b", "a\0b"])
@pytest.mark.parametrize("option", ["--date", "--source", "--licence"])
def test_bench_import_date_injection(measured: Path, tmp_path: Path, option: str, text: str) -> None:
    """A line break would have become a row of every table."""
    said = fails("bench", "import", "--gpu", "H100", "--from", measured, option, text, "-o", tmp_path / "out").err
    assert said.startswith(f"roofml: {option}: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["a, b", "# a", "a: b", "1,2,3", "Müller, Lab #2"])
def test_commas_and_hashes_in_provenance_stay_on_their_line(measured: Path, tmp_path: Path, text: str) -> None:
    out = tmp_path / "out"
    ok("bench", "import", "--gpu", "H100", "--from", measured, "--source", text, "--date", text, "-o", out)
    assert read_efficiency(out, GPU).gemm.at("bfloat16", 3000, 5000)[0] == pytest.approx(2, rel=2e-3)
    assert f"# source: {text}\n" in (out / "gemm.csv").read_text("utf-8")


def test_an_engine_that_the_measurements_name_stays_on_its_line(measured: Path, tmp_path: Path) -> None:
    table = pd.read_csv(measured / "gemm_perf.csv").assign(framework="vLLM", version="1\nbfloat16,1,2,3")
    table.to_csv(measured / "gemm_perf.csv", index=False)
    ok("bench", "import", "--gpu", "H100", "--from", measured, "-o", tmp_path / "out")
    assert "# engine: vllm 1 bfloat16,1,2,3\n" in (tmp_path / "out" / "gemm.csv").read_text()


SHEET = """\
name: {name}
tflops: {{bfloat16: 989}}
bandwidth_tb_per_s: 3.35
memory_gib: 80
interconnect_gb_per_s: 450
sm_count: 132
"""


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "a/b", "..", "'a\\0b'"])
def test_gpu_name_that_is_a_path(measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Without -o the tables go to a folder named for the GPU: always one folder, in the folder of tables."""
    tables = tmp_path / "package" / "bench_data"
    tables.mkdir(parents=True)
    monkeypatch.setattr("roofml.util.package_data.data_folder", lambda _: tables)
    sheet = tmp_path / "sheet.yaml"
    sheet.write_text(SHEET.format(name=name))
    result = roofml("bench", "import", "--gpu", sheet, "--from", measured)
    assert result.status in {0, 2}
    written = {path for path in tmp_path.rglob("*.csv") if path.parent != measured}
    assert all(path.parent.parent == tables for path in written)
    assert bool(written) == (result.status == 0)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_never_fifo_measurements(measured: Path, tmp_path: Path) -> None:
    (measured / "gemm_perf.csv").unlink()
    os.mkfifo(measured / "gemm_perf.csv")
    said = fails("bench", "import", "--gpu", "H100", "--from", measured, "-o", tmp_path / "out").err
    assert "gemm_perf.csv: is a FIFO, expected a file" in said
    (measured / "gemm_perf.csv").unlink()
    (measured / "gemm_perf.csv").symlink_to("/dev/zero")
    said = fails("bench", "import", "--gpu", "H100", "--from", measured, "-o", tmp_path / "out").err
    assert "gemm_perf.csv: is a device, expected a file" in said


@pytest.mark.parametrize("number", ["inf", "1e300", "nan"])
def test_measurements_that_are_no_numbers_of_a_kernel_are_refused(measured: Path, tmp_path: Path, number: str) -> None:
    path = measured / "gemm_perf.csv"
    path.write_text(path.read_text().replace("bfloat16,1,1024", f"bfloat16,{number},1024", 1))
    said = fails("bench", "import", "--gpu", "H100", "--from", measured, "-o", tmp_path / "out").err
    assert "gemm_perf.csv: m: expected positive numbers only" in said


@pytest.mark.parametrize("name", ["gemm_perf.csv", "gemm_perf.parquet"])
def test_a_file_that_is_no_table_is_refused_in_one_line(measured: Path, tmp_path: Path, name: str) -> None:
    (measured / "gemm_perf.csv").unlink()
    (measured / name).write_bytes(b"\xff\x00\n\n" * 100)
    said = fails("bench", "import", "--gpu", "H100", "--from", measured, "-o", tmp_path / "out").err
    assert f"{name}: " in said


def test_tables_are_written_all_or_none(measured: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ok("bench", "import", "--gpu", "H100", "--from", measured, "--date", "one", "-o", out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "moe.csv").chmod(0o444)
    said = fails("bench", "import", "--gpu", "H100", "--from", measured, "--date", "two", "-o", out).err
    assert "moe.csv: is read-only" in said
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_an_output_that_is_a_file_is_refused(measured: Path, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    said = fails("bench", "import", "--gpu", "H100", "--from", measured, "-o", tmp_path / "out").err
    assert "out: cannot be made a folder" in said


@pytest.mark.parametrize(
    ("gpu", "name"),
    [("H100", "h100_sxm-vllm-0.25.0"), ("B300", "b300_sxm-vllm-0.25.0"), ("A100-SXM", "a100_sxm-vllm-0.14.0")],
)
def test_what_ships_is_what_is_derived(shared: Path, gpu: str, name: str) -> None:
    sheet = load_gpu(gpu)
    tables, about = import_folder(shared / "kernels" / name, "any", "any", needed=())
    texts = derive(tables, sheet, about)
    assert {"gemm.csv", "moe.csv", "prefill_attention.csv", "decode_attention.csv"} <= set(texts)
    for file, text in texts.items():
        shipped = (data_folder("bench_data") / gpu.lower() / file).read_text()
        assert [x for x in text.splitlines() if x[0] != "#"] == [x for x in shipped.splitlines() if x[0] != "#"]
