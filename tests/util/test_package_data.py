"""Packaged data is found, in a checkout and in an installed package."""

from __future__ import annotations

from pathlib import Path

import pytest

from roofml.util import package_data
from roofml.util.package_data import data_folder


@pytest.mark.parametrize("name", ["model_configs", "hardware", "bench_data", "coeffs", "sample_run"])
def test_packaged_folders_are_found(name: str) -> None:
    assert data_folder(name).is_dir()


def test_a_folder_that_is_missing_from_the_package_says_what_to_do() -> None:
    with pytest.raises(FileNotFoundError, match="packaged folder 'nothing' is missing: reinstall roofml"):
        data_folder("nothing")


def test_an_installed_package_uses_its_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel carries the folders in `data/`; a folder of the same name beside it in site-packages is another's."""
    for folder in ("roofml/data/hardware", "hardware"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(package_data, "__file__", str(tmp_path / "roofml" / "util" / "package_data.py"))
    assert data_folder("hardware") == tmp_path / "roofml" / "data" / "hardware"
