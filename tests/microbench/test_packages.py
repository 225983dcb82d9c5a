"""Packages of measurements: a wheel is read as it is, and which version of a kernel is taken."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from commandline import fails, ok

from roofml.hardware.gpu import load_gpu
from roofml.microbench.packages import Held, campaign_of, newest, packages, tables_of
from roofml.util.errors import InputError

PRODUCTS = pd.DataFrame({"gemm_dtype": "bfloat16", "m": [1, 64], "n": 1024, "k": 1024, "latency": [0.01, 0.02]})


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """Three versions of one kernel, in a wheel of aisimulate."""
    path = tmp_path / "aisimulate-1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("aisimulate-1.2.dist-info/METADATA", "Name: aisimulate")
        for version in ("0.24.0", "0.25.0", "0.31.0", "0.1.dev7"):
            table = io.BytesIO()
            PRODUCTS.assign(version=version, framework="VLLM").to_parquet(table)
            name = f"aisimulate_core/systems/data/h100_sxm/gemm/vllm/{version}/gemm_perf.parquet"
            file.writestr(name, table.getvalue())
    return path


def test_a_wheel_says_its_version_and_what_it_holds(wheel: Path) -> None:
    (package,) = packages([wheel])
    assert (package.name, package.version) == ("aisimulate", "1.2")
    held = tables_of(load_gpu("H100"), [package], ["gemm", "moe"])
    assert [table.version for table in held["gemm"]] == ["0.1.dev7", "0.24.0", "0.25.0", "0.31.0"]
    assert "moe" not in held
    said = ok("bench", "import", "--gpu", "H100", "--package", wheel, "--list", "--json").document
    assert said["versions"]["gemm"][-1] == "0.31.0"


def test_the_campaign_is_taken_and_not_what_came_later(wheel: Path) -> None:
    tables = tables_of(load_gpu("H100"), packages([wheel]), ["gemm"])["gemm"]

    def version(until: tuple[int, ...]) -> str:
        held = newest(tables, until)
        assert isinstance(held, Held)
        return held.version

    assert version(campaign_of(load_gpu("H100"))) == "0.25.0"
    assert version(campaign_of(load_gpu("L40S"))) == "0.24.0"
    assert version((0, 14, 99)) == "0.24.0"  # none so old: the oldest later one
    assert newest([], (0, 25)) is None


def test_what_is_no_wheel_or_lacks_a_gpu_is_refused(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "x.whl").write_bytes(b"not a zip")
    assert "is no wheel" in fails("bench", "import", "--gpu", "H100", "--package", tmp_path / "x.whl").err
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="expected a wheel of aiconfigurator-core or aisimulate"):
        packages([tmp_path / "empty"])
    with pytest.raises(InputError, match=r"MI300X: aisimulate has no measurements of it \(it has H100\)"):
        tables_of(load_gpu("MI300X"), packages([wheel]), ["gemm"])
    assert "no moe of vLLM" in fails("bench", "import", "--gpu", "H100", "--package", wheel, "-o", tmp_path / "o").err
