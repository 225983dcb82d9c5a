"""What every command promises: one document, one line of refusal, no traceback, progress only on a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commandline import ROOT, ok, python, read_yaml, roofml
from runfolder import RunFolder, requests

pytestmark = pytest.mark.slow


def test_jax_waits_for_a_fit(folder: Path, coeffs: Path) -> None:
    code = """
import sys
from roofml.cli.main import run
folder, coeffs = sys.argv[1:]
assert run(["doctor", folder]) == run(["replay", folder, "--coeffs", coeffs, "--quiet"]) == 0
print("jax" in sys.modules, "numba" in sys.modules)
"""
    assert python(code, folder, coeffs).stdout.endswith("False True\n")


def test_a_failure_of_ours_is_one_line_and_exit_1(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("roofml.traces.read.read_all", breaks)
    result = roofml("doctor", folder)
    assert (result.status, result.out) == (1, "")
    assert result.err == "roofml: RuntimeError: first line second line (ROOFML_TRACEBACK=1 shows where)\n"
    monkeypatch.setenv("ROOFML_TRACEBACK", "1")
    with pytest.raises(RuntimeError):
        roofml("doctor", folder)


def test_an_interrupt_is_no_traceback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("roofml.traces.read.read_all", interrupted)
    result = roofml("doctor", folder)
    assert result.status not in (0, 2)
    assert result.out == ""
    assert "Traceback" not in result.err


def test_a_reader_that_has_gone_is_no_traceback(folder: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    code = "from roofml.cli.main import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code, "doctor", str(folder)], stdout=write, stderr=subprocess.PIPE, check=False, cwd=ROOT
    )
    os.close(write)
    assert (ended.returncode, ended.stderr) == (1, b"")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
@pytest.mark.parametrize(("flag", "shown"), [(None, True), ("--quiet", False), ("--json", False)])
def test_progress_is_for_terminals(folder: Path, coeffs: Path, flag: str | None, shown: bool) -> None:
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "roofml.cli.main", "replay", str(folder), "--coeffs", str(coeffs)]
    environment = {**os.environ, "TERM": "xterm"}
    ended = subprocess.run(
        command + ([flag] if flag else []), stdout=subprocess.PIPE, stderr=theirs, check=True, env=environment, cwd=ROOT
    )
    os.write(theirs, b"the end")
    text = b""
    while not text.endswith(b"the end"):
        text += os.read(ours, 65536)
    os.close(ours)
    os.close(theirs)
    assert (b"replaying" in text) == shown
    assert b"replaying" not in ended.stdout
    assert b"\x1b" not in ended.stdout


def lines_of(folder: Path, coeffs: Path, demo_folder: Path) -> dict[str, list[object]]:
    given = ["--coeffs", coeffs]
    return {
        "doctor": ["doctor", folder],
        "fit": ["fit", folder, "--gpu", "H100"],
        "fit -o": ["fit", folder, "--gpu", "H100", "-o", coeffs.with_name("again.yaml")],
        "evaluate": ["evaluate", folder, "--gpu", "H100"],
        "evaluate --coeffs": ["evaluate", folder, *given],
        "replay": ["replay", folder, *given],
        "predict": ["predict", "llama-2-7b-hf", "--gpu", "H100", "--decode", "700x8"],
        "inspect": ["inspect", "llama-2-7b-hf", "--gpu", "H100"],
        "demo": ["demo", "-o", demo_folder / "demo.yaml"],
    }


LINES = list(lines_of(Path(), Path("coeffs"), Path()))


@pytest.mark.parametrize("which", LINES)
def test_json_is_one_document_and_nothing_else(folder: Path, coeffs: Path, demo_folder: Path, which: str) -> None:
    result = ok(*lines_of(folder, coeffs, demo_folder)[which], "--json")
    assert isinstance(result.document, dict)
    assert all(line.startswith("warning: ") for line in result.err.splitlines())


@pytest.mark.parametrize("which", LINES)
def test_quiet_says_nothing_on_stderr_but_warnings(folder: Path, coeffs: Path, demo_folder: Path, which: str) -> None:
    result = ok(*lines_of(folder, coeffs, demo_folder)[which], "--quiet")
    assert all(line.startswith("warning: ") for line in result.err.splitlines())
    if which in ("fit -o", "demo"):
        assert result.out == "", "the result is the file"


@pytest.mark.parametrize("name", ["[red]x[bold] :fire:", "ünï cödé 漢字", "a'b\"c", "-- -x", "[bold"])
def test_odd_names_of_folders_are_shown_as_they_are(tmp_path: Path, coeffs: Path, name: str) -> None:
    odd = RunFolder(rows=requests(60)).write(tmp_path / name)
    for line in (["doctor"], ["evaluate", "--gpu", "H100"], ["replay", "--coeffs", coeffs]):
        assert name in ok(*line, odd).out
    assert read_yaml(ok("fit", odd, "--gpu", "H100").out)["fit"]["runs"] == [name]


@pytest.mark.parametrize("command", ["doctor", "fit", "evaluate"])
def test_a_run_given_twice_is_refused(folder: Path, command: str) -> None:
    result = roofml(command, folder, folder / ".." / "quiet")
    assert (result.status, result.out) == (2, "")
    assert "given twice" in result.err
