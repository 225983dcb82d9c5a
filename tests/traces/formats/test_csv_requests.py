"""A plain CSV of requests: units in the names of columns, and what is refused."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from clients import SERVER, Served
from quickness import quickly

from roofml.traces.aggregate_run import RefusedRun
from roofml.traces.read import AnyRun, read_all, read_run
from roofml.traces.run import Run
from roofml.util.errors import InputError

UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


def write(path: Path, columns: dict[str, Sequence[object]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def columns_of(served: Served, unit: str = "s") -> dict[str, Sequence[object]]:
    factor = UNITS[unit]
    return {
        f"send_{unit}": (factor * served.start).tolist(),
        "input_tokens": served.prompt.tolist(),
        "output_tokens": served.output.tolist(),
        f"ttft_{unit}": (factor * served.ttft).tolist(),
        f"e2e_{unit}": (factor * served.e2e).tolist(),
    }


def one(path: Path) -> AnyRun:
    (run,) = read_all([path], strict=False, complete=False).every
    return run


@pytest.mark.parametrize("unit", UNITS)
def test_times_are_read_in_their_unit(tmp_path: Path, unit: str) -> None:
    served = Served()
    run = read_run(write(tmp_path / "mine.csv", columns_of(served, unit)), model="x/y", **SERVER)
    assert np.allclose(run.arrival_us, 1e6 * (served.start - served.start[0]), atol=1)
    assert np.allclose(run.ttft_us, 1e6 * served.ttft)
    assert np.allclose(run.e2e_us, 1e6 * served.e2e)


def test_clock_times_of_tokens_are_the_same_run(tmp_path: Path) -> None:
    served = Served()
    columns = columns_of(served)
    clock = {key: columns[key] for key in ("send_s", "input_tokens", "output_tokens")}
    clock |= {"first_token_s": (served.start + served.ttft).tolist()}
    clock |= {"last_token_ms": (1e3 * (served.start + served.e2e)).tolist()}
    run = one(write(tmp_path / "mine.csv", clock))
    assert isinstance(run, Run)
    assert np.allclose(run.e2e_us, 1e6 * served.e2e, atol=1)


def test_equal_texts_are_equal_prompts(tmp_path: Path) -> None:
    served = Served()
    served.prompt[:] = 400
    run = one(write(tmp_path / "m.csv", columns_of(served) | {"prompt": [f"p{i % 6}" for i in range(60)]}))
    assert isinstance(run, Run)
    assert len(np.unique(run.prefix_group)) == 6
    assert (run.prefix_tokens == 400).all()


def test_what_the_server_found_in_its_cache_is_shared(tmp_path: Path) -> None:
    run = one(write(tmp_path / "m.csv", columns_of(Served()) | {"cached_tokens": [0] + [160] * 59}))
    assert isinstance(run, Run)
    assert (run.prefix_group == 0).all()
    assert (run.prefix_tokens == 160).all()
    assert "cached-tokens" in {finding.code for finding in run.findings}


def test_a_first_request_that_was_cached_is_told(tmp_path: Path) -> None:
    run = one(write(tmp_path / "m.csv", columns_of(Served()) | {"cached_tokens": [160] * 60}))
    assert "warm-cache" in {finding.code for finding in run.findings}


def test_failures_and_warm_up_are_not_measured(tmp_path: Path) -> None:
    columns = columns_of(Served()) | {"error": [""] * 58 + ["timeout"] * 2, "warm_up": ["true"] * 3 + ["false"] * 57}
    run = one(write(tmp_path / "m.csv", columns))
    assert isinstance(run, Run)
    assert int(run.ok.sum()) == 55
    assert run.to_dict()["completed"] == 58


def test_a_closed_loop_needs_no_times_of_sending(tmp_path: Path) -> None:
    columns = columns_of(Served())
    del columns["send_s"]
    run = one(write(tmp_path / "m.csv", columns | {"concurrency": [4] * 60}))
    assert isinstance(run, Run)
    assert run.clients == 4
    run = one(write(tmp_path / "n.csv", columns))
    assert isinstance(run, RefusedRun)
    assert "concurrency" in run.reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ttft": [0.02] * 60, "ttft_s": None}, "line 1: column ttft has no unit"),
        ({"ttft_ms": [20.0] * 60}, "line 1: ttft_s and ttft_ms: expected one of them"),
        ({"e2e_s": None}, "line 1: column e2e_ms is missing"),
        ({"e2e_s": None, "send_s": None, "last_token_s": [1.0] * 60}, "last_token_s is on the clock of send"),
        ({"ttft_s": [-1.0] * 60}, "line 2: ttft_s is '-1.0', expected a number of at least 0"),
        ({"ttft_s": ["soon"] * 60}, "line 2: ttft_s is 'soon'"),
        ({"ttft_s": [1e300] * 60}, "line 2: ttft_s is "),
        ({"output_tokens": [1.5] * 60}, "line 2: output_tokens is '1.5', expected a whole number"),
        ({"output_tokens": [10**17] * 60}, "line 2: output_tokens is "),
        ({"ok": ["true"] * 59 + ["maybe"]}, "line 61: ok is 'maybe', expected true or false"),
        ({"ok": ["true"] * 60, "ttft_s": [0.02] * 59 + [""]}, "line 61: ttft_s is missing"),
        ({"send_s": [1.0] * 59 + [""]}, "line 61: send_s is missing"),
        ({"request_id": ["a"] * 60}, "line 3: request_id is 'a', expected another one"),
        ({"concurrency": [1] * 30 + [2] * 30}, "line 32: concurrency is '2.0'"),
        ({"model": ["a"] * 30 + ["b"] * 30}, "model: 2 different ones"),
    ],
)
def test_what_cannot_be_is_refused_by_line_and_column(
    tmp_path: Path, changes: dict[str, Sequence[object] | None], message: str
) -> None:
    columns = columns_of(Served()) | changes
    path = write(tmp_path / "m.csv", {key: value for key, value in columns.items() if value is not None})
    with pytest.raises(InputError) as caught:
        one(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_seconds_among_milliseconds_are_refused(tmp_path: Path) -> None:
    """Mixed units within a column contradict the other: a last token before the first."""
    columns = columns_of(Served(), "ms")
    mixed = [value / 1e3 if row % 2 else value for row, value in enumerate(1e3 * Served().e2e)]
    with pytest.raises(InputError, match="last_chunk_time_us"):
        read_run(write(tmp_path / "m.csv", columns | {"e2e_ms": mixed}), model="x/y", **SERVER)


def test_a_hundred_thousand_requests_are_read_quickly(tmp_path: Path) -> None:
    served = Served(100_000)
    path = write(tmp_path / "m.csv", columns_of(served))
    with quickly(4, time.process_time):
        run = read_run(path, model="x/y", **SERVER)
    assert len(run) == 100_000
