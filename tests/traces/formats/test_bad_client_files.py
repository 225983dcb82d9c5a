"""Files that are cut, empty, damaged, of another version, or absurdly large, by format: one line, quickly."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clients import Served, vllm_bench
from quickness import quickly

from roofml.traces.formats import sglang_bench as sglang
from roofml.traces.formats import vllm_bench as vllm
from roofml.traces.read import read_all
from roofml.util.errors import InputError

SECONDS = 3.0
"""Of the processor, for any of them; most take milliseconds."""


def document(**changes: Any) -> dict[str, Any]:
    return vllm_bench(Served(), **changes)


def sglang_document(**changes: Any) -> dict[str, Any]:
    head: dict[str, Any] = {"backend": "sglang", "dataset_name": "random", "server_info": {}}
    return head | document(backend="sglang", model_id=None, num_prompts=None, **changes)


MAKERS: dict[str, Callable[..., dict[str, Any]]] = {"vllm-bench": document, "sglang-bench": sglang_document}
LISTS = ("input_lens", "output_lens", "ttfts", "itls")

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no count of what completed": ({"completed": None}, "completed"),
    "a count that is none": ({"completed": -1}, "completed: -1"),
    "a rate that is none": ({"request_rate": "fast"}, "request_rate: 'fast'"),
    "a length that is none": ({"input_lens": ["a"] * 60}, "input_lens: request 1: 'a'"),
    "half a token": ({"output_lens": [1.5] * 60}, "output_lens: request 1: 1.5"),
    "a time that is none": ({"ttfts": [[]] * 60}, "ttfts: request 1: []"),
    "a time beyond every clock": ({"ttfts": [1e200] * 60}, "ttfts: request 1: 1e+200"),
    "a number of 400 digits": ({"ttfts": [int("9" * 400)] * 60}, "400 digits"),
    "gaps that are none": ({"itls": [[0.01, "x"]] * 60}, "itls: request 1"),
    "no list of gaps": ({"itls": [0.01] * 60}, "itls: request 1"),
    "another number of them": ({"output_lens": [10] * 59}, "output_lens: 59 entries, expected 60"),
    "milliseconds among seconds": ({"ttfts": [25.0] * 60}, "ttfts: their mean is 25 s by them and"),
    "no lengths": ({"input_lens": None}, "input_lens is missing"),
    "lengths of nobody": ({"input_lens": [10**12] * 60}, "input_lens: request 1"),
    "means that are none": ({"mean_ttft_ms": "quick"}, "mean_ttft_ms: 'quick'"),
}


def refused(path: Path) -> str:
    with quickly(SECONDS, time.process_time), pytest.raises(InputError) as caught:
        read_all([path], strict=False, complete=False)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


@pytest.mark.parametrize("format_name", MAKERS)
@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_is_refused_by_field(tmp_path: Path, format_name: str, what: str) -> None:
    changes, message = BAD[what]
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(MAKERS[format_name](**changes)))
    assert message in refused(path)


@pytest.mark.parametrize("format_name", MAKERS)
def test_a_file_that_was_cut_is_refused(tmp_path: Path, format_name: str) -> None:
    text = json.dumps(MAKERS[format_name]())
    path = tmp_path / "bench.json"
    path.write_text(text[: len(text) // 2])
    assert "not valid JSON" in refused(path)
    path.write_text(text + "\n" + text[: len(text) // 2] + "\n")  # appended, and cut
    assert "JSON" in refused(path)


@pytest.mark.parametrize("format_name", MAKERS)
def test_a_compressed_file_that_was_cut_is_refused(tmp_path: Path, format_name: str) -> None:
    packed = gzip.compress(json.dumps(MAKERS[format_name]()).encode())
    path = tmp_path / "bench.json.gz"
    path.write_bytes(packed[: len(packed) // 2])
    assert "cut short" in refused(path)
    path.write_bytes(packed[:10] + b"garbage" * 100)
    refused(path)


@pytest.mark.parametrize(
    "raw", [b"", b"\n\n", b"{}", b"[]", b"null", b"[[[[", b"{" * 10_000, bytes(1000), b"\xff" * 99]
)
def test_what_is_nothing_is_no_run(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "bench.json"
    path.write_bytes(raw)
    assert "not a run" in refused(path)


def test_gigabytes_of_nothing_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(document())[:-1] + ', "errors": [')
    with path.open("r+b") as file:
        file.truncate(10_000_000_000)
    assert "10000000000 bytes, expected at most" in refused(path)


def test_a_key_that_says_ten_gigabytes_takes_none(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(document(num_prompts=10_000_000_000)))
    assert "num_prompts: 10000000000" in refused(path)


@pytest.mark.parametrize("reader", [vllm, sglang])
def test_no_reader_takes_what_is_not_its_own(tmp_path: Path, reader: Any) -> None:
    for raw in ('{"a": 1}', "a,b\n1,2\n", "[1, 2]", '{"model_id": "x"}'):
        (tmp_path / "x").write_text(raw)
        assert not reader.detect(tmp_path / "x")
