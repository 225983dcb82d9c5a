"""The nearest calibration for a deployment, and what its distance costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from catalogued import NAMES, write_shipped
from commandline import ok, roofml

from roofml.calibration.calibration import Calibration
from roofml.catalog.catalog import open_catalog
from roofml.catalog.nearest import OTHER_SETTING_SD, Nearest, nearest
from roofml.latency.batch import Batch
from roofml.latency.deployment import deploy
from roofml.util.errors import InputError

BATCH = Batch(decode=[(700, 16)])


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shipped(tmp_path_factory.mktemp("catalog") / "shipped")


def found(catalog: Path, model: str = "llama-2-7b-hf", gpu: str = "H100", tp: int = 1, **more: Any) -> Nearest:
    return nearest(open_catalog(str(catalog)), deploy(model, gpu, tp, **more))


def width(calibration: Calibration) -> float:
    """Of a step's interval, relative."""
    low, high = calibration.step_time(BATCH).total.interval_90 or (1.0, 1.0)
    return high / low - 1


def test_a_deployment_that_is_there_is_its_own_fit(catalog: Path) -> None:
    own = found(catalog)
    assert own.exact
    assert own.row is not None
    assert own.row.name == "llama-2-7b-hf-h100-tp1"
    assert own.calibration.fitted


def test_the_further_away_the_less_sure(catalog: Path) -> None:
    own, other_tp, other_gpu = found(catalog), found(catalog, tp=2), found(catalog, gpu="A100")
    assert (other_tp.distance, other_gpu.distance) == ("tp", "gpu")
    assert other_tp.row is not None
    assert other_tp.row.name == "llama-2-7b-hf-h100-tp1"
    widths = [width(each.calibration) for each in (own, other_tp, other_gpu)]
    assert widths == sorted(widths)
    assert "another tensor parallel size" in other_tp.sentence
    assert not other_tp.calibration.fitted


def test_another_model_is_what_those_that_are_there_say_together(catalog: Path) -> None:
    other = found(catalog, "llama-3.1-8b")
    assert (other.distance, other.row) == ("models", None)
    assert "2.0 % off in E2E" in other.sentence


def test_nothing_near_is_the_package_s_own(catalog: Path) -> None:
    nothing = found(catalog, "llama-3.1-8b", gpu="A100")
    assert nothing.distance == "package"
    assert "the package's own" in nothing.sentence


@pytest.mark.parametrize(
    ("changes", "asked"), [({"settings": '{"enforce_eager": true}'}, {}), ({}, {"kv_dtype": "fp8"})]
)
def test_another_setting_is_a_doubt(tmp_path: Path, changes: dict[str, Any], asked: dict[str, Any]) -> None:
    near = found(write_shipped(tmp_path / "catalog", **changes), **asked)
    assert near.distance == "setting"
    variances = near.calibration.step_time(BATCH).total.variances
    assert variances["other setting"] == pytest.approx(OTHER_SETTING_SD**2)


def test_another_version_is_carried_over(tmp_path: Path) -> None:
    near = found(write_shipped(tmp_path / "catalog", engine_version="0.15.1"), engine_version="0.30.0")
    assert near.distance == "version"
    assert "another version" in near.sentence


def test_a_version_that_nobody_asks_for_does_not_differ(tmp_path: Path) -> None:
    catalog = write_shipped(tmp_path / "catalog", engine_version="0.15.1")
    assert found(catalog).exact
    assert found(catalog, engine_version="0.15.0").exact


def test_coefficients_that_the_index_is_not_of_are_refused(tmp_path: Path) -> None:
    catalog = write_shipped(tmp_path / "catalog")
    file = catalog / "coeffs" / "llama-2-7b-hf-h100-tp1.yaml"
    file.write_text(file.read_text("utf-8").replace("requests:", "requests: "), "utf-8")
    with pytest.raises(InputError, match="is not the file that"):
        found(catalog)


def test_names_of_deployments(catalog: Path) -> None:
    opened = open_catalog(str(catalog))
    assert [row.name for row in opened.named([])] == list(NAMES)
    assert [row.name for row in opened.named([NAMES[1]])] == [NAMES[1]]
    with pytest.raises(InputError, match="no deployment nonsense"):
        opened.named(["nonsense"])


def test_what_is_no_catalogue_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no catalogue of `roofml catalog fit` there"):
        open_catalog(str(tmp_path))
    (tmp_path / "index.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="not a Parquet file"):
        open_catalog(str(tmp_path))


def test_predict_stands_on_a_catalogue(catalog: Path) -> None:
    where = ("predict", "llama-2-7b-hf", "--gpu", "H100", "--decode", "700x16", "--catalog", catalog, "--json")
    file = catalog / "coeffs" / "llama-2-7b-hf-h100-tp1.yaml"
    by_file = ok("predict", "llama-2-7b-hf", "--gpu", "H100", "--decode", "700x16", "--coeffs", file, "--json")
    assert ok(*where).document == by_file.document
    carried = ok(*where, "--tp", 2)
    assert "stands for it" in carried.err
    both = roofml(*where, "--coeffs", file)
    assert both.status == 2
    assert "expected one of them" in both.err


def test_export_takes_names_of_a_catalogue(catalog: Path, tmp_path: Path) -> None:
    ok("export", "go", "--catalog", catalog, NAMES[2], "-o", tmp_path / "go")
    made = [path.name for path in (tmp_path / "go").rglob("*") if NAMES[2] in path.name]
    assert made
    assert roofml("export", "go", "-o", tmp_path / "go2").status == 2
