"""One Ctrl-C, or another request to end, ends every long command at any moment, in one line, with nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from commandline import roofml
from quickness import assert_within
from runfolder import RunFolder, requests

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for what is left in /proc"),
]

LONGEST_S = 2.0
METHODS = ("--protocol", "temporal", "--method", "roofml", "--method", "naive-mean", "--workers", "2")


@dataclass(frozen=True)
class End:
    """How a command ended that got a signal."""

    status: int
    said: str
    seconds: float
    left: list[str]
    """Processes that are there when it has ended."""


def interrupted(arguments: list[Any], moment: float | Path, number: int, folder: Path, *, group: bool = True) -> End:
    """Run a command in `folder` and send it, or its group as a terminal does, a signal.

    That is so many seconds later, or when a file is there.
    """
    mark = f"roofml-test-{uuid.uuid4()}"
    process = subprocess.Popen(
        [sys.executable, "-m", "roofml.cli.start", *map(str, arguments)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=folder, start_new_session=True,
        env={**os.environ, "MARK": mark, "TMPDIR": str(folder)},
    )  # fmt: skip
    if isinstance(moment, Path):
        while not moment.exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
    else:
        time.sleep(moment)
    begin = time.monotonic()
    (os.killpg if group else os.kill)(process.pid, number)
    process.wait(20)
    seconds = time.monotonic() - begin
    left = marked(mark)
    return End(process.returncode, process.communicate(timeout=20)[1], seconds, left)


def marked(mark: str) -> list[str]:
    """Command lines of the processes that have this in their environment."""
    found: list[str] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_text())
        except OSError:
            continue
    return found


def check(end: End, number: int, folder: Path) -> None:
    assert (end.status, end.said) == (128 + number, "roofml: interrupted\n")
    assert_within(end.seconds, LONGEST_S)
    assert end.left == []
    assert [path.name for path in folder.iterdir() if path.name.startswith(".roofml") and path.is_file()] == []
    assert [path.name for path in folder.rglob("*.tmp*")] == []


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """More requests than any command here gets through before it is interrupted."""
    folder = tmp_path_factory.mktemp("interrupted")
    return [RunFolder(rows=requests(2000, seed=seed)).write(folder / name) for seed, name in enumerate("ab")]


def lines(runs: list[Path]) -> dict[str, list[Any]]:
    gpu = ["--gpu", "H100"]
    return {
        "fit": ["fit", *runs, *gpu, "-o", "out.yaml"],
        "evaluate": ["evaluate", *runs, *gpu],
        "evaluate temporal": ["evaluate", *runs, *gpu, "--protocol", "temporal"],
        "leaderboard": ["leaderboard", *runs, *gpu, *METHODS, "-o", "board.md", "--quiet"],
        "identify": ["identify", *runs, *gpu],
        "pool": ["pool", *runs, *gpu, "-o", "pool.yaml"],
        "demo": ["demo"],
    }


@pytest.mark.parametrize("which", lines([Path(), Path()]))
@pytest.mark.parametrize("moment_s", [0.3, 1.2])
def test_ctrl_c_ends_every_long_command(runs: list[Path], tmp_path: Path, which: str, moment_s: float) -> None:
    check(interrupted(lines(runs)[which], moment_s, signal.SIGINT, tmp_path), signal.SIGINT, tmp_path)


@pytest.mark.parametrize(
    ("moment_s", "name", "group"),
    [(2.2, "SIGINT", True), (2.6, "SIGINT", False), (4.0, "SIGINT", False), (4.0, "SIGTERM", True)],
)
def test_a_leaderboard_ends_with_its_workers_whoever_is_told(
    runs: list[Path], tmp_path: Path, moment_s: float, name: str, group: bool
) -> None:
    """While they start, and while they compute."""
    number = getattr(signal, name)
    check(interrupted(lines(runs)["leaderboard"], moment_s, number, tmp_path, group=group), number, tmp_path)


@pytest.mark.parametrize("which", ["doctor", "replay"])
def test_commands_that_are_soon_done_are_interrupted_too(runs: list[Path], tmp_path: Path, which: str) -> None:
    arguments: list[Any] = [which, runs[0], *(["--gpu", "H100"] if which == "replay" else [])]
    check(interrupted(arguments, 0.25, signal.SIGINT, tmp_path), signal.SIGINT, tmp_path)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_fit_ends_on_any_request_to_end(runs: list[Path], tmp_path: Path, name: str) -> None:
    number = getattr(signal, name)
    check(interrupted(lines(runs)["fit"], 2.5, number, tmp_path, group=False), number, tmp_path)


def test_blis_and_what_it_started_end_with_us(tmp_path: Path, runs: list[Path]) -> None:
    blis = tmp_path / "blis"
    blis.write_text(f"#!/bin/sh\nsleep 1000 &\necho > {tmp_path}/started\nwait\n")
    blis.chmod(0o755)
    derived = ["export", "blis", "--derive", "llama-2-7b-hf", "--gpu", "H100", "-o", "."]
    derived += ["--hf-repo", "meta-llama/Llama-2-7b-hf"]
    end = interrupted([*derived, "--verify", runs[0], "--blis", blis], tmp_path / "started", signal.SIGINT, tmp_path)
    check(end, signal.SIGINT, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blis", "started"], "the folder of files for blis"


def test_the_cursor_is_shown_again(runs: list[Path], tmp_path: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "roofml.cli.start", *map(str, lines(runs)["fit"])]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path, env={**os.environ, "TERM": "xterm"},
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    text = b""
    while b"\x1b[?25l" not in text:
        text += os.read(ours, 65536)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    while True:
        try:
            text += os.read(ours, 65536)
        except OSError:
            break
    os.close(ours)
    assert process.wait(20) == 130
    assert text.endswith(b"\r\x1b[2K\x1b[?25hroofml: interrupted\r\n")


def test_an_interrupt_of_the_library_is_an_exit_status(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("roofml.traces.read.read_all", pressed)
    result = roofml("doctor", runs[0])
    assert (result.status, result.out, result.err) == (130, "", "roofml: interrupted\n")


def test_the_signals_of_a_library_user_are_his(runs: list[Path]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert roofml("doctor", runs[0]).status == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
