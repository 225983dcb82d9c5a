"""Everything that BLIS needs in one folder: where BLIS looks for it, quoted for a shell, never another deployment's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from blis_defaults import SET, strict
from commandline import fails, ok, roofml

from roofml.blis.deployment import SHIPPED_HARDWARE
from roofml.export.defaults import ModelEntry
from roofml.export.deployment import BlisExport
from roofml.export.edit import carry_out
from roofml.export.folder import folder_edits, model_folder, planned, script_edit
from roofml.models.spec import config_path
from roofml.util.errors import InputError

BASH = shutil.which("bash") or shutil.which("sh") or ""
Write = Callable[..., Path]

PLAIN = BlisExport(ModelEntry("llama-2-7b-hf", "H100", 1, "meta-llama/Llama-2-7b-hf"), SET, 7462, 16, 128)
FILES = ["defaults.yaml", "hardware_config.json", "model_configs/llama-2-7b-hf/config.json", "run.sh"]


def into(*arguments: object) -> str:
    return ok("export", "blis", *arguments).out


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def blis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Runs a script in a shell with a stand-in for `blis`; returns the arguments that it was called with."""
    (tmp_path / "bin").mkdir()
    stand_in = tmp_path / "bin" / "blis"
    told = tmp_path / "told.json"
    stand_in.write_text(f"#!{sys.executable}\nimport json, sys\njson.dump(sys.argv[1:], open({str(told)!r}, 'w'))\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:/usr/bin:/bin")
    monkeypatch.delenv("ROOFML_BLIS", raising=False)

    def run(script: Path, *arguments: str, cwd: Path) -> list[str]:
        subprocess.run([BASH, "-n", script], check=True, timeout=10)
        subprocess.run([BASH, script, *arguments], check=True, timeout=10, cwd=cwd)
        return json.loads(told.read_text())

    return run


def test_the_folder_holds_all_that_blis_looks_for(coefficients: Write, tmp_path: Path) -> None:
    told = into(coefficients(), "--into", "out")
    assert files_in(tmp_path / "out") == FILES
    assert strict((tmp_path / "out/defaults.yaml").read_text())["defaults"]["llama-2-7b-hf"]["GPU"] == "H100"
    assert list(json.loads((tmp_path / "out/hardware_config.json").read_text())) == ["H100"]
    assert (tmp_path / "out" / FILES[2]).read_bytes() == config_path("llama-2-7b-hf").read_bytes()
    assert told.count(": written") == 4
    assert into(coefficients(), "--into", "out").count("nothing to change") == 4


@pytest.mark.skipif(not BASH, reason="this system has no shell")
@pytest.mark.parametrize("name", ["out", "a b", "$(touch PWNED)", "x; touch PWNED", "'\"", "-x"])
def test_run_sh_works_from_anywhere(
    coefficients: Write, tmp_path: Path, blis: Callable[..., list[str]], name: str
) -> None:
    into(coefficients(), f"--into={name}")
    folder = (tmp_path / name).rename(tmp_path / f"moved {name}")
    for words, command in ((["--seed", "a b"], "run"), (["replay", "--seed", "a b"], "replay")):
        called = blis(folder / "run.sh", *words, cwd=tmp_path / "bin")
        assert called[0] == command
        assert called[-2:] == ["--seed", "a b"]
        flags = dict(zip(called[1::2], called[2::2], strict=True))
        assert Path(flags["--defaults-filepath"]) == folder / "defaults.yaml"
        assert Path(flags["--hardware-config"]) == folder / "hardware_config.json"
        assert (Path(flags["--model-config-folder"]) / "config.json").is_file()
        assert flags["--total-kv-blocks"] == "7462"
    assert not list(tmp_path.rglob("PWNED"))


@pytest.mark.skipif(not BASH, reason="this system has no shell")
@pytest.mark.parametrize(
    "gpu", ["x$(touch PWNED)", "x`touch PWNED`", "x' ; touch PWNED; '", 'x" ; touch PWNED; "', "*"]
)
def test_inject_run_sh(tmp_path: Path, blis: Callable[..., list[str]], gpu: str) -> None:
    """No name in coefficients runs a command from run.sh."""
    export = replace(PLAIN, model=replace(PLAIN.model, gpu=gpu))
    edit = script_edit(export, tmp_path / "run.sh")
    edit.path.write_text(edit.after)
    called = blis(edit.path, cwd=tmp_path)
    assert called[called.index("--hardware") + 1] == gpu
    assert not list(tmp_path.rglob("PWNED"))


