"""Large JSON, a part at a time: the same as read at once, whatever the blocks are, and refused where it is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roofml.util import json_stream
from roofml.util.errors import InputError
from roofml.util.json_stream import JsonDocument, json_lines
from roofml.util.reading import open_file

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def walked(document: JsonDocument, depth: int) -> Any:
    """The document, entered as far as `depth`, and read as wholes below."""
    if depth and document.next() == "{":
        return {name: walked(document, depth - 1) for name in document.members()}
    if depth and document.next() == "[":
        return [walked(document, depth - 1) for _ in document.items()]
    return document.value()


@given(JSON, st.integers(0, 3), st.integers(1, 40), st.sampled_from([None, 1]))
def test_what_is_walked_is_what_is_in_the_file(
    tmp_path_factory: pytest.TempPathFactory, value: Any, depth: int, block: int, indent: int | None
) -> None:
    path = tmp_path_factory.mktemp("json") / "document.json"
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False), encoding="utf-8")
    whole, json_stream.BLOCK = json_stream.BLOCK, block
    try:
        with open_file(path) as file:
            document = JsonDocument(path, file)
            assert walked(document, depth) == value
            document.end()
    finally:
        json_stream.BLOCK = whole


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": [1, 2', "cut short"),
        ('{"a": [1, 2}', "expected ',' or ']'"),
        ('{"a": [1, "x', "cut short"),
        ('{"a": [], "a": []}', "key 'a' is there twice"),
        ('{"b": [{"c": 1, "c": 2}]}', "key 'c' is there twice"),
        ("[1]", "expected an object"),
        ("", "cut short"),
        ('{"a": [1]} {}', "more text after its end"),
        ('{"a": [nope, 1, 2, 3, 4, 5, 6, 7, 8]}', "Expecting value"),
        ('{"a": [' + "[" * 100_000, "nested too deep"),
        ('{"a": [' + "1" * 5000 + "]}", "not valid JSON"),
    ],
)
def test_what_is_no_document_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "document.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        walk_the_list(path)
    assert str(caught.value).startswith(str(path))


OBJECTS = st.lists(st.dictionaries(st.text('ab},{ "', max_size=4), JSON, max_size=3), max_size=12)


@given(OBJECTS, st.integers(4, 60), st.sampled_from([None, 2]), st.integers(0, 4))
def test_elements_of_a_list_are_what_is_in_it_wherever_it_is_cut(
    tmp_path_factory: pytest.TempPathFactory, value: Any, block: int, indent: int | None, strict: int
) -> None:
    path = tmp_path_factory.mktemp("json") / "document.json"
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False), encoding="utf-8")
    before = json_stream.BLOCK, json_stream.STRICT_LINES
    json_stream.BLOCK, json_stream.STRICT_LINES = block, strict
    try:
        with open_file(path) as file:
            document = JsonDocument(path, file)
            assert list(document.elements()) == value
            document.end()
    finally:
        json_stream.BLOCK, json_stream.STRICT_LINES = before


def walk_the_list(path: Path) -> None:
    with open_file(path) as file:
        document = JsonDocument(path, file)
        for name in document.members():
            if name == "a":
                for _ in document.items():
                    document.value()
            else:
                document.value()
        document.end()


def test_lines_are_numbered_and_blank_ones_left_out(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n{"a": NaN}\n{"a": 3}')
    assert [(number, str(line["a"])) for number, line in json_lines(path)] == [(1, "1"), (3, "nan"), (4, "3")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n{"a": ', "line 2: not valid JSON.*cut short"),
        ('{"a": 1}\n{"a": \n', "line 2: not valid JSON"),
        ("[1]\n", "line 1: expected a JSON object"),
        ('{"a": 1, "a": 2}\n', "line 1: key 'a' is there twice"),
    ],
)
def test_a_line_that_is_no_object_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        list(json_lines(path))
