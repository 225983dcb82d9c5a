"""Running a command line inside the test's process, and the run folders to run it on."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from ruamel.yaml import YAML
from runfolder import Row, RunFolder, exp_config, header, row

from roofml.cli.main import run

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Result:
    """What one command line said and how it ended."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout; NaN and infinity are not JSON."""

        def refuse(constant: str) -> NoReturn:
            raise AssertionError(f"{constant} in JSON")

        return json.loads(self.out, parse_constant=refuse)


def roofml(*arguments: object) -> Result:
    """Run `roofml` with these arguments."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = run([str(argument) for argument in arguments])
    return Result(status, out.getvalue(), err.getvalue())


def ok(*arguments: object) -> Result:
    """Run `roofml` with these arguments, which must succeed."""
    result = roofml(*arguments)
    assert result.status == 0, result.err
    return result


def saturated_folder() -> RunFolder:
    """A server of 8 places, each taken for a second, that is sent 16 requests a second."""
    random = np.random.default_rng(1)
    rows: list[Row] = []
    for i, send in enumerate(np.cumsum(random.exponential(1e6 / 16, 400)).astype(int)):
        start = max(int(send), 1_000_000 * (i // 8))
        prompt = int(random.integers(200, 900))
        rows.append(row(i, int(send) + 1, start - int(send) + 20_000, start - int(send) + 1_000_000, prompt, 100))
    head, settings = header(), exp_config()
    head["server"]["max_num_seqs"] = settings["max_num_seqs"] = 8
    return RunFolder(rows=rows, header=head, exp_config=settings)


def fails(*arguments: object) -> Result:
    """Run `roofml` with these arguments, which must be refused in one line."""
    result = roofml(*arguments)
    assert result.status == 2, result.err
    assert result.out == ""
    assert result.err.count("\n") == 1
    return result


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `code` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=ROOT
    )


def read_yaml(text: str) -> Any:
    return YAML(typ="safe").load(text)
