"""A GPU without measured kernels takes a relative's, scaled by the datasheets, with the launch's floor kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roofml.hardware import load_kernels as load_kernels_module
from roofml.hardware.fabric import allreduce_tables
from roofml.hardware.gpu import ACROSS, IN_KIND, TYPICAL, Gpu, _packaged, load_gpu
from roofml.hardware.ideal import FLOOR_US, ideal_us
from roofml.hardware.load_kernels import load_efficiency, load_kernels
from roofml.hardware.neighbour import STEP_SD, carried_over
from roofml.hardware.typical import TYPICAL_SD
from roofml.util.errors import InputError
from roofml.util.package_data import data_folder

SHEETS = [sheet.gpu for sheet in _packaged()]
MEASURED = {path.name for path in data_folder("bench_data").iterdir()}


def is_measured(gpu: Gpu) -> bool:
    return gpu.name.lower() in MEASURED


@pytest.mark.parametrize("gpu", SHEETS, ids=lambda gpu: gpu.name)
def test_every_sheet_has_kernels_and_says_where_they_are_not_its_own(gpu: Gpu) -> None:
    kernels = load_efficiency(gpu)
    assert bool(kernels.variances) != is_measured(gpu)
    slowdown, sd = kernels.gemm.at("bfloat16", 4096, 4096)
    assert np.all(slowdown >= 0.9)
    assert sd > 0
    assert set(kernels.gemm.slowdown) <= {*gpu.flops_per_us, "fp8_block", "nvfp4"} | {
        dtype for dtype in kernels.gemm.slowdown if dtype.startswith("w4a16")
    }
    assert {2, 4} <= set(kernels.allreduce_us)
    for times in kernels.allreduce_us.values():
        assert np.all(np.diff(times) >= 0)


def test_a_kernel_is_scaled_by_its_ideal_above_the_floor() -> None:
    """By hand: of an H100's t µs, 3 stay, and the rest goes with the ratio of the ideal times."""
    theirs, ours = load_gpu("H100"), load_gpu("H20")
    table = load_efficiency(theirs).gemm
    carried = carried_over(load_efficiency(theirs), ours, theirs, IN_KIND).gemm
    there, here = (ideal_us(gpu, "bfloat16", table.tokens, 1.0, 4096.0 * 4096.0) for gpu in (theirs, ours))
    i, j = int(np.argmin(abs(table.n - 4096))), int(np.argmin(abs(table.k - 4096)))
    assert (table.n[i], table.k[j]) == (4096, 4096)
    measured = table.slowdown["bfloat16"][i, j] * there
    expected = FLOOR_US["gemm"] + (measured - FLOOR_US["gemm"]) * here / there
    assert carried.slowdown["bfloat16"][i, j] * here == pytest.approx(expected)


@pytest.mark.parametrize("name", ["H100", "A100-SXM", "L40S", "B200"])
def test_to_itself_a_gpu_carries_its_kernels_over_as_they_are(name: str) -> None:
    gpu = load_gpu(name)
    kernels = load_efficiency(gpu)
    same = carried_over(kernels, gpu, gpu, IN_KIND)
    for dtype, slowdown in same.gemm.slowdown.items():
        assert slowdown == pytest.approx(kernels.gemm.slowdown[dtype])
    assert same.decode_attention_rows.values == pytest.approx(kernels.decode_attention_rows.values)
    assert kernels.moe is not None
    assert same.moe is not None
    assert same.moe.values == pytest.approx(kernels.moe.values)
    assert sum(same.variances.values()) == pytest.approx(STEP_SD[IN_KIND] ** 2)


@settings(max_examples=20)
@given(st.floats(0.3, 3), st.floats(0.3, 3))
def test_a_kernel_takes_at_least_its_floor_and_more_on_a_slower_datasheet(flops: float, bandwidth: float) -> None:
    theirs = load_gpu("H100")
    kernels = load_efficiency(theirs)

    def carried(flops: float, bandwidth: float) -> np.ndarray:
        ours = replace(
            theirs,
            flops_per_us={dtype: rate * flops for dtype, rate in theirs.flops_per_us.items()},
            bandwidth_bytes_per_us=theirs.bandwidth_bytes_per_us * bandwidth,
        )
        table = carried_over(kernels, ours, theirs, ACROSS).gemm
        elements = table.n[:, None, None] * table.k[None, :, None]
        return table.slowdown["bfloat16"] * ideal_us(ours, "bfloat16", table.tokens, 1.0, elements)

    time = carried(flops, bandwidth)
    table = kernels.gemm
    there = ideal_us(theirs, "bfloat16", table.tokens, 1.0, table.n[:, None, None] * table.k[None, :, None])
    least = np.minimum(FLOOR_US["gemm"], table.slowdown["bfloat16"] * there)
    assert np.all(time >= least * (1 - 1e-9))
    assert np.all(carried(flops / 1.1, bandwidth / 1.1) >= time * (1 - 1e-9))


