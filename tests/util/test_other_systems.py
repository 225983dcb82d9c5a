"""What Linux has and macOS or Windows lacks is not needed: simulated by taking it away, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LACKING = """
import builtins, os, pkgutil, signal, sys

for name in ("chown", "getuid", "geteuid", "killpg", "mkfifo", "setsid", "set_blocking", "listxattr", "getxattr",
             "setxattr", "fchmod", "fchown"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGALRM", "pthread_sigmask", "setitimer"):
    if hasattr(signal, name):
        delattr(signal, name)

ABSENT = {"fcntl", "termios", "tty", "pty", "resource", "pwd", "grp"}
plain = builtins.__import__

def without(name, space=None, *rest, **named):
    asks = (space or {}).get("__name__", "")
    if asks.startswith("roofml") and name.partition(".")[0] in ABSENT:
        raise ImportError(f"{asks} imports {name}, which Windows has not")
    return plain(name, space, *rest, **named)

builtins.__import__ = without
import roofml

for module in pkgutil.walk_packages(roofml.__path__, "roofml."):
    __import__(module.name)
"""

WRITING = """
from pathlib import Path
from roofml.cli.main import run
from roofml.util.writing import locked, write_file

with locked(Path("a.txt")):
    write_file(Path("a.txt"), "one")
write_file(Path("a.txt"), "two")
assert Path("a.txt").read_text() == "two"
assert run(["predict", "codellama-34b-instruct-hf", "--gpu", "H100", "--tp", "2", "--decode", "700x8", "--quiet"]) == 0
assert run(["inspect", "mixtral-8x7b-v0.1", "--gpu", "H100", "--tp", "2", "--quiet"]) == 0
"""


def test_every_module_loads_and_files_are_written_where_a_system_lacks_posix(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LACKING + WRITING],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
