"""`roofml demo`: the main job on made-up data, without a file or a network."""

from __future__ import annotations

from pathlib import Path

import pytest
from commandline import ok

from roofml.calibration.coefficients import read_coefficients
from roofml.latency.parameters import NAMES

pytestmark = pytest.mark.slow


def test_demo_needs_nothing_and_writes_its_file_here(demo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo_folder)
    shown = ok("demo").out
    assert "inside their interval" in shown
    assert "next: roofml fit" in shown
    assert read_coefficients(Path("roofml-demo.yaml")).fit.runs == ["demo"]
    found = ok("demo", "--json").document
    assert [row["name"] for row in found["parameters"]] == list(NAMES)
    assert any(row["identified"] for row in found["parameters"])
    assert all(row["inside"] == (row["low"] <= row["truth"] <= row["high"]) for row in found["parameters"])
