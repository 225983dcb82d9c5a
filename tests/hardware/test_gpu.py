"""Datasheets: every sheet is complete and plausible, a missing number is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from roofml.hardware.gpu import load_gpu
from roofml.util.errors import InputError
from roofml.util.files import data_folder

SHEETS = sorted(path.stem for path in data_folder("hardware").glob("*.yaml"))
RENTED = (
    "H100-SXM",
    "H100-PCIe",
    "H100-NVL",
    "H200",
    "H20",
    "A100-SXM-40GB",
    "A100-SXM",
    "A100-PCIe-40GB",
    "A100-PCIe",
    "L4",
    "L40S",
    "A10",
    "RTX-4090",
    "RTX-PRO-6000",
    "B200",
    "GB200",
    "MI300X",
)
SHEET = """name: Mine
tflops: {bfloat16: 100}
bandwidth_tb_per_s: 1
memory_gib: 10
interconnect_gb_per_s: 32
sm_count: 8
"""


@pytest.mark.parametrize("name", RENTED)
def test_gpus_people_rent_are_known_by_name_in_any_case(name: str) -> None:
    assert load_gpu(name) == load_gpu(name.lower())


@pytest.mark.parametrize("name", SHEETS)
def test_sheets_are_plausible(name: str) -> None:
    gpu = load_gpu(name)
    rates = gpu.flops_per_us
    assert gpu.source
    assert rates["float16"] == rates["bfloat16"]
    assert 1.9 < rates.get("fp8", 2 * rates["bfloat16"]) / rates["bfloat16"] < 2.1
    assert 0.49 < rates["tf32"] / rates["bfloat16"] < 0.51
    assert 100 < rates["bfloat16"] / gpu.bandwidth_bytes_per_us * 1.0 < 500 or name == "H20"  # ridge, FLOP per byte
    assert 0.9 * gpu.memory_bytes < gpu.process_memory_bytes <= gpu.memory_bytes
    assert gpu.interconnect_bytes_per_us < gpu.bandwidth_bytes_per_us


def test_units_by_hand() -> None:
    """H100: 989.4 TFLOP/s = 989.4e6 FLOP/µs, 3.35 TB/s = 3.35e6 bytes/µs, 80 GiB, 450 GB/s = 450e3 bytes/µs."""
    gpu = load_gpu("H100")
    assert gpu.flops_rate("bfloat16") == pytest.approx(989.4e6)
    assert gpu.bandwidth_bytes_per_us == pytest.approx(3.35e6)
    assert gpu.memory_bytes == 80 * 2**30
    assert gpu.interconnect_bytes_per_us == pytest.approx(450e3)


def test_a_rate_the_sheet_lacks_is_named() -> None:
    with pytest.raises(InputError, match=r"A100-SXM: tflops.fp8 is missing from its sheet \(it has bfloat16, float16"):
        load_gpu("A100").flops_rate("fp8")


def test_a_sheet_of_ones_own_works_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SHEET)
    gpu = load_gpu(str(path))
    assert gpu.process_memory_bytes == round(0.99 * 10 * 2**30)
    path.write_text(SHEET + "reported_memory_gib: 9.5\n")
    assert load_gpu(str(path)).process_memory_bytes == round(9.5 * 2**30)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sm_count: 8\n", "", "sm_count: expected a positive number, found None"),
        ("memory_gib: 10", "memory_gib: -1", "memory_gib: expected a positive number, found -1"),
        ("{bfloat16: 100}", "{bfloat16: fast}", "tflops.bfloat16: expected a positive number, found 'fast'"),
        ("{bfloat16: 100}", "{fp8: 100}", "tflops: expected a mapping .* with bfloat16"),
        ("{bfloat16: 100}", "{bfloat16: 100, bf8: 2}", "tflops: unknown data type 'bf8', expected bfloat16, float16"),
        ("sm_count: 8", "sm_count: 8\nsms: 8", "unknown field 'sms'"),
        ("sm_count: 8", "sm_count: 8\nreported_memory_gib: 11", "reported_memory_gib: 11 exceeds memory_gib 10"),
    ],
)
def test_a_bad_number_is_named_with_its_file(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SHEET.replace(old, new))
    with pytest.raises(InputError, match=message) as error:
        load_gpu(str(path))
    assert str(path) in str(error.value)


def test_an_unknown_gpu_is_refused_with_those_known() -> None:
    with pytest.raises(InputError, match=r"gpu 'H1000': not in hardware/ \(known: A10, A100-PCIe-40GB"):
        load_gpu("H1000")
