"""What is said where Dask is not there, or no scheduler answers."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from commandline import roofml
from fleet import SMALL, write_run

from roofml.jobs import cluster


def test_without_the_extra_one_line_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda _name: None)
    write_run(tmp_path / "runs" / "a", SMALL, 1, requests=20)
    said = roofml("catalog", "fit", tmp_path / "runs", "-o", tmp_path / "catalog")
    assert said.status == 2
    assert "pip install 'roofml[cluster]'" in said.err
    assert not (tmp_path / "catalog").exists()


@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="Dask is not installed")
def test_what_cannot_be_made_is_said_before_anything_is_computed(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for runs, output, why in (
        (tmp_path / "none", "catalog", "expected a folder"),
        (empty, "catalog", "no file below it"),
    ):
        said = roofml("catalog", "fit", runs, "-o", tmp_path / output)
        assert said.status == 2
        assert why in said.err
    write_run(tmp_path / "runs" / "a", SMALL, 1, requests=20)
    own = roofml("catalog", "fit", tmp_path / "runs", "-o", tmp_path / "runs")
    assert "is the folder of the runs" in own.err
    nobody = roofml("catalog", "fit", tmp_path / "runs", "-o", tmp_path / "catalog", "--scheduler", "nonsense")
    assert nobody.status == 2
    assert "expected an address such as tcp://HOST:8786" in nobody.err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    full = roofml("catalog", "fit", tmp_path / "runs", "-o", tmp_path / "full")
    assert "holds other files and no catalogue" in full.err
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"