@pytest.mark.parametrize("name", ["a/../../b", "/abs/x", "..", "a b", "x\ny", "org/../x"])
def test_escape_model_no_config_leaves_the_folder(name: str) -> None:
    with pytest.raises(InputError, match="expected a name that a folder can have"):
        model_folder(replace(PLAIN, model=ModelEntry(name, "H100", 1, "")))


def test_blis_strips_the_owner_of_a_model_and_so_do_we() -> None:
    assert model_folder(replace(PLAIN, model=ModelEntry("Org/Llama", "H100", 1, ""))) == "llama"


def test_what_is_there_is_merged(coefficients: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "defaults.yaml").write_text("version: 1  # mine\n")
    (out / "hardware_config.json").write_text('{\n  "B200": {"TFlopsPeak": 2250}\n}\n')
    into(coefficients(), "--into", out)
    assert (out / "defaults.yaml").read_text().startswith("version: 1  # mine\n")
    assert list(json.loads((out / "hardware_config.json").read_text())) == ["B200", "H100"]
    assert (out / "defaults.yaml.bak").read_text() == "version: 1  # mine\n"


def test_a_new_file_begins_as_a_copy_of_theirs(coefficients: Write, tmp_path: Path) -> None:
    (tmp_path / "theirs.yaml").write_text("version: 1  # theirs\n")
    into(coefficients(), "--defaults", "theirs.yaml", "--into", "out")
    assert (tmp_path / "theirs.yaml").read_text() == "version: 1  # theirs\n"
    assert (tmp_path / "out/defaults.yaml").read_text().startswith("version: 1  # theirs\n")


@pytest.mark.parametrize("change", [{"tensor_parallel": "2"}, {"gpu": "H200"}])
def test_export_second_is_refused_with_the_way_out(coefficients: Write, tmp_path: Path, change: dict[str, str]) -> None:
    """BLIS has one set for all models, parallel sizes and pools (its issue 1315): a second would replace the first."""
    into(coefficients("a.yaml"), "--into", "out")
    before = {name: (tmp_path / "out" / name).read_bytes() for name in FILES}
    other = coefficients("b.yaml", **change)
    assert "BLIS reads one set a file: give" in fails("export", "blis", other, "--into", "out").err
    assert "give each deployment a folder of its own" in fails("export", "blis", "a.yaml", other, "--into", "out").err
    assert {name: (tmp_path / "out" / name).read_bytes() for name in FILES} == before
    into(other, "--into", "elsewhere")
    into(other, "--into", "out", "--replace")
    assert (tmp_path / "out/run.sh").read_text() != before["run.sh"].decode()


