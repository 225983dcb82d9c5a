"""Files that no client can have written: one line that names file and place, at once, whatever the format."""

from __future__ import annotations

import gzip
import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from client_files import WRITERS, client
from quickness import quickly

from roofml.util.errors import InputError

LINES = ("aiperf", "llmservingsim", "otel_spans")
IDS = {
    "guidellm": rb'"request_id": "r\d+"',
    "aiperf": rb'"x_request_id": "r\d+"',
    "llmservingsim": rb'"request_id": "bench-\d+"',
    "otel_spans": rb'"spanId": "\w+"',
}
"""What names a request in the formats that name them."""
NUMBERS = {
    "guidellm 0.3": (rb'"request_start": [\d.]+', b'"request_start": %s'),
    "guidellm 1": (rb'"first_token_iteration": [\d.]+', b'"first_token_iteration": %s'),
    "guidellm 2": (rb'"cached_tokens": \d+', b'"cached_tokens": %s'),
    "inference-perf 0.2": (rb'"end_time": [\d.]+', b'"end_time": %s'),
    "inference-perf 0.3": (rb'"output_token_times": \[[\d.]+', b'"output_token_times": [%s'),
    "inference-perf 0.5": (rb'"completion_tokens": \d+', b'"completion_tokens": %s'),
    "inference-perf 0.6": (rb'"prompt_tokens": \d+', b'"prompt_tokens": %s'),
    "aiperf 2025": (rb'"request_start_ns": \d+', b'"request_start_ns": %s'),
    "aiperf 0.10": (rb'"usage_prompt_tokens": {"value": \d+', b'"usage_prompt_tokens": {"value": %s'),
    "llmperf": (rb'"ttft_s": [\d.]+', b'"ttft_s": %s'),
    "llmservingsim": (rb'"queued_ts": [\d.]+', b'"queued_ts": %s'),
    "otel-spans": (rb'"doubleValue": [\d.]+', b'"doubleValue": %s'),
}
"""A number in a file of each, and how another is put in its place."""


def refused(tmp_path: Path, form: str, content: bytes) -> str:
    """What reading says, which must be one line with the file's name, and soon."""
    path = tmp_path / "run"
    path.write_bytes(content)
    reader: Any = import_module(f"roofml.traces.formats.{WRITERS[form][0]}")
    with quickly(5), pytest.raises(InputError) as caught:
        reader.read(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(str(path))


def written(form: str) -> bytes:
    return WRITERS[form][1](client(12))


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.97])
def test_a_truncated_file(tmp_path: Path, form: str, share: float) -> None:
    content = written(form)
    assert re.search("cut short|not valid JSON|expected", refused(tmp_path, form, content[: int(share * len(content))]))


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("content", [b"", b"\n\n", b"null", b"[]", b"{}", b"[1, 2]", b"\xff\xfe\x00", b"\0" * 4096])
def test_nothing_and_nonsense(tmp_path: Path, form: str, content: bytes) -> None:
    refused(tmp_path, form, content)


@pytest.mark.parametrize("form", WRITERS)
def test_gzip_of_garbage_and_gzip_cut_short(tmp_path: Path, form: str) -> None:
    refused(tmp_path, form, gzip.compress(bytes(range(256)) * 40))
    assert "not valid gzip, or cut short" in refused(tmp_path, form, gzip.compress(written(form))[:-40])


@pytest.mark.parametrize("form", WRITERS)
def test_a_bomb(tmp_path: Path, form: str) -> None:
    """Seventy megabytes of spaces in seventy kilobytes."""
    bomb = gzip.compress(b" " * 70_000_000, 9)
    refused(tmp_path, form, bomb)


@pytest.mark.parametrize("form", NUMBERS)
@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (b'"soon"', "expected a number|expected 0 <"),
        (b"[1]", "expected a number"),
        (b'{"a": 1}', "expected a number"),
        (b"1e300", "expected"),
        (b"-1e17", "expected"),
        (b"1e400", "expected"),
        (b"9" * 400, "expected|digits|number"),
        (b"9" * 5000, "digits|not valid JSON"),
    ],
)
def test_numbers_that_are_none_or_beyond_all(tmp_path: Path, form: str, number: bytes, expected: str) -> None:
    pattern, template = NUMBERS[form]
    content, changed = re.subn(pattern, lambda _: template % number, written(form))
    assert changed
    assert re.search(expected, refused(tmp_path, form, content))


