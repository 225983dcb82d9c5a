"""Modules: parts of a layer that only some architectures have, and what stands in where a GPU has no table of one."""

from __future__ import annotations

import numpy as np
import pytest

from roofml.hardware.gpu import load_gpu
from roofml.hardware.load_kernels import load_kernels
from roofml.hardware.modules import Modules
from roofml.hardware.read_modules import COLUMNS
from roofml.util.package_data import data_folder

MEASURED = sorted({path.parents[1].name for path in data_folder("bench_data").glob("*/modules/*.csv")})
GPUS = ("H100", "B200", "L40S", "A100-SXM")


@pytest.mark.parametrize("name", MEASURED)
def test_a_shipped_table_is_of_a_known_kind_and_reaches_no_more_than_the_datasheet(name: str) -> None:
    modules = load_kernels(load_gpu(name)).efficiency.modules
    files = {path.stem for path in (data_folder("bench_data") / name / "modules").iterdir()}
    assert files == set(modules.own)
    for kind, rows in modules.own.items():
        for column, values in zip(COLUMNS[kind][2], rows.values.T, strict=True):
            if column in ("mbu", "mfu", "index_mbu", "index_mfu"):
                assert np.all((values > 0) & (values <= 1)), (name, kind, column)


@pytest.mark.parametrize("kind", ["gdn", "kda"])
@pytest.mark.parametrize("name", GPUS)
def test_more_heads_never_scan_faster(kind: str, name: str) -> None:
    modules, before = load_kernels(load_gpu(name)).efficiency.modules, 0.0
    for heads in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 40, 48, 64, 96, 100, 128, 192):
        scan = modules.scan(kind, heads)
        assert scan is not None
        assert scan.token_us >= before
        assert scan.token_us > 0
        before = scan.token_us


def test_a_prompt_of_a_gated_delta_rule_takes_what_was_measured() -> None:
    """H100, 32 value heads: 0.047 µs a token in the scan and 0.015 in the convolution (vLLM 0.25)."""
    scan = load_kernels(load_gpu("H100")).efficiency.modules.scan("gdn", 32)
    assert scan is not None
    assert scan.token_us == pytest.approx(0.062, rel=0.1)


@pytest.mark.parametrize("kind", ["mla", "dsa", "csa", "hca"])
@pytest.mark.parametrize("prompts", [False, True])
def test_another_gpus_table_is_less_certain_and_keeps_the_launch(kind: str, prompts: bool) -> None:
    there = load_kernels(load_gpu("H100")).efficiency.modules.block(kind, prompts, "fp8", 16)
    here = load_kernels(load_gpu("L40S")).efficiency.modules.block(kind, prompts, "fp8", 16)
    assert there is not None
    assert here is not None
    assert here.sd > there.sd
    assert here.share <= 1
    assert here.item_us >= 0


def test_a_type_of_cache_that_was_not_measured_is_less_certain() -> None:
    modules = load_kernels(load_gpu("H100")).efficiency.modules
    fp8, other = (modules.block("csa", False, dtype, 16) for dtype in ("fp8", "bfloat16"))
    assert fp8 is not None
    assert other is not None
    assert other.sd > fp8.sd


def test_hyper_connections_take_more_for_more_tokens_and_in_proportion_beyond_the_table() -> None:
    tokens = np.array([1.0, 100.0, 1000.0, 16384.0, 32768.0])
    time = load_kernels(load_gpu("H100")).efficiency.modules.mixing_us(4096, tokens)
    assert time is not None
    assert np.all(np.diff(time) > 0)
    assert time[4] == pytest.approx(2 * time[3], rel=1e-12)


def test_without_any_table_nothing_is_made_up() -> None:
    nothing = Modules()
    assert nothing.block("mla", False, "fp8", 16) is None
    assert nothing.scan("gdn", 32) is None
    assert nothing.mixing_us(4096, np.ones(1)) is None
