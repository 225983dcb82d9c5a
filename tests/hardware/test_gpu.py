"""Datasheets: every sheet is complete and plausible, a missing number is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from roofml.hardware.gpu import _packaged, load_gpu, packaged_gpu
from roofml.util.errors import InputError
from roofml.util.gpu_names import name_key
from roofml.util.package_data import data_folder

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
    *[
        "B300",
        "GB300",
        "GH200",
        "H800",
        "A30",
        "A40",
        "A10G",
        "RTX-5090",
        "MI250",
        "MI325X",
        "MI350X",
        "MI355X",
        "Gaudi-3",
        "Max-1550",
        "Arc-Pro-B60",
    ],
)
WRITTEN = {
    "NVIDIA H100 80GB HBM3": "H100",
    "h100_sxm": "H100",
    "H100SXM": "H100",
    "H100-SXM5-80GB": "H100",
    "NVIDIA H100 PCIe": "H100-PCIe",
    "NVIDIA H100 NVL": "H100-NVL",
    "nvidia-h200-sxm-141gb": "H200",
    "NVIDIA A100-SXM4-80GB": "A100-SXM",
    "NVIDIA A100-SXM4-40GB": "A100-SXM-40GB",
    "NVIDIA A100 80GB PCIe": "A100-PCIe",
    "NVIDIA A100-PCIE-40GB": "A100-PCIe-40GB",
    "NVIDIA GH200 480GB": "GH200",
    "GB200 NVL72": "GB200",
    "RTX PRO 6000": "RTX-PRO-6000-Server",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "RTX-PRO-6000-Server",
    "NVIDIA RTX PRO 6000 Blackwell Workstation Edition": "RTX-PRO-6000-Workstation",
    "NVIDIA GeForce RTX 4090": "RTX-4090",
    "NVIDIA RTX 6000 Ada Generation": "RTX-6000-Ada",
    "AMD Instinct MI300X": "MI300X",
    "Intel(R) Data Center GPU Max 1550": "Max-1550",
    "Intel PVC GPU": "Max-1550",
    "Intel Gaudi 3": "Gaudi-3",
    "Intel Arc Pro B60 Graphics": "Arc-Pro-B60",
}
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
    gaudi = name.startswith("Gaudi")  # runs BF16, and Gaudi 3's matrix engines do FP8 at the rate of BF16
    assert rates.get("float16", rates["bfloat16"]) == rates["bfloat16"]
    assert ("float16" in rates) != gaudi
    assert 1.9 < rates.get("fp8", 2 * rates["bfloat16"]) / rates["bfloat16"] < 2.1 or name == "Gaudi-3"
    assert 0.49 < rates.get("tf32", 0.5 * rates["bfloat16"]) / rates["bfloat16"] < 0.51
    ridge = rates["bfloat16"] / gpu.bandwidth_bytes_per_us  # FLOP per byte
    assert 100 < ridge < 520 or name in ("H20", "RTX-3090")
    assert 0.9 * gpu.memory_bytes < gpu.process_memory_bytes <= gpu.memory_bytes
    assert gpu.interconnect_bytes_per_us < gpu.bandwidth_bytes_per_us


@pytest.mark.parametrize(("written", "name"), WRITTEN.items())
def test_a_gpu_is_known_as_drivers_clouds_and_benchmarks_write_it(written: str, name: str) -> None:
    assert load_gpu(written).name == name


def test_no_two_sheets_answer_to_one_name() -> None:
    owners: dict[frozenset[str], set[str]] = {}
    for sheet in _packaged():
        for name in sheet.names:
            assert name_key(name), name
            owners.setdefault(name_key(name), set()).add(sheet.gpu.name)
    assert {key: names for key, names in owners.items() if len(names) > 1} == {}


def test_the_editions_of_one_card_are_told_apart() -> None:
    server, workstation = load_gpu("RTX PRO 6000"), load_gpu("RTX-PRO-6000-Workstation")
    assert server.bandwidth_bytes_per_us == pytest.approx(1.597e6)
    assert workstation.bandwidth_bytes_per_us == pytest.approx(1.792e6)


def test_a_card_of_two_dies_is_twice_one() -> None:
    card, die = load_gpu("MI250"), load_gpu("MI250-GCD")
    assert card.flops_per_us == {dtype: 2 * rate for dtype, rate in die.flops_per_us.items()}
    assert card.bandwidth_bytes_per_us == 2 * die.bandwidth_bytes_per_us
    assert (card.memory_bytes, card.sm_count) == (2 * die.memory_bytes, 2 * die.sm_count)


@pytest.mark.parametrize(("written", "near"), [("H1000", "h100"), ("MI350Y", "mi350x"), ("RTX-4091", "rtx-4090")])
def test_an_unknown_gpu_is_refused_with_the_nearest(written: str, near: str) -> None:
    with pytest.raises(InputError, match=rf"not in hardware/ \(did you mean .*'{near}'"):
        load_gpu(written)


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
        ("tb_per_s: 1", "tb_per_s: 3350", "bandwidth_tb_per_s: expected between 0.05 and 100 TB/s, found 3350"),
        ("memory_gib: 10", "memory_gib: 9e8", "memory_gib: expected between 1 and 4096 GiB, found 900000000.0"),
        ("memory_gib: 10", "memory_gib: 80000", "memory_gib: expected between 1 and 4096 GiB, found 80000"),
        ("sm_count: 8", "sm_count: 0.2", "sm_count: expected between 1 and 10000 streaming multi.*, found 0.2"),
        ("sm_count: 8", "sm_count: 8.5", "sm_count: expected a whole number, found 8.5"),
        ("sm_count: 8", "sm_count: true", "sm_count: expected a positive number, found True"),
        ("sm_count: 8", "sm_count: '8'", "sm_count: expected a positive number, found '8'"),
        ("sm_count: 8", "sm_count: .nan", "sm_count: expected a positive number, found nan"),
        ("sm_count: 8", f"sm_count: 1{'0' * 290}", "sm_count: expected between"),
        ("sm_count: 8", f"sm_count: 1{'0' * 400}", "a number of 401 digits"),
        ("per_s: 32", "per_s: 450e9", "interconnect_gb_per_s: expected between 0.5 and 10000 GB/s, one direction"),
        ("{bfloat16: 100}", "{bfloat16: 989e12}", "tflops.bfloat16: expected between 1 and 200000 dense TFLOP/s"),
        ("{bfloat16: 100}", "{bfloat16: 100, fp8: .inf}", "tflops.fp8: expected between 1 and 200000 dense TFLOP/s"),
        ("{bfloat16: 100}", "{bfloat16: 100, 8: 2}", "tflops: unknown data type 8, expected"),
        ("{bfloat16: 100}", "[bfloat16]", "tflops: expected a mapping"),
        ("name: Mine", "name: 5", "name: expected a name of at most 64 .*, found 5"),
        ("name: Mine", "name: ''", "name: expected a name .*, found ''"),
        ("name: Mine", "name: ['H100']", r"name: expected a name .*, found \['H100'\]"),
        ("name: Mine", "name: null", "name: expected a name .*, found None"),
        ("name: Mine", "name: ../../outside", "name: expected a name .*, found '../../outside'"),
        ("name: Mine", "name: .hidden", "name: expected a name .*, found '.hidden'"),
        ("name: Mine", r"name: C\\mine", "name: expected a name"),
        ("name: Mine", '"name": "a\\nb"', "name: expected a name"),
        ("name: Mine", '"name": "a\\e[2J"', "name: expected a name"),
        ("name: Mine", f"name: {'x' * 65}", "name: expected a name of at most 64"),
        ("name: Mine", "name: Mine\naliases: H100", "aliases: expected a list of at most 50 names, found 'H100'"),
        ("name: Mine", "name: Mine\naliases: [[a]]", r"aliases.0: expected a name .*, found \['a'\]"),
        ("name: Mine", "name: Mine\nsource: 5", "source: expected one line of printable characters, found 5"),
        ("name: Mine", "name: Mine\nkernels_of: 5", "kernels_of: expected the name of a GPU or typical, found 5"),
        ("name: Mine", "name: Mine\nkernels_of: H100", "kernels_step: expected in kind or across beside a kernels_of"),
        ("name: Mine", "name: Mine\nkernels_step: across", "kernels_step: expected in kind or across beside a"),
        ("name: Mine", "name: Mine\nkernels_of: H100\nkernels_step: near", "kernels_step: .*, found 'near'"),
        ("name: Mine", "name: Mine\nname: Other", "key 'name' is there twice"),
    ],
)
def test_a_bad_number_is_named_with_its_file(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SHEET.replace(old, new))
    with pytest.raises(InputError, match=message) as error:
        load_gpu(str(path))
    assert str(path) in str(error.value)


def test_an_unknown_gpu_is_refused_with_those_known() -> None:
    with pytest.raises(InputError, match=r"gpu 'TPU': not in hardware/ \(known: A10, A100-PCIe-40GB"):
        load_gpu("TPU")


def test_a_sheet_without_a_name_is_called_after_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SHEET.replace("name: Mine\n", ""))
    assert load_gpu(str(path)).name == "mine"
    odd = tmp_path / ".odd.yaml"
    path.rename(odd)
    with pytest.raises(InputError, match="name: expected a name"):
        load_gpu(str(odd))


def test_an_alias_that_yaml_reads_as_a_number_is_known() -> None:
    assert load_gpu("4090").name == "RTX-4090"


@pytest.mark.parametrize("name", ["../hardware/H100", "/etc/passwd", "", "\x00", "x" * 5000, "..", "H100/"])
def test_a_name_never_leads_to_a_file_that_is_not_listed(name: str) -> None:
    with pytest.raises(InputError, match="not in hardware/") as refused:
        load_gpu(name)
    assert "\n" not in str(refused.value)
    packaged = packaged_gpu(name)
    assert packaged is None or packaged == load_gpu("H100")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without FIFOs")
def test_a_sheet_that_is_no_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    os.mkfifo(path)
    with pytest.raises(InputError, match="is a FIFO, expected a file"):
        load_gpu(str(path))
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(InputError, match=r"mine\.yaml: cannot be read"):
        load_gpu(str(path))
