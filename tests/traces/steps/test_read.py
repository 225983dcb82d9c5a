"""Reading sampled steps: both formats say the same, and what no scheduler wrote is refused by file, place and name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import fails, ok
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sampled import columns_of, event, line, summaries, table, write_otlp, write_parquet
from synthetic import run_of, tables

from roofml.engine.replay import replay
from roofml.latency.parameters import PRIOR_VALUES, Parameters
from roofml.traces.steps import is_steps, read_steps
from roofml.traces.steps.table import FIELDS
from roofml.util.errors import InputError


@pytest.fixture(scope="module")
def columns() -> dict[str, Any]:
    random = np.random.default_rng(3)
    arrivals = np.cumsum(random.exponential(60_000, 60))
    run = run_of([(float(t), int(random.integers(20, 900)), 40) for t in arrivals])
    return columns_of(replay(run, tables(), Parameters.of(PRIOR_VALUES)).schedule, 0.2)


def as_lists(steps: Any) -> dict[str, Any]:
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in vars(steps).items()
        if name != "name"
    }


def test_parquet_and_otlp_of_the_same_steps_read_alike(tmp_path: Path, columns: dict[str, Any]) -> None:
    pytest.importorskip("pyarrow")
    parquet = read_steps(write_parquet(tmp_path / "steps.parquet", columns))
    otlp = read_steps(write_otlp(tmp_path / "steps.jsonl", columns))
    assert as_lists(parquet) == as_lists(otlp)
    assert len(otlp) == len(columns["id"])
    assert otlp.start_us[0] == 0.0
    assert otlp.start_us[-1] == (columns["start_ns"][-1] - columns["start_ns"][0]) / 1e3


def test_a_file_is_known_by_what_is_in_it(tmp_path: Path, columns: dict[str, Any]) -> None:
    pytest.importorskip("pyarrow")
    odd_name = write_parquet(tmp_path / "steps.parquet", columns).rename(tmp_path / "steps.dat")
    assert is_steps(odd_name)
    assert len(read_steps(odd_name)) == len(columns["id"])
    other = tmp_path / "notes.txt"
    other.write_text("hello")
    assert not is_steps(other)
    with pytest.raises(InputError, match="not a table of steps"):
        read_steps(other)
    with pytest.raises(InputError, match="no such file"):
        read_steps(tmp_path / "nothing")


IMPOSSIBLE = [
    ("id", 2, 41, r"step.id is 41, expected more than in the step before"),
    ("start_ns", 2, 5, r"step.ts_start_ns is 5, expected more than in the step before"),
    ("end_ns", 1, 0, r"step.ts_end_ns is 0, expected at least step.ts_start_ns"),
    ("running", 0, -1, r"queue.running_depth is -1, expected a number of at least 0"),
    ("blocks_free", 0, 10**6, r"kv.blocks_free_gpu is 1000000, expected at most the total"),
    ("scheduled_tokens", 0, 999, r"batch.scheduled_tokens is 999, expected prefill \+ decode tokens"),
]


@pytest.mark.parametrize(("field", "row", "value", "message"), IMPOSSIBLE, ids=[case[0] for case in IMPOSSIBLE])
def test_what_no_scheduler_writes_is_refused(
    columns: dict[str, Any], field: str, row: int, value: int, message: str
) -> None:
    changed = {**columns, field: columns[field].copy()}
    changed[field][row] = value
    with pytest.raises(InputError, match=rf"^steps: row {row + 1}: {message}"):
        table(changed)


def test_speculative_decoding_is_refused_by_name(columns: dict[str, Any]) -> None:
    more = {name: columns[name].copy() for name in columns}
    more["decode_tokens"] += more["decode_requests"]
    more["scheduled_tokens"] += more["decode_requests"]
    with pytest.raises(InputError, match="speculative decoding is not modelled"):
        table(more)


def test_parquet_says_which_column_is_wrong(tmp_path: Path, columns: dict[str, Any]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    path = tmp_path / "steps.parquet"
    without = {name: values for name, values in columns.items() if name != "waiting"}
    for broken, message in (
        (without, "column queue.waiting_depth is missing"),
        ({**columns, "waiting": columns["waiting"] + 0.5}, "column queue.waiting_depth has type double"),
        (
            {**columns, "waiting": pyarrow.array([None, *columns["waiting"][1:].tolist()])},
            "row 1: queue.waiting_depth is empty",
        ),
        (
            {**columns, "waiting": pyarrow.array([2**63] * len(columns["id"]), pyarrow.uint64())},
            "column queue.waiting_depth holds a number beyond 64 bits",
        ),
    ):
        with pytest.raises(InputError, match=message):
            read_steps(write_parquet(path, broken))
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="cannot be read as parquet"):
        read_steps(path)


def test_otlp_says_which_line_and_attribute_is_wrong(tmp_path: Path, columns: dict[str, Any]) -> None:
    path = write_otlp(tmp_path / "steps.jsonl", columns)
    lines = path.read_text().splitlines()
    first = summaries(columns)[0]["attributes"]
    beyond = 2**63

    def without(name: str) -> list[dict[str, Any]]:
        return [pair for pair in first if pair["key"] != name]

    def numbered(value: dict[str, Any]) -> list[dict[str, Any]]:
        return [*without("step.id"), {"key": "step.id", "value": value}]

    wrong = {
        "attribute step.id is missing": without("step.id"),
        "step.id: expected an intValue": numbered({"doubleValue": 1.5}),
        "step.id is 'x', expected a whole number": numbered({"intValue": "x"}),
        f"step.id is '{beyond}', expected": numbered({"intValue": str(beyond)}),
        "attributes: expected pairs": [*first, 5],
        "attribute step.id is there twice": [*first, {"key": "step.id", "value": {"intValue": "1"}}],
        "step.id is '1_0', expected a whole number": numbered({"intValue": "1_0"}),
    }
    for message, attributes in wrong.items():
        path.write_text("\n".join([lines[0], line({"name": "step.BATCH_SUMMARY", "attributes": attributes})]))
        with pytest.raises(InputError, match=f"line 2: {message}"):
            read_steps(path)
    path.write_text("\n".join(lines)[:-40])
    with pytest.raises(InputError, match=f"line {len(lines)}: not JSON; .* is the file cut"):
        read_steps(path)
    path.write_text(line(event("other", {})))
    with pytest.raises(InputError, match=r"no step.BATCH_SUMMARY event of the scope vllm.scheduler.step"):
        read_steps(path)


@pytest.mark.parametrize("name", [["step.BATCH_SUMMARY"], {"a": 1}, 5, None, True])
def test_an_event_whose_name_is_no_text_is_another_event(tmp_path: Path, columns: dict[str, Any], name: object) -> None:
    path = write_otlp(tmp_path / "steps.jsonl", columns)
    path.write_text(line({"name": name, "attributes": 7}) + "\n" + path.read_text())
    assert len(read_steps(path)) == len(columns["id"])


def test_counts_beyond_any_scheduler_are_refused(columns: dict[str, Any]) -> None:
    for field in ("id", "prefill_tokens", "call_us"):
        changed = {**columns, field: columns[field].copy()}
        changed[field][-1] = 2**62
        with pytest.raises(InputError, match=rf"{FIELDS[field]} is {2**62}, expected at most {10**15}"):
            table(changed)


def test_a_small_parquet_file_of_endless_rows_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = write_parquet(tmp_path / "steps.parquet", dict.fromkeys(FIELDS, np.zeros(5_000_001, np.int8)))
    assert path.stat().st_size < 1_000_000
    with pytest.raises(InputError, match=r"steps\.parquet: 5000001 rows, expected at most 5000000"):
        read_steps(path)


def test_snapshots_give_the_contexts_of_a_step(tmp_path: Path, columns: dict[str, Any]) -> None:
    """A prompt of 100 of which 60 are computed, and a decode at 1,100 tokens: 20 new tokens and one."""
    two = {name: values[:2].copy() for name, values in columns.items()}
    two["prefill_requests"][0], two["decode_requests"][0], two["decode_tokens"][0] = 1, 1, 1
    two["prefill_tokens"][0], two["scheduled_tokens"][0] = 20, 21

    def snapshot(prompt: int, computed: int, new: int) -> dict[str, Any]:
        return event(
            "step.REQUEST_SNAPSHOT",
            {
                "step.id": int(two["id"][0]),
                "request.num_prompt_tokens": prompt,
                "request.num_computed_tokens": computed,
                "request.scheduled_tokens_this_step": new,
            },
        )

    path = tmp_path / "steps.jsonl"
    path.write_text(line(*summaries(two), snapshot(100, 60, 20), snapshot(50, 1100, 1)))
    known = read_steps(path).snapshot
    assert known is not None
    assert known.known.tolist() == [True, False]  # of the second step nothing was written
    assert known.prefill_context[0] == 60
    assert known.prefill_pairs[0] == 20 * 60 + 20 * 21 / 2
    assert known.decode_context[0] == 1100
    assert known.decode_beyond[0] == 1100 - 1024


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_export_is_an_input_error_or_steps_and_never_a_traceback(
    tmp_path: Path, columns: dict[str, Any], data: st.DataObject
) -> None:
    events = summaries({name: values[:3] for name, values in columns.items()})
    attributes = events[1]["attributes"]
    place = data.draw(st.integers(0, len(attributes) - 1))
    key, numbers = attributes[place]["key"], st.one_of(st.integers(), st.text(max_size=4), st.booleans())
    attributes[place] = data.draw(
        st.one_of(
            st.none(),
            st.text(max_size=3),
            st.builds(lambda value: {"key": key, "value": value}, st.dictionaries(st.text(max_size=9), st.integers())),
            st.builds(lambda value: {"key": key, "value": {"intValue": value}}, numbers),
        )
    )
    path = tmp_path / "steps.jsonl"
    path.write_text(line(*events))
    try:
        found = read_steps(path)
    except InputError as error:
        refusal = str(error)
    else:
        refusal = ""
        assert len(found) == 3
    assert not refusal or str(path) in refusal


def test_the_command_line_refuses_with_one_line_and_status_2(tmp_path: Path, columns: dict[str, Any]) -> None:
    path = write_otlp(tmp_path / "steps.jsonl", columns)
    path.write_text(json.dumps({"resourceSpans": 3}))
    result = fails("doctor", path)
    assert "resourceSpans: expected a list" in result.err
    assert FIELDS["id"] not in result.out


def test_doctor_reports_the_sampling(tmp_path: Path, columns: dict[str, Any]) -> None:
    found = ok("doctor", write_otlp(tmp_path / "steps.jsonl", columns), "--json").document["steps"][0]
    assert found["samples"] == len(columns["id"])
    assert {"duration-not-step-time", "sampling", "autocorrelation", "contexts"} <= {
        finding["code"] for finding in found["findings"]
    }
