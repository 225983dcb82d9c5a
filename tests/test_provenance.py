"""What the package ships says where it comes from, and says its version once."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

import roofml
from roofml.util.yaml_io import read_mapping

ROOT = Path(__file__).resolve().parents[1]
PAGE = " ".join((ROOT / "docs" / "provenance.md").read_text(encoding="utf-8").split())
NOTICE = " ".join((ROOT / "NOTICE").read_text(encoding="utf-8").split())
TABLES = sorted((ROOT / "bench_data").rglob("*.csv"))
SHEETS = sorted((ROOT / "hardware").glob("*.yaml"))
CONFIGS = sorted((ROOT / "model_configs").glob("*/config.json"))
DATA_FOLDERS = ("model_configs", "hardware", "bench_data", "coeffs")


def about(table: Path) -> dict[str, str]:
    """The `# key: value` lines at the head of a table."""
    lines = table.read_text(encoding="utf-8").splitlines()
    head = [line[1:].partition(":") for line in lines if line.startswith("#")]
    return {key.strip(): value.strip() for key, _, value in head}


@pytest.mark.parametrize("table", TABLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_kernel_table_says_its_source_and_the_page_and_the_notice_name_it(table: Path) -> None:
    said = about(table)
    for key in ("source", "engine", "licence", "date"):
        assert said.get(key), f"{table}: no '# {key}:' in its head"
    folder = table.parent.relative_to(ROOT).as_posix()
    row = rf"\| `{folder}/` \| [^|]*\b{table.stem}\b[^|]* \| {re.escape(said['source'])} \|"
    row += rf" {re.escape(said['engine'])} \| {re.escape(said['licence'])} \| {said['date']} \|"
    assert re.search(row, PAGE), f"docs/provenance.md has no row for {table.parent.name}/{table.name}: {said}"
    assert said["source"] in NOTICE
    assert said["licence"] in NOTICE


@pytest.mark.parametrize("sheet", SHEETS, ids=lambda path: path.stem)
def test_a_gpu_sheet_says_its_source_and_the_page_repeats_it(sheet: Path) -> None:
    source = read_mapping(sheet)["source"]
    assert isinstance(source, str)
    assert f"| `{sheet.stem}` | {source} |" in PAGE


def test_every_config_stands_under_the_repository_it_tells_of() -> None:
    section = PAGE.partition("## Model configs")[2].partition("## Fitted coefficients")[0]
    named = [name.lower() for name in re.findall(r"`[\w.-]+/([\w.-]+)`", section)]
    assert sorted(named) == [path.parent.name for path in CONFIGS]


def test_every_folder_of_tables_is_named_and_goes_into_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    targets = project["tool"]["hatch"]["build"]["targets"]
    ours = {folder: f"roofml/data/{folder}" for folder in (*DATA_FOLDERS, "sample_run")}  # made here, of nobody's data
    assert targets["wheel"]["force-include"] == ours
    assert set(DATA_FOLDERS) <= set(targets["sdist"]["only-include"])
    for folder in DATA_FOLDERS:
        assert (ROOT / folder).is_dir()
        assert f"{folder}/" in PAGE
        assert f"{folder}/" in NOTICE


def test_the_version_stands_once_and_the_changelog_has_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["dynamic"] == ["version"]
    assert "version" not in project
    assert version("roofml") == roofml.__version__, "installed before the version changed: install again (`just setup`)"
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## (Unreleased \()?{re.escape(roofml.__version__)}\b", changelog, re.MULTILINE)
