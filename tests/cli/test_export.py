"""`roofml export blis` from the command line."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from commandline import Result, fails, roofml

BLIS = """\
blis:
  alpha_coeffs: [9000, 400, 3]
  beta_coeffs: [1.4, 0, 1.3, 1, 12, 2, 90, 0, 0, 1.8, 1]
  total_kv_blocks: 7462
"""


@pytest.fixture
def folder(coeffs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command runs: a coefficients file with round numbers for BLIS, and a defaults file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "coeffs.yaml").write_text(coeffs.read_text() + BLIS)
    (tmp_path / "defaults.yaml").write_text("version: 1  # mine\n")
    return tmp_path


def export(*arguments: object, code: int = 0) -> Result:
    result = roofml("export", "blis", *arguments)
    assert result.status == code, result.err
    return result


def test_a_defaults_file_is_edited_and_the_change_shown(folder: Path) -> None:
    shown = export("coeffs.yaml", "--defaults", "defaults.yaml").out
    assert "+  alpha_coeffs: [9000, 400, 3]" in shown
    assert "defaults.yaml: written, was saved as defaults.yaml.bak" in shown
    assert "--total-kv-blocks 7462" in shown
    assert (folder / "defaults.yaml").read_text().startswith("version: 1  # mine\n")
    assert "nothing to change" in export("coeffs.yaml", "--defaults", "defaults.yaml").out


def test_a_dry_run_writes_nothing(folder: Path) -> None:
    before = sorted(folder.iterdir())
    shown = export("coeffs.yaml", "--defaults", "defaults.yaml", "--hardware-config", "hw.json", "--dry-run").out
    assert "+  alpha_coeffs" in shown
    assert "hw.json: would be written" in shown
    assert sorted(folder.iterdir()) == before
    assert (folder / "defaults.yaml").read_text() == "version: 1  # mine\n"


def test_without_a_file_to_edit_a_new_one_is_made(folder: Path) -> None:
    export("coeffs.yaml", "-o", folder)
    assert "beta_coeffs: [1.4, 0," in (folder / "llama-2-7b-hf-h100-tp1.defaults.yaml").read_text()


def test_flags_are_printed_instead(folder: Path) -> None:
    before = sorted(folder.iterdir())
    shown = export("coeffs.yaml", "--flags").out
    assert shown.startswith("--model llama-2-7b-hf --hardware H100 --tp 1 ")
    assert "--total-kv-blocks 7462" in shown
    assert "--beta-coeffs 1.4,0,1.3,1,12,2,90,0,0,1.8,1" in shown
    assert sorted(folder.iterdir()) == before


def test_several_sets_make_a_file_each_and_an_index(folder: Path) -> None:
    text = (folder / "coeffs.yaml").read_text()
    assert "\ntensor_parallel: 1\n" in text
    (folder / "other.yaml").write_text(text.replace("\ntensor_parallel: 1\n", "\ntensor_parallel: 2\n"))
    export("coeffs.yaml", "other.yaml", "--defaults", "defaults.yaml", "--hardware-config", "hw.json")
    names = {path.name for path in folder.iterdir()}
    assert {"llama-2-7b-hf-h100-tp1.defaults.yaml", "llama-2-7b-hf-h100-tp2.defaults.yaml", "blis-flags.sh"} <= names
    assert (folder / "defaults.yaml").read_text() == "version: 1  # mine\n"
    assert list(json.loads((folder / "hw.json").read_text())) == ["H100"]


def test_json_is_one_document_and_quiet_is_silent(folder: Path) -> None:
    document = json.loads(export("coeffs.yaml", "--defaults", "defaults.yaml", "--json").out)
    assert document["exports"][0]["total_kv_blocks"] == 7462
    assert document["files"][0]["written"]
    assert document["files"][0]["backup"] == "defaults.yaml.bak"
    assert document["verification"] is None
    assert export("coeffs.yaml", "--defaults", "defaults.yaml", "--quiet") == Result(0, "", "")


def test_a_run_is_checked_with_the_binary_before_and_after(folder: Path, shared: Path) -> None:
    run = next(path for path in (shared / "groundtruth").iterdir() if "llama-2-7b-tp1-roleplay" in path.name)
    fake = folder / "blis"
    fake.write_text(f"#!{sys.executable}\n" + STAND_IN)
    fake.chmod(0o755)
    shown = export("coeffs.yaml", "--flags", "--verify", run, "--blis", fake).out
    assert "before: E2E -100.0 %" in shown
    assert "after : E2E -100.0 %" in shown
    assert "ttft poor" in shown
    assert "is it another version?" in shown
    fake.write_text(f"#!{sys.executable}\nimport sys; sys.exit('panic: no')\n")
    failed = export("coeffs.yaml", "--flags", "--verify", run, "--blis", fake, code=1)
    assert failed.err == "roofml: blis replay: exit code 1: panic: no\n"


STAND_IN = """
import csv, json, sys
flags = dict(zip(sys.argv[2::2], sys.argv[3::2]))
if sys.argv[1] == "replay":
    ids = [int(row["request_id"]) for row in csv.DictReader(open(flags["--trace-data"]))]
    json.dump([dict(request_id=i, ttft_us=1, e2e_us=1) for i in ids], open(flags["--results-path"], "w"))
