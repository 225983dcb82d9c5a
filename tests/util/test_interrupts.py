"""An interrupt ends a process at once, wherever it is, with its children and its temporary files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from quickness import assert_within, quickly

from roofml.util import interrupts

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")

SAID = "roofml: interrupted\n"
READY = "print('ready', flush=True)\n"


def started(code: str, folder: Path) -> subprocess.Popen[str]:
    """A process that runs `code` with `interrupts` installed, after it has said that it is ready."""
    code = f"import os, sys, time, threading\nfrom roofml.util import interrupts\ninterrupts.install()\n{code}"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def ended(process: subprocess.Popen[str], number: int) -> tuple[int, str, float]:
    """Exit status, what was said, and how long it took after the signal."""
    begin = time.monotonic()
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=20)
    return process.returncode, err, time.monotonic() - begin


def lives(pid: int) -> bool:
    """Whether a process runs, after a moment for the system to take it away."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        if Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_code_that_never_comes_back_to_python(tmp_path: Path, name: str) -> None:
    """A long call into C, which releases the interpreter's lock as ours do."""
    number = getattr(signal, name)
    process = started(f"{READY}import ctypes\nwhile True: ctypes.CDLL(None).sleep(100)", tmp_path)
    status, err, seconds = ended(process, number)
    assert (status, err) == (128 + number, SAID)
    assert_within(seconds, 2)


def test_code_that_catches_everything_is_ended_too(tmp_path: Path) -> None:
    code = f"{READY}while True:\n  try: time.sleep(100)\n  except BaseException: print('caught', file=sys.stderr)"
    assert ended(started(code, tmp_path), signal.SIGINT)[:2] == (130, SAID)


def test_a_second_press_is_harmless(tmp_path: Path) -> None:
    process = started(f"{READY}with interrupts.uninterrupted(): time.sleep(100)", tmp_path)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.2)
    assert ended(process, signal.SIGINT)[:2] == (130, SAID)


def test_a_signal_that_was_ignored_stays_ignored(tmp_path: Path) -> None:
    """As `nohup` asks for."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = started(f"{READY}time.sleep(0.5)\nprint('done', flush=True)", tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)
    os.kill(process.pid, signal.SIGHUP)
    assert process.communicate(timeout=20) == ("done\n", "")


def test_a_signal_that_somebody_else_handles_ends_nothing(tmp_path: Path) -> None:
    code = f"import signal\nsignal.signal(signal.SIGUSR1, lambda *_: None)\n{READY}time.sleep(0.5)\nprint('done')"
    process = started(code, tmp_path)
    os.kill(process.pid, signal.SIGUSR1)
    assert process.communicate(timeout=20) == ("done\n", "")


def test_temporary_files_and_folders_are_removed(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
file = Path("half-written"); file.write_text("")
with interrupts.temporary(file), interrupts.temporary_folder("roofml-test-") as folder:
    (folder / "inside").write_text("")
    Path("where").write_text(str(folder))
    {READY}
    time.sleep(100)
"""
    assert ended(started(code, tmp_path), signal.SIGTERM)[0] == 143
    assert [path.name for path in tmp_path.iterdir()] == ["where"]
    assert not Path((tmp_path / "where").read_text()).exists()


def test_a_commit_is_waited_for(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
with interrupts.uninterrupted():
    {READY}
    time.sleep(0.4)
    Path("committed").write_text("")
time.sleep(100)
"""
    assert ended(started(code, tmp_path), signal.SIGINT)[0] == 130
    assert (tmp_path / "committed").exists()


def test_a_program_and_what_it_started_end(tmp_path: Path) -> None:
    code = f"""
threading.Timer(0.5, lambda: {READY.strip()}).start()
interrupts.run_to_end(["sh", "-c", "sleep 1000 & echo $! > grandchild; echo $$ > child; wait"], 1000)
"""
    process = started(code, tmp_path)
    status, err, seconds = ended(process, signal.SIGINT)
    assert (status, err) == (130, SAID)
    assert_within(seconds, 2)
    assert not lives(int((tmp_path / "child").read_text()))
    assert not lives(int((tmp_path / "grandchild").read_text()))


def test_a_time_out_ends_a_program_and_what_it_started(tmp_path: Path) -> None:
    with quickly(3), pytest.raises(subprocess.TimeoutExpired):
        interrupts.run_to_end(["sh", "-c", f"sleep 1000 & echo $! > {tmp_path}/grandchild; wait"], 0.5)
    assert not lives(int((tmp_path / "grandchild").read_text()))


WORKERS = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
import time, os
from pathlib import Path
from roofml.util import interrupts

def work(name):
    Path(name).write_text(str(os.getpid()))
    time.sleep(1000)

def main(install):
    if install:
        interrupts.install()
    os.environ.update(interrupts.quiet_tracker())
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn, initializer=interrupts.end_with_parent) as pool:
        for name in ("one", "two"):
            with interrupts.workers_undisturbed():
                pool.submit(work, name)
        print("ready", flush=True)

if __name__ == "__main__":
    import sys
    main(sys.argv[1] == "installed")
"""


def with_workers(folder: Path, install: str, wait: bool) -> subprocess.Popen[str]:
    (folder / "workers.py").write_text(WORKERS)
    process = subprocess.Popen(
        [sys.executable, "workers.py", install],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    while wait and not all((folder / name).exists() and (folder / name).read_text() for name in ("one", "two")):
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("busy", [True, False], ids=["busy", "starting"])
@pytest.mark.parametrize("group", [True, False], ids=["group", "parent"])
def test_workers_end_in_silence(tmp_path: Path, busy: bool, group: bool) -> None:
    process = with_workers(tmp_path, "installed", busy)
    (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
    assert process.communicate(timeout=20)[1] == SAID, "the pipe ends with the last process that holds it"
    assert process.returncode == 130


def test_workers_of_a_parent_that_was_killed_end(tmp_path: Path) -> None:
    process = with_workers(tmp_path, "no", True)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=20)  # ends with the last process that holds the pipe
    assert not any(lives(int((tmp_path / name).read_text())) for name in ("one", "two"))


def test_importing_leaves_signals_alone() -> None:
    code = "import signal\nfrom roofml.util import interrupts\nimport roofml.cli.start, roofml.cli.main\n"
    code += "print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.set_wakeup_fd(-1))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "True -1\n"
