"""One bad row costs that row, and is told; a broken file is refused; an honest run, however overloaded, loses none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quickness import quickly
from runfolder import Row, RunFolder, requests

from roofml.traces.doctor import clean
from roofml.traces.finding import Finding
from roofml.traces.read import read_raw, read_runs
from roofml.traces.request_times import Stamps, any_of, faults
from roofml.traces.run import Run
from roofml.util.errors import InputError

DAY = 86_400_000_000
FIRST, LAST, SEND = "first_chunk_time_us", "last_chunk_time_us", "send_time_us"
Change = Callable[[Row], dict[str, object]]


def number(row: Row, column: str) -> int:
    return int(str(row[column]))


def diagnose(tmp_path: Path, rows: list[Row]) -> Run:
    return clean(read_raw(RunFolder(rows=rows).write(tmp_path / "run")))


def told(run: Run, code: str) -> list[Finding]:
    return [finding for finding in run.findings if finding.code == code]


CONTRADICTIONS: dict[str, tuple[Change, str, str]] = {
    "first-chunk-before-send": (lambda row: {FIRST: number(row, SEND) - 1}, FIRST, "is not after the send"),
    "first-chunk-zero": (lambda row: {FIRST: 0}, FIRST, "is 0"),
    "both-chunks-zero": (lambda row: {FIRST: 0, LAST: 0}, FIRST, "is 0"),
    "last-chunk-zero": (lambda row: {LAST: 0}, LAST, "is before the first chunk"),
    "last-chunk-before-first": (lambda row: {LAST: number(row, FIRST) - 1}, LAST, "is before the first chunk"),
    "first-chunk-days-late": (lambda row: {FIRST: number(row, FIRST) + 3 * DAY}, LAST, "is before the first chunk"),
    "last-chunk-beyond-clocks": (lambda row: {LAST: 10**17}, LAST, "is beyond every clock"),
    "send-beyond-clocks": (lambda row: {SEND: 10**17}, SEND, "is beyond every clock"),
}
ABSURDITIES: dict[str, tuple[Change, str, str]] = {
    "last-chunk-days-late": (lambda row: {LAST: number(row, LAST) + 3 * DAY}, LAST, "is far too late"),
    "last-chunk-an-hour-late": (lambda row: {LAST: number(row, LAST) + DAY // 24}, LAST, "is far too late"),
    "last-chunk-years-late": (lambda row: {LAST: 10**15}, LAST, "is far too late"),
    "first-and-last-days-late": (
        lambda row: {FIRST: number(row, FIRST) + 3 * DAY, LAST: number(row, LAST) + 3 * DAY},
        LAST,
        "is far too late",
    ),
}
HASTE: dict[str, tuple[Change, str, str]] = {
    "first-chunk-at-once": (lambda row: {FIRST: number(row, SEND) + 1}, FIRST, "is too soon for any server"),
    "last-chunk-with-the-first": (lambda row: {LAST: number(row, FIRST)}, LAST, "is far too soon after the first"),
    "tokens-of-one-us": (lambda row: {LAST: number(row, FIRST) + 100}, LAST, "is far too soon after the first"),
}
ONE_ROW = CONTRADICTIONS | ABSURDITIES | HASTE


@pytest.mark.parametrize("place", [0, 30, 199])
@pytest.mark.parametrize("case", ONE_ROW)
def test_one_bad_row_costs_that_row_and_is_told(tmp_path: Path, case: str, place: int) -> None:
    change, column, problem = ONE_ROW[case]
    rows = requests(200)
    rows[place] |= change(rows[place])
    run = diagnose(tmp_path, rows)
    (finding,) = told(run, "impossible-times")
    assert finding.severity == "corrected"
    assert f"1 of 200 requests have times that cannot be: {column} {problem} (line {place + 2})." in finding.summary
    assert finding.evidence["lines"] == [place + 2]
    assert run.ok.sum() == 199
    assert place not in run.request_id[run.ok]
    assert run.e2e_us[run.ok].max() < 4e6
    json.dumps(run.to_dict(), allow_nan=False)


def test_a_row_left_out_still_loads_the_server(tmp_path: Path) -> None:
    rows = requests(200)
    rows[30][LAST] = 0
    run = diagnose(tmp_path, rows)
    assert len(run) == 200
    assert run.output_tokens[30] == rows[30]["output_tokens"]
    assert np.isnan(run.e2e_us[30])
    rows[30]["output_tokens"] = 0
    assert diagnose(tmp_path, rows).output_tokens[30] > 100  # the median of the others


@pytest.mark.parametrize("send", [0, 10**15, 10**17])
def test_a_row_whose_send_cannot_be_does_not_load_it(tmp_path: Path, send: int) -> None:
    start = 1_770_000_000_000_000
    rows = [row | {column: start + number(row, column) for column in (SEND, FIRST, LAST)} for row in requests(200)]
    rows[30][SEND] = send
    run = diagnose(tmp_path, rows)
    assert len(run) == 199
    assert run.arrival_us.max() < 60e6
    (finding,) = told(run, "impossible-times")
    assert finding.evidence["removed"] == 1


def test_a_request_sent_long_before_it_was_planned_is_left_out(tmp_path: Path) -> None:
    """It would be the first of the run, with the whole run as its latency."""
    columns = ("arrival_time_us", SEND, FIRST, LAST)
    rows = [
        row | {column: i * 500_000 + number(row, column) for column in columns} for i, row in enumerate(requests(200))
    ]
    rows[150][SEND] = number(rows[0], SEND) + 1
    run = diagnose(tmp_path, rows)
    (finding,) = told(run, "impossible-times")
    assert "send_time_us is long before arrival_time_us (line 152)" in finding.summary
    assert finding.evidence["removed"] == 1
    assert 150 not in run.request_id


def test_a_request_sent_years_after_the_others_is_left_out(tmp_path: Path) -> None:
    rows = requests(200)
    rows[30] |= {column: number(rows[30], column) + 4000 * DAY for column in (SEND, FIRST, LAST)}
    run = diagnose(tmp_path, rows)
    assert "send_time_us is days away from all others (line 32)" in told(run, "impossible-times")[0].summary
    assert run.arrival_us.max() < 60e6


@pytest.mark.parametrize("case", CONTRADICTIONS | ABSURDITIES)
def test_many_bad_rows_are_a_broken_file(tmp_path: Path, case: str) -> None:
    change, _, _ = ONE_ROW[case]
    rows = requests(200)
    for place in range(30, 42):
        rows[place] |= change(rows[place])
    with pytest.raises(InputError, match=r"trace\.csv: line 32: \w+_time_us is '\d+', .*12 rows are wrong.*at most 10"):
        diagnose(tmp_path, rows)


@pytest.mark.parametrize("case", HASTE)
def test_much_haste_is_doubted_and_kept(tmp_path: Path, case: str) -> None:
    change, _, problem = HASTE[case]
    rows = requests(200)
    for place in range(30, 60):
        rows[place] |= change(rows[place])
    run = diagnose(tmp_path, rows)
    (finding,) = told(run, "doubtful-times")
    assert finding.severity == "warning"
    assert finding.summary.startswith("30 of 200 requests have doubtful times")
    assert problem in finding.summary
    assert run.ok.all()


def test_a_single_row_that_contradicts_itself_leaves_nothing_to_measure(tmp_path: Path) -> None:
    rows = requests(1)
    rows[0][LAST] = 1
    with pytest.raises(InputError, match=r"line 2: last_chunk_time_us is '1', expected a time not before"):
        diagnose(tmp_path, rows)


def test_a_failed_row_that_contradicts_itself_is_taken_as_one_without_chunks(tmp_path: Path) -> None:
    rows = requests(200)
    rows[30] |= {"status": "error", LAST: 5}
    run = diagnose(tmp_path, rows)
    assert len(told(run, "impossible-times")) == 1
    assert told(run, "failed-requests")[0].evidence["without_chunk"] == 1
    assert len(run) == 199


# Honest runs.


def as_stamps(send: Any, first: Any, last: Any, succeeded: Any = True, prompt: Any = 500, output: Any = 200) -> Stamps:
    columns = np.broadcast_arrays(send, first, last, prompt, output)
    send, first, last, prompt, output = (np.asarray(column, dtype=np.int64) for column in columns)
    ok = np.broadcast_to(np.asarray(succeeded, dtype=np.bool_), send.shape)
    return Stamps(send, first, last, ok, np.ones(len(send), dtype=np.bool_), prompt, output, send)


def codes_of(stamps: Stamps) -> list[str]:
    return [fault.problem for fault in faults(stamps)]


def test_a_burst_at_the_end_that_waits_minutes_is_honest() -> None:
    """Each of the burst ends shortly after the one before it: the queue explains them one by one."""
    send = np.concatenate([np.arange(1000) * 100_000, np.full(40, 100_000_000)]) + 1
    wait = np.concatenate([np.full(1000, 50_000), 10_000_000 * np.arange(1, 41)])
    assert codes_of(as_stamps(send, send + wait, send + wait + 400_000)) == []


def test_it_takes_no_time_however_long_the_chain_of_waits_is() -> None:
    number = 40_000
    send = np.arange(number) + 1
    last = np.where(np.arange(number) % 5 < 2, 59_000_000 * np.arange(number), send + 400_000)
    with quickly(2):
        faults(as_stamps(send, send + 1000, last + send))


def test_a_wait_behind_requests_that_failed_is_honest() -> None:
    send = np.concatenate([np.arange(1000) * 100_000, 100_000_000 + np.arange(40)]) + 1
    wait = np.concatenate([np.full(1000, 50_000), np.full(40, 250_000_000)])
    succeeded = np.concatenate([np.ones(1000, np.bool_), np.arange(40) % 10 == 9])
    assert codes_of(as_stamps(send, send + wait, send + wait + 400_000, succeeded)) == []


def test_a_request_much_longer_than_the_others_is_honest() -> None:
    send = np.arange(1000) * 100_000 + 1
    e2e, output = np.full(1000, 400_000), np.full(1000, 40)
    e2e[500], output[500] = 400_000_000, 40_000
    assert codes_of(as_stamps(send, send + 50_000, send + 50_000 + e2e, output=output)) == []
    prompt, first = np.full(1000, 300), np.full(1000, 20_000)
    prompt[500], first[500] = 1_000_000, 90_000_000
    assert codes_of(as_stamps(send, send + first, send + first + 400_000, prompt=prompt)) == []


def test_a_run_with_a_long_pause_is_honest() -> None:
    send = np.concatenate([np.arange(100), 30 * 86_400 + np.arange(100)]) * 1_000_000 + 1
    assert codes_of(as_stamps(send, send + 50_000, send + 900_000)) == []


def test_short_answers_among_long_ones_are_honest() -> None:
    send = np.arange(200) * 1_000_000 + 1
    output = np.where(np.arange(200) % 50 == 0, 2, 400)
    assert codes_of(as_stamps(send, send + 30_000, send + 30_000 + 8_000 * (output - 1), output=output)) == []


@given(rate=st.floats(0.2, 30), places=st.integers(1, 64), number=st.integers(1, 200), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_no_row_of_a_server_that_serves_in_turn_is_doubted(rate: float, places: int, number: int, seed: int) -> None:
    """Whatever the load, and with lengths that differ by a factor of 1,000."""
    random = np.random.default_rng(seed)
    send = np.cumsum(random.exponential(1e6 / rate, number)).astype(np.int64) + 1
    prompt = np.exp(random.uniform(np.log(10), np.log(30_000), number)).astype(np.int64)
    output = np.exp(random.uniform(np.log(2), np.log(2_000), number)).astype(np.int64)
    free = np.zeros(places)
    first, last = send.copy(), send.copy()
    for i in range(number):
        seat = int(np.argmin(free))
        first[i] = max(send[i], free[seat]) + 10_000 + 40 * prompt[i]
        last[i] = first[i] + 15_000 * (output[i] - 1)
        free[seat] = last[i]
    assert codes_of(as_stamps(send, first, last, prompt=prompt, output=output)) == []


def test_no_row_of_the_real_runs_is_doubted(shared: Path) -> None:
    for folder in sorted((shared / "groundtruth").iterdir()):
        raw = read_raw(folder)
        assert raw.timed.all()
        assert not {finding.code for finding in clean(raw).findings} & {
            "impossible-times",
            "doubtful-times",
            "time-unit-doubtful",
        }


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_whatever_the_times_are_it_ends_and_is_json(data: st.DataObject, tmp_path_factory: Any) -> None:
    rows = requests(12)
    times = st.one_of(st.integers(0, 10**18 - 1), st.integers(0, 10**7), st.just(10**15))
    for row in data.draw(st.lists(st.sampled_from(rows), max_size=12)):
        row[data.draw(st.sampled_from([SEND, FIRST, LAST, "arrival_time_us"]))] = data.draw(times)
    folder = RunFolder(rows=rows).write(tmp_path_factory.mktemp("run"))
    try:
        run = clean(read_raw(folder))
    except InputError as error:
        refusal = str(error)
        assert "\n" not in refusal  # to read it is no failure either
        return
    json.dumps(run.to_dict(), allow_nan=False)
    assert (run.e2e_us[run.ok] < 2**53).all()


def test_faults_name_only_their_rows() -> None:
    send = np.arange(1, 100) * 1_000_000
    stamps = as_stamps(send, send + 50_000, send + 900_000)
    stamps.last[7] = 3
    found = faults(stamps)
    assert np.flatnonzero(any_of(found, len(stamps))).tolist() == [7]


# Another unit.


def scaled(factor: float, rows: list[Row]) -> list[Row]:
    columns = (SEND, FIRST, LAST, "arrival_time_us")
    return [row | {column: int(factor * number(row, column)) for column in columns} for row in rows]


@pytest.mark.parametrize(("factor", "unit"), [(1e-3, "ms"), (1e3, "ns")])
def test_times_in_another_unit_are_an_error_that_names_it(tmp_path: Path, factor: float, unit: str) -> None:
    folder = RunFolder(rows=scaled(factor, requests(200))).write(tmp_path / "run")
    (finding,) = told(clean(read_raw(folder)), "time-unit-doubtful")
    assert finding.severity == "error"
    assert finding.evidence["unit"] == unit
    assert f"read as {unit}" in finding.summary
    with pytest.raises(InputError, match="time-unit-doubtful"):
        read_runs([folder])


def test_times_in_seconds_contradict_themselves(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 2: first_chunk_time_us is '0', .* rows are wrong"):
        diagnose(tmp_path, scaled(1e-6, requests(200)))


def absurd(row: Row) -> dict[str, object]:
    return {FIRST: number(row, SEND) + 10**15, LAST: number(row, SEND) + 2 * 10**15}


def one_us(row: Row) -> dict[str, object]:
    return {LAST: number(row, FIRST) + number(row, "output_tokens") - 1}


@pytest.mark.parametrize("change", [absurd, one_us])
def test_times_of_no_unit_are_an_error_too(tmp_path: Path, change: Change) -> None:
    folder = RunFolder(rows=[row | change(row) for row in requests(200)]).write(tmp_path / "run")
    run = clean(read_raw(folder))
    assert [finding.severity for finding in told(run, "time-unit-doubtful")] == ["error"]
    json.dumps(run.to_dict(), allow_nan=False)
    with pytest.raises(InputError, match="time-unit-doubtful"):
        read_runs([folder])


def test_answers_of_one_token_are_judged_by_their_first_chunk(tmp_path: Path) -> None:
    rows = [row | {LAST: row[FIRST], "output_tokens": 1} for row in requests(200)]
    assert not told(diagnose(tmp_path, rows), "time-unit-doubtful")
    assert told(diagnose(tmp_path, scaled(1e-3, rows)), "time-unit-doubtful")


def test_bundled_answers_and_wrong_counts_are_no_other_unit(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    bundled = [row | {FIRST: row[LAST]} for row in requests(200)]
    miscounted = [row | {"output_tokens": int(random.integers(0, 4))} for row in requests(200)]
    for rows in (bundled, miscounted):
        assert not told(diagnose(tmp_path, rows), "time-unit-doubtful")