else:
    level = dict(request_level=dict(mape=1, pearson_r=0, quality="poor"))
    json.dump(dict(metrics=dict(ttft=level)), open(flags["--report"], "w"))
"""


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["missing.yaml"], "missing.yaml: no such file"),
        (["coeffs.yaml", "coeffs.yaml", "-o", "nowhere"], "nowhere: no such folder"),
        (["coeffs.yaml", "coeffs.yaml"], "given twice"),
        (["coeffs.yaml", "coeffs.yaml", "--defaults", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["coeffs.yaml", "coeffs.yaml", "--verify", "run"], "--verify: expected one COEFFS file"),
        (["coeffs.yaml", "--verify", "run", "--blis", "nowhere"], "nowhere: no executable file"),
    ],
)
def test_bad_input_is_refused_and_nothing_written(folder: Path, args: list[str], error: str) -> None:
    before = sorted(folder.iterdir())
    assert error in fails("export", "blis", *args).err
    assert sorted(folder.iterdir()) == before


@pytest.mark.skipif(shutil.which("blis") is not None, reason="there is a blis binary on PATH")
def test_a_check_without_a_binary_says_where_to_get_one(folder: Path) -> None:
    said = fails("export", "blis", "coeffs.yaml", "--verify", "run").err
    assert "build it from github.com/inference-sim/inference-sim" in said


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "0", "1e30"])
def test_a_time_out_that_is_none_is_refused(folder: Path, seconds: str) -> None:
    refused = roofml("export", "blis", "coeffs.yaml", "--timeout", seconds)
    assert refused.status == 2
    assert "--timeout" in refused.err


LIMITS = [
    (option, value)
    for option in ("--tp", "--max-num-seqs", "--max-num-batched-tokens")
    for value in ("0", "-1", "2000000000", "1" + "0" * 400)
]


@pytest.mark.parametrize(("option", "value"), LIMITS)
def test_usage_derive(folder: Path, option: str, value: str) -> None:
    """Limits that no server has would take the machine's memory, or end in an error of a list or an array."""
    before = sorted(folder.iterdir())
    said = fails("export", "blis", "--derive", "llama-2-7b-hf", "--gpu", "H100", option, value).err
    assert option in said
    assert sorted(folder.iterdir()) == before


def test_a_file_that_is_not_a_whole_one_is_refused(folder: Path) -> None:
    """Export reads coefficients as every other command does."""
    (folder / "part.yaml").write_text("schema: roofml/1\ngpu: H100\ntensor_parallel: 1\n" + BLIS)
    said = fails("export", "blis", "part.yaml").err
    assert said.startswith("roofml: part.yaml: model: ")
    assert fails("replay", "run", "--coeffs", "part.yaml").status == 2