@pytest.mark.parametrize("form", [form for form in WRITERS if WRITERS[form][0] in IDS])
def test_two_requests_of_one_name(tmp_path: Path, form: str) -> None:
    content = written(form)
    names = re.findall(IDS[WRITERS[form][0]], content)
    assert "too, expected it once" in refused(tmp_path, form, content.replace(names[1], names[0]))


@pytest.mark.parametrize("form", WRITERS)
def test_a_key_that_stands_twice(tmp_path: Path, form: str) -> None:
    content = written(form)
    key = re.findall(rb'"(\w+)": ', content)[-1]
    refused_with = refused(tmp_path, form, content.replace(b'"%s": ' % key, b'"%s": 0, "%s": ' % (key, key)))
    assert "is there twice" in refused_with


@pytest.mark.parametrize("form", [form for form in WRITERS if WRITERS[form][0] in LINES])
def test_a_line_that_is_none(tmp_path: Path, form: str) -> None:
    lines = written(form).splitlines(keepends=True)
    lines[4] = b"oops\n"
    assert "line 5: not valid JSON" in refused(tmp_path, form, b"".join(lines))
    lines[4] = b"[1, 2]\n"
    assert "line 5: expected a JSON object" in refused(tmp_path, form, b"".join(lines))


def test_another_version_of_guidellms_schema(tmp_path: Path) -> None:
    content = written("guidellm 1").replace(b'"version": 1', b'"version": 7')
    assert "metadata.version is 7, expected 1 or 2" in refused(tmp_path, "guidellm 1", content)


def test_another_unit_of_aiperf(tmp_path: Path) -> None:
    content = written("aiperf 2025").replace(b'"unit": "ms"', b'"unit": "fortnights"')
    assert "metrics.time_to_first_token.unit is 'fortnights', expected ns, us, ms or s" in refused(
        tmp_path, "aiperf 2025", content
    )


@pytest.mark.parametrize(
    ("form", "edit", "expected"),
    [
        (
            "guidellm 1",
            lambda it: it["benchmarks"][0]["requests"]["successful"].__setitem__(2, 5),
            r"successful\[2\] is 5",
        ),
        ("guidellm 1", lambda it: it["benchmarks"][0].update(metrics=[]), r"benchmarks\[0\].metrics is \[\]"),
        ("guidellm 1", lambda it: it.update(metadata=3), "metadata is 3, expected an object"),
        ("guidellm 1", lambda it: it.update(benchmarks=[]), "benchmarks: none"),
        ("inference-perf 0.3", lambda it: it[2].update(info=[1]), "request 2: info is"),
        ("inference-perf 0.3", lambda it: it[2].update(start_time=None), "request 2: no time of sending"),
        ("inference-perf 0.3", lambda it: it[2].update(request="{"), "request 2: request: not valid JSON"),
        ("inference-perf 0.5", lambda it: it[2]["info"]["response_info"].update(chunk_times=4), "chunk_times is 4"),
        ("llmperf", lambda it: it.__setitem__(2, 7), "request 2 is 7, expected an object"),
    ],
)
def test_other_kinds_of_values(tmp_path: Path, form: str, edit: Any, expected: str) -> None:
    document = json.loads(written(form))
    edit(document)
    assert re.search(expected, refused(tmp_path, form, json.dumps(document).encode()))


@pytest.mark.parametrize(
    ("number", "expected"),
    [("x", "count"), ("1e400", "count"), (-3, "count"), (1.5, "whole")],
)
def test_a_stage_with_impossible_counts(tmp_path: Path, number: Any, expected: str) -> None:
    stage = {
        "load_summary": {"count": 3, "requested_rate": 1},
        "successes": {"count": number, "latency": {}},
        "failures": {},
    }
    path = tmp_path / "stage_0_lifecycle_metrics.json"
    path.write_text(json.dumps(stage))
    reader: Any = import_module("roofml.traces.formats.inference_perf")
    with pytest.raises(InputError, match=expected):
        reader.read(path)