def test_a_script_of_the_users_is_not_written_over(coefficients: Write, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/run.sh").write_text("#!/bin/sh\necho mine\n")
    said = fails("export", "blis", coefficients(), "--into", "out").err
    assert "run.sh: was not written by roofml: give another folder, or say --replace" in said
    assert files_in(tmp_path / "out") == ["run.sh"]


def test_a_folder_that_is_not_there_is_made_and_gone_where_nothing_comes_of_it(
    coefficients: Write, tmp_path: Path
) -> None:
    assert fails("export", "blis", coefficients(gpu="X9000"), "--into", "deep/er").err.startswith("roofml: gpu 'X9000'")
    assert not (tmp_path / "deep").exists()
    into(coefficients(), "-o", "new")
    assert files_in(tmp_path / "new") == FILES
    (tmp_path / "file").touch()
    assert "is no folder" in fails("export", "blis", coefficients(), "--into", "file").err


def test_a_dry_run_makes_no_folder(coefficients: Write, tmp_path: Path) -> None:
    assert into(coefficients(), "--into", "out", "--dry-run").count("would be written") == 4
    assert not (tmp_path / "out").exists()


def test_one_file_that_cannot_be_written_leaves_the_others(coefficients: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "hardware_config.json").write_text("{}")
    (out / "hardware_config.json").chmod(0o444)
    assert "hardware_config.json: is read-only" in fails("export", "blis", coefficients(), "--into", out).err
    assert files_in(out) == ["hardware_config.json"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_out_symlink_links_stay_links(coefficients: Write, tmp_path: Path, kind: str) -> None:
    real = tmp_path / "real"
    real.mkdir()
    out = tmp_path / "out"
    if kind == "folder":
        out.symlink_to(real)
    else:
        out.mkdir()
        (out / "defaults.yaml").symlink_to(real / "theirs.yaml")
    into(coefficients(), "--into", "out")
    link = out if kind == "folder" else out / "defaults.yaml"
    assert link.is_symlink()
    assert (real / ("defaults.yaml" if kind == "folder" else "theirs.yaml")).is_file()


def test_concurrent_folders_of_exports_at_once_none_is_lost(coefficients: Write, tmp_path: Path) -> None:
    """Whoever comes second says so, or finds it done: the files are of one deployment."""
    one, two = coefficients("a.yaml"), coefficients("b.yaml", tensor_parallel="2")
    command = [sys.executable, "-m", "roofml.cli.start", "export", "blis"]
    running = [
        subprocess.Popen([*command, path, "--into", "out", "--quiet"], stderr=subprocess.DEVNULL) for path in (one, two)
    ]
    ended = [process.wait(60) for process in running]
    assert sorted(ended) in ([0, 1], [0, 2])
    tp = 1 + ended.index(0)
    assert f"--tp {tp} " in (tmp_path / "out/run.sh").read_text()
    assert f"--tp {tp} " in (tmp_path / "out/defaults.yaml").read_text()


@pytest.mark.parametrize("gpu", ["H200", "B200"])
def test_a_gpu_that_blis_does_not_know_is_said_before(coefficients: Write, tmp_path: Path, gpu: str) -> None:
    path = coefficients(gpu=gpu)
    alone = roofml("export", "blis", path, "--flags")
    assert f"warning: BLIS does not know {gpu} (it knows H100, A100-SXM, L40S): give --into FOLDER" in alone.err
    with_it = roofml("export", "blis", path, "--into", "out", "--dry-run")
    assert "out/hardware_config.json tells it (TFlopsPeak " in with_it.err
    assert roofml("export", "blis", coefficients(), "--flags").err == ""
    assert not planned(PLAIN, None, None)
    assert "H100" in SHIPPED_HARDWARE


def test_no_repository_is_made_up(coefficients: Write, tmp_path: Path) -> None:
    path = coefficients(hf_repo="llama-2-7b-hf")
    said = roofml("export", "blis", path, "-o", tmp_path)
    assert "nothing says the Hub repository of llama-2-7b-hf, and none is written: give --hf-repo" in said.err
    written = tmp_path / "llama-2-7b-hf-h100-tp1.defaults.yaml"
    assert "hf_repo" not in written.read_text()
    ok("export", "blis", path, "-o", tmp_path, "--hf-repo", "meta-llama/Llama-2-7b-hf")
    assert strict(written.read_text())["defaults"]["llama-2-7b-hf"]["hf_repo"] == "meta-llama/Llama-2-7b-hf"
    for bad in ("llama", "a/b/c", "a b/c", "$(x)/y", ""):
        assert "expected ORG/NAME" in fails("export", "blis", path, "-o", tmp_path, "--hf-repo", bad).err


def test_a_pulled_config_says_its_repository(coefficients: Write, tmp_path: Path) -> None:
    folder = tmp_path / "pulled"
    folder.mkdir()
    shutil.copy(config_path("llama-2-7b-hf"), folder / "config.json")
    (folder / "provenance.json").write_text(json.dumps({"hf_repo": "Org/Theirs", "revision": "1", "files": {}}))
    ok("export", "blis", coefficients(hf_repo=str(folder)), "--into", "out")
    assert "hf_repo: Org/Theirs" in (tmp_path / "out/defaults.yaml").read_text()


def test_another_config_than_was_fitted_over_is_refused(coefficients: Write, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(config_path("qwen3-8b").read_bytes())
    said = fails("export", "blis", coefficients(), "--into", "out", "--config", "config.json").err
    assert "is another config than the coefficients were fitted over" in said
    assert "expected --into FOLDER" in fails("export", "blis", coefficients(), "--flags", "--config", "config.json").err


def test_a_config_of_the_users_in_its_place_is_kept(tmp_path: Path) -> None:
    place = tmp_path / FILES[2]
    place.parent.mkdir(parents=True)
    place.write_text("{}")
    with pytest.raises(InputError, match="is another config than"):
        folder_edits(PLAIN, tmp_path)
    carry_out(lambda: [], folder_edits(PLAIN, tmp_path, replace=True))
    assert place.read_bytes() == config_path("llama-2-7b-hf").read_bytes()
    assert place.with_name("config.json.bak").read_text() == "{}"


def test_other_models_of_a_file_are_said_to_use_the_coefficients_too(coefficients: Write, tmp_path: Path) -> None:
    many = "".join(f"  model-{number}:\n    GPU: H100\n" for number in range(7))
    (tmp_path / "defaults.yaml").write_text(f"defaults:\n{many}")
    said = roofml("export", "blis", coefficients(), "--defaults", "defaults.yaml").err
    assert "one set of coefficients for every model of a file: from now on also for model-0, model-1, " in said
    assert "and 2 more" in said
    assert "from now on" not in roofml("export", "blis", coefficients(), "--into", "alone").err
