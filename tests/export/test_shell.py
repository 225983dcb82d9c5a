"""What is made for a shell is read by a shell as it was meant, and runs nothing, whatever a name holds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from blis_defaults import SET
from commandline import ok

from roofml.export.defaults import ModelEntry
from roofml.export.deployment import BlisExport
from roofml.export.edit import write_edits
from roofml.export.outcome import ExportOutcome
from roofml.export.plan import edits_for_several, index_of
from roofml.util.errors import InputError

BASH = shutil.which("bash") or shutil.which("sh") or ""
pytestmark = pytest.mark.skipif(not BASH, reason="this system has no shell")

PLAIN = BlisExport(ModelEntry("llama-2-7b-hf", "H100", 1, "meta-llama/Llama-2-7b-hf"), SET, 7462, 16, 128)
HOSTILE = [
    "x$(touch PWNED)", "x`touch PWNED`", "x; touch PWNED", "x && touch PWNED", "x|touch PWNED", "x > PWNED",
    "x' ; touch PWNED; '", 'x" ; touch PWNED; "', "x\ntouch PWNED", "x\\\ntouch PWNED", "$PWD", "*", "~", "a b", "-x",
    "x)\ntouch PWNED ;;\n y", "\\$(touch PWNED)", "${IFS}touch PWNED", "x#y", "!!", "é", "x\rtouch PWNED",
]  # fmt: skip


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str] | None]:
    """Runs a script with a stand-in for `blis` on PATH; returns the arguments that blis was called with."""
    (tmp_path / "bin").mkdir()
    blis = tmp_path / "bin" / "blis"
    blis.write_text(f"#!{sys.executable}\nimport json, sys\njson.dump(sys.argv[1:], open('seen.json', 'w'))\n")
    blis.chmod(0o755)
    monkeypatch.setenv("PATH", f"{blis.parent}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)

    def run(script: str) -> list[str] | None:
        (tmp_path / "script.sh").write_text(script)
        subprocess.run([BASH, "-n", "script.sh"], check=True, timeout=10)
        subprocess.run([BASH, "script.sh"], check=False, timeout=10, capture_output=True)
        result = tmp_path / "seen.json"
        return json.loads(result.read_text()) if result.exists() else None

    return run


@pytest.mark.parametrize("where", ["model", "gpu"])
@pytest.mark.parametrize("name", HOSTILE)
def test_inject_told_line(seen: Callable[[str], list[str] | None], tmp_path: Path, name: str, where: str) -> None:
    """The line is made to be pasted after `blis run`."""
    entry = ModelEntry(name, "H100", 1, "a/b") if where == "model" else ModelEntry("m", name, 1, "a/b")
    export = replace(PLAIN, model=entry)
    for line in (
        ExportOutcome([export], [], [], False, None).lines(flags=False)[0].removeprefix("run BLIS with: "),
        ExportOutcome([export], [], [], False, None).lines(flags=True)[0],
        export.comments()[-1].removeprefix("run BLIS with: "),
    ):
        assert "\n" not in line
        words = seen(f"blis run {line}\n")
        assert not (tmp_path / "PWNED").exists()
        assert words is not None
        if name.isprintable():
            assert words[1:5] == export.server_flags()[:4]


@pytest.mark.parametrize("where", ["model", "gpu"])
@pytest.mark.parametrize("name", HOSTILE)
def test_an_index_holds_no_name_that_a_shell_would_not_take_as_one_word(tmp_path: Path, name: str, where: str) -> None:
    """`blis run $(blis_flags NAME)` splits what it gets at spaces: no quotation would help."""
    entry = ModelEntry(name, "H100", 1, "a/b") if where == "model" else ModelEntry("m", name, 1, "a/b")
    if name == "-x":  # plain to a shell; it stands after --model or --hardware
        assert "-x" in index_of([replace(PLAIN, model=entry)])
        return
    with pytest.raises(InputError, match=r"^blis-flags\.sh: cannot hold the name") as error:
        edits_for_several([PLAIN, replace(PLAIN, model=entry)], tmp_path)
    assert "\n" not in str(error.value)


def test_an_index_is_read_by_a_shell_as_it_was_meant(seen: Callable[[str], list[str] | None], tmp_path: Path) -> None:
    other = replace(PLAIN, model=ModelEntry("org/Mixtral-8x7B", "A100-SXM", 2, "a/b"))
    write_edits(edits_for_several([PLAIN, other], tmp_path))
    words = seen(". ./blis-flags.sh\nblis run $(blis_flags mixtral-8x7b-a100-sxm-tp2) --seed 1\n")
    file = "./mixtral-8x7b-a100-sxm-tp2.defaults.yaml"
    assert words == ["run", *other.server_flags(), "--defaults-filepath", file, "--seed", "1"]
    assert (tmp_path / file).is_file()


@pytest.mark.parametrize(
    "line",
    [
        '    x) echo "$(touch PWNED) --defaults-filepath $BLIS_DEFAULTS_FOLDER/x.defaults.yaml" ;;',
        '    x) touch PWNED; echo " --defaults-filepath $BLIS_DEFAULTS_FOLDER/x.defaults.yaml" ;;',
        '    *) echo "a --defaults-filepath $BLIS_DEFAULTS_FOLDER/x.defaults.yaml" ;;',
        "touch PWNED",
    ],
)
def test_an_index_that_was_tampered_with_gives_nothing_on(
    seen: Callable[[str], list[str] | None], tmp_path: Path, line: str
) -> None:
    other = replace(PLAIN, model=replace(PLAIN.model, tensor_parallel=2))
    write_edits(edits_for_several([PLAIN, other], tmp_path))
    clean = (tmp_path / "blis-flags.sh").read_text()
    (tmp_path / "x.defaults.yaml").touch()
    (tmp_path / "blis-flags.sh").write_text(clean.replace('  case "$1" in\n', f'  case "$1" in\n{line}\n'))
    write_edits(edits_for_several([PLAIN, other], tmp_path))
    assert (tmp_path / "blis-flags.sh").read_text() == clean
    seen(". ./blis-flags.sh\nblis run $(blis_flags x)\n")
    assert not (tmp_path / "PWNED").exists()


def test_paths_and_a_users_own_file_do_not_reach_the_terminal_as_they_are(
    coefficients: Callable[..., Path], tmp_path: Path
) -> None:
    name = "odd\x1b[2J\n$(touch PWNED)"
    (tmp_path / name).write_bytes(b"version: 1 # \x7f\xc2\x9b2J\r\n".replace(b"\x7f\xc2\x9b", "\u202e".encode()))
    told = ok("export", "blis", coefficients(), "--defaults", name).out
    assert "\x1b" not in told
    assert "\u202e" not in told
    assert "\r" not in told