def test_kernels_of_an_h100_foretell_those_of_an_h200() -> None:
    """The rule's own evidence: within some 15 % at the median, in decode and in prefill."""
    theirs, ours = load_gpu("H100"), load_gpu("H200")
    carried, measured = carried_over(load_efficiency(theirs), ours, theirs, IN_KIND), load_efficiency(ours)
    shapes = [(n, k) for n in (2048, 4096, 8192, 16384) for k in (2048, 4096, 8192)]
    for few in (True, False):
        errors: list[float] = []
        for n, k in shapes:
            tokens = measured.gemm.tokens
            chosen = tokens <= 64 if few else tokens >= 1024
            there = np.interp(tokens, carried.gemm.tokens, carried.gemm.at("bfloat16", n, k)[0])
            errors += list(np.abs(there / measured.gemm.at("bfloat16", n, k)[0] - 1)[chosen])
        assert np.median(errors) < 0.15


def test_steps_away_add_up() -> None:
    variances = load_efficiency(load_gpu("RTX-5090")).variances
    if is_measured(load_gpu("RTX-PRO-6000-Server")):
        assert list(variances.values()) == [pytest.approx(STEP_SD[IN_KIND] ** 2)]
    else:
        assert sum(variances.values()) == pytest.approx(STEP_SD[IN_KIND] ** 2 + STEP_SD[ACROSS] ** 2)
    assert list(load_efficiency(load_gpu("MI300X")).variances.values()) == [pytest.approx(TYPICAL_SD**2)]


def test_a_type_that_a_gpu_lacks_is_not_carried_over() -> None:
    assert "fp8" not in load_efficiency(load_gpu("A10")).gemm.slowdown


@pytest.mark.parametrize(
    ("name", "measured_there"),
    [("GH200", True), ("A800", False), ("H800", False), ("H100-PCIe", False), ("RTX-4090", False), ("MI300X", False)],
)
def test_an_allreduce_never_crosses_fabrics(name: str, measured_there: bool) -> None:
    gpu = load_gpu(name)
    kernels = load_efficiency(gpu)
    by_physics = allreduce_tables(gpu)[1]
    same = len(kernels.allreduce_us[2]) == len(by_physics[2]) and np.allclose(kernels.allreduce_us[2], by_physics[2])
    assert same != measured_there
    assert (kernels.allreduce_sd > 0) != measured_there


def test_an_allreduce_of_many_bytes_runs_at_a_share_of_the_link() -> None:
    """By hand: 8 GPUs, 1.75·512 MiB over 0.7·448 GB/s, and 10 µs."""
    times = load_efficiency(load_gpu("MI300X")).allreduce_us
    assert times[8][-1] == pytest.approx(10 + 1.75 * 2**29 / (0.7 * 448e3))


def test_the_digest_tells_whose_kernels_they_are() -> None:
    digests = [load_kernels(load_gpu(name)).sha256 for name in ("H100", "GH200", "H100-PCIe", "MI300X", "MI325X")]
    assert len(set(digests)) == 5


def test_a_sheet_of_ones_own_can_name_a_relative() -> None:
    own = replace(load_gpu("H100"), name="Mine", kernels_of="H100", kernels_step=IN_KIND)
    assert load_efficiency(own).variances == {"kernels of H100 stand for Mine's (in kind)": STEP_SD[IN_KIND] ** 2}


def test_gpus_that_stand_for_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = replace(load_gpu("H100"), name="Mine", kernels_of="Mine", kernels_step=IN_KIND)
    monkeypatch.setattr(load_kernels_module, "load_gpu", lambda _: mine)
    with pytest.raises(InputError, match="Mine: kernels_of: more than 4 GPUs that stand for each other"):
        load_efficiency(mine)


def test_a_relative_is_a_packaged_gpu_and_typical_needs_none() -> None:
    for gpu in SHEETS:
        if gpu.kernels_of == TYPICAL:
            assert not gpu.kernels_step
        elif gpu.kernels_of:
            assert load_gpu(gpu.kernels_of).name == gpu.kernels_of
            assert gpu.kernels_step in STEP_SD
        else:
            assert is_measured(gpu), gpu.name


def test_every_gpu_stands_on_its_page() -> None:
    """`python benchmarks/gpu_pages.py > docs/gpus.md` makes the page."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "gpus.md").read_text(encoding="utf-8")
    for gpu in SHEETS:
        assert f"| {gpu.name} | " in page
