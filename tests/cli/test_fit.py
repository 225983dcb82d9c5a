"""`roofml fit`: the file, the table and the document that it makes of runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from commandline import ok, python, read_yaml, roofml, saturated_folder
from runfolder import RunFolder, exp_config, header, requests

from roofml.calibration.coefficients import read_coefficients
from roofml.latency.parameters import NAMES

pytestmark = pytest.mark.slow


def test_fit_writes_the_same_bytes_every_time_here_and_to_stdout(folder: Path, coeffs: Path) -> None:
    again = ok("fit", folder, "--gpu", "H100", "--quiet").out
    assert again == coeffs.read_text()
    assert read_coefficients(coeffs).fit.runs == ["quiet"]


def test_fit_is_the_same_in_another_process(folder: Path, coeffs: Path) -> None:
    code = "from roofml.cli.main import main; main()"
    assert python(code, "fit", folder, "--gpu", "H100", "--quiet").stdout == coeffs.read_text()


def test_fit_shows_every_parameter_and_says_where_it_wrote(folder: Path, tmp_path: Path) -> None:
    shown = ok("fit", folder, "--gpu", "H100", "-o", tmp_path / "c.yaml").out
    for name in NAMES:
        assert re.search(rf"^ {name} .* (data|prior) $", shown, re.MULTILINE), name
    assert "95 % interval" in shown
    assert "in sample" in shown
    assert f"written: {tmp_path / 'c.yaml'}" in shown


def test_fit_json_holds_the_yaml_and_the_intervals(folder: Path, coeffs: Path) -> None:
    output = coeffs.with_name("for-json.yaml")
    found = ok("fit", folder, "--gpu", "H100", "-o", output, "--json").document
    assert found["coefficients"] == json.loads(json.dumps(read_yaml(coeffs.read_text())))  # JSON has names alone
    assert found["output"] == str(output)
    assert found["converged"] is read_coefficients(coeffs).fit.converged
    assert [row["name"] for row in found["parameters"]] == list(NAMES)
    for row in found["parameters"]:
        assert {"name", "group", "value", "low", "high", "prior", "identified"} <= set(row)
        assert row["low"] <= row["value"] <= row["high"]
    assert [run["run"] for run in found["runs"]] == ["quiet"]


def test_fit_takes_the_first_share_of_requests(folder: Path) -> None:
    found = ok("fit", folder, "--gpu", "H100", "--train-fraction", 0.6, "--json").document
    assert found["coefficients"]["fit"]["requests"] == 90
    assert found["coefficients"]["fit"]["train_fraction"] == 0.6
    assert found["runs"][0]["requests"] == 90, "in sample: the errors are of the requests fitted"


def test_fit_leaves_saturated_runs_out_and_says_so(folder: Path, tmp_path: Path) -> None:
    full = saturated_folder().write(tmp_path / "full")
    result = ok("fit", folder, full, "--gpu", "H100", "--json")
    assert result.document["coefficients"]["fit"]["runs"] == ["quiet"]
    assert "full: saturated, left out of the fit" in result.err


def test_fit_refuses_runs_of_two_sizes(folder: Path, tmp_path: Path) -> None:
    head, settings = header(), exp_config() | {"tensor_parallelism": 2}
    head["server"]["tensor_parallel"] = 2
    other = RunFolder(rows=requests(60), header=head, exp_config=settings).write(tmp_path / "other")
    result = roofml("fit", folder, other, "--gpu", "H100")
    assert (result.status, result.out) == (2, "")
    assert re.fullmatch(r"roofml: other: tensor_parallel 2 differs from 1 of quiet: .*\n", result.err)
