"""An export changes all of its files or none, never what is not its own, and of several at once none is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from commandline import ROOT, fails, ok, roofml

from roofml.export.edit import Edit, carry_out, write_edits
from roofml.util.errors import InputError

Write = Callable[..., Path]
"""The fixture `coefficients`: writes a coefficients file of this name, with other texts in its fields."""


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """Every file and link below a folder, with what it holds."""
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def export(*arguments: object) -> str:
    return ok("export", "blis", *arguments).out


@pytest.fixture
def both(coefficients: Write, tmp_path: Path) -> list[Path]:
    """Two coefficients files, of one model at two parallel sizes."""
    return [coefficients("one.yaml"), coefficients("two.yaml", tensor_parallel="2")]


@pytest.mark.parametrize("second", ["defaults.yaml", "./defaults.yaml", "link.yaml"])
def test_out_defaults_is_hardware_config(coefficients: Write, tmp_path: Path, second: str) -> None:
    path = coefficients()
    (tmp_path / "defaults.yaml").write_text("")
    (tmp_path / "link.yaml").symlink_to("defaults.yaml")
    before = snapshot(tmp_path)
    for dry in ([], ["--dry-run"]):
        said = fails("export", "blis", path, "--defaults", "defaults.yaml", "--hardware-config", second, *dry).err
        assert "is the same file as defaults.yaml, expected two" in said
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("what", ["hw.json", "defaults.yaml"])
def test_export_unwritable_halfway(coefficients: Write, tmp_path: Path, what: str) -> None:
    path = coefficients()
    (tmp_path / "defaults.yaml").write_text("version: 1\n")
    (tmp_path / "hw.json").write_text("{}")
    (tmp_path / what).chmod(0o444)
    before = snapshot(tmp_path)
    said = fails("export", "blis", path, "--defaults", "defaults.yaml", "--hardware-config", "hw.json").err
    assert said == f"roofml: {what}: is read-only\n"
    assert snapshot(tmp_path) == before


def test_export_several_unwritable_halfway(both: list[Path], tmp_path: Path) -> None:
    (tmp_path / "llama-2-7b-hf-h100-tp2.defaults.yaml").write_text("version: 1\n")
    (tmp_path / "llama-2-7b-hf-h100-tp2.defaults.yaml").chmod(0o444)
    before = snapshot(tmp_path)
    assert "tp2.defaults.yaml: is read-only" in fails("export", "blis", *both).err
    assert snapshot(tmp_path) == before


def test_a_file_that_needs_no_change_may_be_read_only(coefficients: Write, tmp_path: Path) -> None:
    """BLIS ships its hardware_config.json, and H100 is in it."""
    path = coefficients()
    export(path, "--defaults", "defaults.yaml", "--hardware-config", "hw.json")
    (tmp_path / "hw.json").chmod(0o444)
    (tmp_path / "defaults.yaml").chmod(0o444)
    told = export(path, "--defaults", "defaults.yaml", "--hardware-config", "hw.json")
    assert told.count("nothing to change") == 2


def test_out_readonly_defaults(coefficients: Write, tmp_path: Path) -> None:
    (tmp_path / "defaults.yaml").write_text("version: 1\n")
    (tmp_path / "defaults.yaml").chmod(0o444)
    assert "defaults.yaml: is read-only" in fails("export", "blis", coefficients(), "--defaults", "defaults.yaml").err
    assert (tmp_path / "defaults.yaml").read_text() == "version: 1\n"


@pytest.mark.parametrize("target", ["nowhere", "other.txt"])
def test_export_backup_dangling_link(coefficients: Write, tmp_path: Path, target: str) -> None:
    path = coefficients()
    (tmp_path / "other.txt").write_text("mine")
    (tmp_path / "defaults.yaml").write_text("version: 1\n")
    (tmp_path / "defaults.yaml.bak").symlink_to(target)
    assert "was saved as defaults.yaml.bak2" in export(path, "--defaults", "defaults.yaml")
    assert str((tmp_path / "defaults.yaml.bak").readlink()) == target
    assert (tmp_path / "defaults.yaml.bak2").read_text() == "version: 1\n"
    assert (tmp_path / "other.txt").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


def test_a_backup_that_is_there_already_is_kept_as_it_is(coefficients: Write, tmp_path: Path) -> None:
    path = coefficients()
    (tmp_path / "defaults.yaml").write_text("version: 1\n")
    (tmp_path / "defaults.yaml.bak").write_text("version: 1\n")
    (tmp_path / "defaults.yaml.bak").chmod(0o444)
    assert "was saved as defaults.yaml.bak" in export(path, "--defaults", "defaults.yaml")
    assert (tmp_path / "defaults.yaml.bak").stat().st_mode & 0o777 == 0o444


def test_a_dry_run_of_everything_leaves_every_byte(both: list[Path], tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    told = export(*both, "--hardware-config", "hw.json", "--dry-run")
    assert told.count("would be written") == 4
    assert snapshot(tmp_path) == before


def test_a_link_to_nothing_is_a_file_to_be_made(coefficients: Write, tmp_path: Path) -> None:
    (tmp_path / "defaults.yaml").symlink_to("real.yaml")
    export(coefficients(), "--defaults", "defaults.yaml")
    assert (tmp_path / "defaults.yaml").is_symlink()
    assert "alpha_coeffs" in (tmp_path / "real.yaml").read_text()


def test_nothing_is_left_beside_the_files(both: list[Path], tmp_path: Path) -> None:
    export(*both, "--hardware-config", "hw.json")
    assert {path.name for path in tmp_path.iterdir()} == {
        "one.yaml", "two.yaml", "hw.json", "blis-flags.sh", "llama-2-7b-hf-h100-tp1.defaults.yaml",
        "llama-2-7b-hf-h100-tp2.defaults.yaml",
    }  # fmt: skip


def test_an_index_that_is_not_ours_is_not_replaced(both: list[Path], tmp_path: Path) -> None:
    (tmp_path / "blis-flags.sh").write_text("echo mine\n")
    before = snapshot(tmp_path)
    assert "blis-flags.sh: was not written by roofml" in fails("export", "blis", *both).err
    assert snapshot(tmp_path) == before


def test_an_index_keeps_the_deployments_it_had_whose_files_are_there(
    both: list[Path], coefficients: Write, tmp_path: Path
) -> None:
    export(*both)
    export(coefficients("four.yaml", tensor_parallel="4"), coefficients("eight.yaml", tensor_parallel="8"))
    (tmp_path / "llama-2-7b-hf-h100-tp1.defaults.yaml").unlink()
    export("eight.yaml", "four.yaml")
    listed = [line for line in (tmp_path / "blis-flags.sh").read_text().splitlines() if "DEPLOYMENTS=" in line]
    assert listed == [
        'BLIS_DEPLOYMENTS="llama-2-7b-hf-h100-tp8 llama-2-7b-hf-h100-tp4 llama-2-7b-hf-h100-tp2"'
    ]  # fmt: skip


OTHERS = {
    "another GPU": {"gpu": "A100-SXM"},
    "another TP": {"tensor_parallel": "2"},
    "another model": {"name": "llama-2-70b-hf"},
}


@pytest.mark.parametrize("other", OTHERS)
def test_our_coefficients_of_another_deployment_are_not_replaced_unasked(
    coefficients: Write, tmp_path: Path, other: str
) -> None:
    export(coefficients(), "--defaults", "defaults.yaml")
    before = snapshot(tmp_path)
    path = coefficients("coeffs.yaml", **OTHERS[other])
    said = fails("export", "blis", path, "--defaults", "defaults.yaml").err
    assert "defaults.yaml: holds roofml's coefficients of llama-2-7b-hf on H100 with TP 1, and BLIS reads one" in said
    assert "or say --replace" in said
    assert {**snapshot(tmp_path), "coeffs.yaml": b""} == {**before, "coeffs.yaml": b""}
    export(path, "--defaults", "defaults.yaml", "--replace")
    assert snapshot(tmp_path)["defaults.yaml.bak"] == before["defaults.yaml"]


def test_newer_coefficients_of_the_same_deployment_replace_the_older(coefficients: Write, tmp_path: Path) -> None:
    export(coefficients(), "--defaults", "defaults.yaml")
    export(coefficients(alpha_coeffs="[1, 2, 3]"), "--defaults", "defaults.yaml")
    assert "alpha_coeffs: [1, 2, 3]" in (tmp_path / "defaults.yaml").read_text()
    assert "alpha_coeffs: [9000.5, 400, 3]" in (tmp_path / "defaults.yaml.bak").read_text()


def test_the_coefficients_that_blis_ships_are_replaced(coefficients: Write, tmp_path: Path) -> None:
    (tmp_path / "defaults.yaml").write_text("# of BLIS\ntrained_physics_coefficients:\n  alpha_coeffs: [1, 2, 3]\n")
    export(coefficients(), "--defaults", "defaults.yaml")
    assert "[9000.5, 400, 3]" in (tmp_path / "defaults.yaml").read_text()


@pytest.mark.parametrize("comment", ["# roofml: mine", "# roofml: run BLIS with: --model 'x"])
def test_ours_that_do_not_say_for_what_are_not_replaced_unasked(
    coefficients: Write, tmp_path: Path, comment: str
) -> None:
    (tmp_path / "defaults.yaml").write_text(f"{comment}\ntrained_physics_coefficients:\n  alpha_coeffs: [1, 2, 3]\n")
    said = fails("export", "blis", coefficients(), "--defaults", "defaults.yaml").err
    assert "of a deployment that they do not name" in said


def test_a_change_by_another_program_between_reading_and_writing_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    edit = Edit(path, "old", "new")
    path.write_text("theirs")
    with pytest.raises(InputError, match="another program changed it meanwhile"):
        write_edits([edit])
    assert {entry.name for entry in tmp_path.iterdir()} == {"file"}
    edits, saved = carry_out(lambda: [Edit(path, "theirs", "theirs, new")], [edit])
    assert path.read_text() == edits[0].after == "theirs, new"
    assert saved == [tmp_path / "file.bak"]


def test_a_new_file_that_another_makes_first_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    edit = Edit(path, None, "new")
    path.write_text("theirs")
    with pytest.raises(InputError, match="another program changed it meanwhile"):
        write_edits([edit])
    assert path.read_text() == "theirs"


def test_of_exports_at_once_none_that_succeeds_is_lost() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/concurrent_exports.py", "--rounds", "1"],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_fit_that_does_not_describe_its_runs_is_exported_with_a_warning(coefficients: Write, tmp_path: Path) -> None:
    path = coefficients(converged="true\n  misfit: [the E2E of run a is 900 % off]")
    told = roofml("export", "blis", path, "--defaults", "defaults.yaml", "--quiet")
    assert (told.status, told.out) == (0, "")
    warning = "warning: coeffs.yaml: the fit does not describe its runs: the E2E of run a is 900 % off"
    assert warning in " ".join(told.err.split())
    assert f"# roofml: {warning}\n" in (tmp_path / "defaults.yaml").read_text()
    assert json.loads(export(path, "--flags", "--json"))["exports"][0]["model"] == "llama-2-7b-hf"
