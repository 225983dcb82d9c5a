"""When a client gives up: read from the failures of a run, or said; and what stays of those requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runfolder import Row, RunFolder, requests

from roofml.traces.read import read_run
from roofml.traces.run import Run
from roofml.util.errors import InputError

SECOND = 1_000_000
NEVER_ANSWERED = {"first_chunk_time_us": 0, "output_tokens": 0, "num_chunks": 0, "status": "error"}


def failed(row: Any, after_us: int) -> Row:
    return {**row, **NEVER_ANSWERED, "input_tokens": 0, "last_chunk_time_us": row["send_time_us"] + after_us}


def read(folder: Path, rows: list[Row], **server: Any) -> Run:
    return read_run(RunFolder(rows=rows).write(folder / "run"), gpu="H100", **server)


def codes(run: Run) -> set[str]:
    return {finding.code for finding in run.findings}


def test_failures_that_all_end_at_one_time_are_requests_given_up(tmp_path: Path) -> None:
    rows = requests(300)
    rows[200:] = [failed(row, 60 * SECOND + 9_000 * (i % 100)) for i, row in enumerate(rows[200:])]
    run = read(tmp_path, rows)
    assert "client-deadline" in codes(run)
    assert run.deadline_us == pytest.approx(60.45e6, rel=1e-3)
    assert run.late.tolist() == [False] * 200 + [True] * 100
    assert len(run) == 300
    assert run.saturated
    assert np.isnan(run.e2e_us[200:]).all()


@pytest.mark.parametrize(
    "ends_us",
    [
        [60 * SECOND] * 4,
        [5 * SECOND * (1 + i % 20) for i in range(100)],
        [20_000] * 100,
    ],
    ids=["few", "at any time", "at once"],
)
def test_other_failures_are_no_deadline(tmp_path: Path, ends_us: list[int]) -> None:
    rows = requests(300)
    first = len(rows) - len(ends_us)
    rows[first:] = [failed(row, end) for row, end in zip(rows[first:], ends_us, strict=True)]
    run = read(tmp_path, rows)
    assert "failed-requests" in codes(run)
    assert run.deadline_us == np.inf
    assert len(run) == first


def test_a_longer_answer_refutes_a_deadline(tmp_path: Path) -> None:
    rows = requests(300)
    first: Any = rows[0]
    first["last_chunk_time_us"] = first["send_time_us"] + 90 * SECOND
    rows[280:] = [failed(row, 60 * SECOND) for row in rows[280:]]
    assert read(tmp_path, rows).deadline_us == np.inf


def test_the_user_decides(tmp_path: Path) -> None:
    rows = requests(300)
    rows[290:] = [failed(row, 60 * SECOND + 1) for row in rows[290:]]
    assert read(tmp_path, rows).deadline_us == pytest.approx(60e6)
    assert read(tmp_path / "b", rows, deadline_s=30).deadline_us == 30e6
    never = read(tmp_path / "c", rows, deadline_s=np.inf)
    assert never.deadline_us == np.inf
    assert len(never) == 290
    with pytest.raises(InputError, match="--deadline: -1, expected seconds above 0, or inf"):
        read(tmp_path / "d", rows, deadline_s=-1)


def test_prompts_repeat_through_requests_that_failed(tmp_path: Path) -> None:
    """Every third fails: the period is read off the others, and the failed ones have the prompt of their turn."""
    rows = requests(300)
    lengths = [100 + 7 * (i % 20) for i in range(300)]
    for row, length in zip(rows, lengths, strict=True):
        row["input_tokens"] = length
    rows = [failed(row, 60 * SECOND) if i % 3 == 2 else row for i, row in enumerate(rows)]
    run = read(tmp_path, rows)
    assert "repeated-prompts" in codes(run)
    assert run.prompt_tokens.tolist() == lengths
    assert run.prefix_group.tolist() == [i % 20 for i in range(300)]
