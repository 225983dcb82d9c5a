"""Ctrl-C and SIGTERM end a command at once, wherever it is, and leave nothing behind.

Python runs a signal's handler between two of its own instructions, and a replay, a compilation or a fit can be seconds
away from the next. So the console command starts a thread that the system wakes itself (`signal.set_wakeup_fd`), and
that thread ends the process: children first, then temporary files, then the terminal's cursor. It never asks the
running code, so one press is enough, and it never runs the interpreter's end, which has no good way to wait for threads
in compiled code. A library user's process is left alone: nothing happens before `install`.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
LONGEST_COMMIT_S = 1.0
"""How long an end waits for files that are being put in their places, and for a child that is being started."""

_temporary: set[Path] = set()
_children: set[subprocess.Popen[str]] = set()
_committing = threading.Lock()
_ending = threading.Event()


def install() -> None:
    """End this process on a signal from now on. A signal that the parent had ignored (nohup) stays ignored."""
    ours, theirs = socket.socketpair()
    ours.setblocking(True)
    theirs.setblocking(False)
    awaited: set[int] = set()
    for name in SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            awaited.add(int(number))
    atexit.register(wait_if_ending)  # when its children have ended, the main thread may have nothing left to do
    # The thread is there first: a signal that comes before its handler is set still ends the process in the old way.
    threading.Thread(target=_wait, args=(ours, theirs, awaited), name="roofml-interrupts", daemon=True).start()
    signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    for number in awaited:
        signal.signal(number, _nothing)  # a handler of Python's own, or nobody would be woken


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """The thread does it all."""


def _wait(ours: socket.socket, _theirs: socket.socket, awaited: set[int]) -> None:
    while numbers := ours.recv(1):  # other signals that somebody handles in Python wake us too
        if numbers[0] in awaited:
            end(128 + numbers[0])


def end(status: int) -> NoReturn:
    """End the process now: no child, no temporary file, no hidden cursor is left. Does not return."""
    with suppress(BaseException):
        _ending.set()
        terminal = _silenced()
        # Never released: no file is put in its place, and no child started, after this.
        _committing.acquire(timeout=LONGEST_COMMIT_S)
        for child in list(_children):
            kill(child)
        _kill_workers()
        for path in list(_temporary):
            with suppress(OSError):
                _remove(path)
        if os.isatty(terminal):
            os.write(terminal, b"\r\x1b[2K\x1b[?25h")
        os.write(terminal, b"roofml: interrupted\n")
    os._exit(status)


def leave(status: int) -> NoReturn:
    """End the process with all its work done: with what libraries have to clean up, but without the interpreter's end.

    In that, a signal would get its old meaning back, with the command's exit status undecided.
    """
    atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    os._exit(status)


def _silenced() -> int:
    """A handle on standard error that only we have: what the other threads still say of their end goes nowhere."""
    try:
        terminal = os.dup(2)
        nowhere = os.open(os.devnull, os.O_WRONLY)
    except OSError:  # it is closed, or there are no handles left
        return 2
    for number in (1, 2):
        os.dup2(nowhere, number)
    return terminal


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        import shutil

        shutil.rmtree(path, ignore_errors=True)


def wait_if_ending() -> None:
    """Wait for the end, if it has begun: what fails now fails because of it, and has nothing to say."""
    if _ending.is_set():
        threading.Event().wait()


def _kill_workers() -> None:
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is None:
        return
    workers = multiprocessing.active_children()
    for worker in workers:
        with suppress(OSError, ValueError):
            worker.kill()
    for worker in workers:
        with suppress(OSError, ValueError, AssertionError):
            worker.join(LONGEST_COMMIT_S)
    _end_tracker()


def _end_tracker() -> None:
    """End the process that cleans up after Python's workers, which ends when nobody holds its pipe any more."""
    tracker: Any = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    pipe, process = getattr(tracker, "_fd", None), getattr(tracker, "_pid", None)
    if pipe is None or process is None:
        return
    with suppress(OSError):
        os.close(pipe)
        for _ in range(100):
            if os.waitpid(process, os.WNOHANG)[0]:
                break
            time.sleep(0.005)


@contextmanager
def temporary(path: Path) -> Generator[None]:
    """While inside, an interrupt removes `path`, a file or a folder."""
    _temporary.add(path)
    try:
        yield
    finally:
        _temporary.discard(path)


@contextmanager
def temporary_folder(prefix: str) -> Generator[Path]:
    """A new folder in the system's place for such, removed in the end, also by an interrupt."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as name, temporary(Path(name)):
        yield Path(name)


@contextmanager
def uninterrupted() -> Generator[None]:
    """While inside, which must be short, an interrupt waits."""
    with _committing:
        yield


@contextmanager
def workers_undisturbed() -> Generator[None]:
    """Processes started inside do not see these signals: this process ends them, and they have nothing to say of it.

    The signal itself is not lost: the thread that waits for it takes it. An interrupt waits until what is being started
    is known, so that it is not left behind.
    """
    with uninterrupted():
        if not hasattr(signal, "pthread_sigmask"):
            yield
            return
        numbers = {getattr(signal, name) for name in SIGNALS if hasattr(signal, name)}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def quiet_tracker() -> Mapping[str, str]:
    """Environment in which Python's own helper of worker processes says nothing of what an interrupt leaves to it."""
    given = os.environ.get("PYTHONWARNINGS")
    return {"PYTHONWARNINGS": ",".join([*([given] if given else []), "ignore:resource_tracker"])}


def end_with_parent() -> None:
    """Called in a worker process: it ends when the process that started it has, however that ended, and not before."""
    import multiprocessing
    from multiprocessing.connection import wait

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="roofml-parent", daemon=True).start()


def run_to_end(command: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a program with its children in a group of their own, all of which end with a time-out or an interrupt.

    Raises OSError where it cannot be started, and subprocess.TimeoutExpired.
    """
    group: dict[str, object] = {"start_new_session": True}
    if os.name == "nt":
        group = {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
    with uninterrupted():
        child: subprocess.Popen[str] = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            **group,  # pyright: ignore[reportArgumentType, reportCallIssue]
        )
        _children.add(child)
    try:
        out, err = child.communicate(timeout=timeout_s)
        return subprocess.CompletedProcess(command, child.returncode, out, err)
    finally:
        kill(child)  # what it started may still run
        _children.discard(child)
        wait_if_ending()


def kill(child: subprocess.Popen[str]) -> None:
    """End a program of `run_to_end` and everything it started."""
    if os.name == "nt":
        with suppress(OSError):
            subprocess.run(["taskkill", "/F", "/T", "/PID", str(child.pid)], capture_output=True, check=False)
    else:
        with suppress(OSError):
            os.killpg(child.pid, signal.SIGKILL)
    with suppress(OSError):
        child.kill()
    with suppress(Exception):
        child.wait(1.0)
    for stream in (child.stdout, child.stderr):
        with suppress(OSError, ValueError):
            if stream is not None:
                stream.close()
