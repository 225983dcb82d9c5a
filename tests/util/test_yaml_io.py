"""YAML is read strictly: what is not a plain mapping is refused in one line that names file and place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roofml.util.errors import InputError
from roofml.util.yaml_io import MOST_BYTES, read_mapping

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "file.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_mapping_is_plain_python(tmp_path: Path) -> None:
    path = write(tmp_path, "a: 1\nb: [1.5, yes, null, text, 2026-11-28, 0x1F, +7]\nc: {d: 'µs'}\n# a comment\n")
    found = read_mapping(path)
    assert found == {
        "a": 1,
        "b": [1.5, "yes", None, "text", "2026-11-28", 31, 7],
        "c": {"d": "µs"},
    }  # YAML 1.2: yes is a word
    assert [type(value) for value in (found, found["b"], found["c"], found["a"])] == [dict, list, dict, int]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected a mapping at the top level, found NoneType"),
        ("- 1\n- 2\n", "expected a mapping at the top level, found list"),
        ("just words", "expected a mapping at the top level, found str"),
        ("a: 1\n2: b\n", "key 2: expected a string"),
        ("a: 1\nb: 2\na: 3\n", "line 3: key 'a' is there twice"),
        ("a: [1, 2\n", "not valid YAML: "),
        ("%YAML 1.3\n---\na: 1\n", "not valid YAML: "),
        ("%TAG ! tag:x\n---\na: !b 1\n", "line 3: tags are not accepted"),
        ("a: 1\n  b: 2\n", "line 2: not valid YAML: "),
        ("a: &x 1\nb: 2\n", "line 1: anchors and aliases are not accepted"),
        (BOMB, "line 1: anchors and aliases are not accepted"),
        ("a: 1\nb: *x\n", "line 2: anchors and aliases are not accepted"),
        ("a: !!python/object/apply:os.system [true]\n", "line 1: tags are not accepted"),
        ("a: !!bool x\n", "line 1: tags are not accepted, found 'tag:yaml.org,2002:bool'"),
        ('a: !!int ""\n', "line 1: tags are not accepted"),
        ("? [[a], b]\n: c\n", "line 1: a list or mapping as a key"),
        ("a: {[1, 2]: 3}\n", "line 1: a list or mapping as a key"),
        ("a: " + "9" * 400 + "\n", "line 1: a number of 400 digits"),
        ("a: 1\n---\nb: 2\n", "line 2: a second document"),
        (b"\xff\xfe\x00binary", "not UTF-8 text (byte 0)"),
        (b"a: 1\nb: \xe9\n", "not UTF-8 text (byte 8)"),
        (b"a: \x00\n", "not valid YAML: "),
        ("a:\n  " + "[" * 100_000, "line 2: nested more than 100 deep"),
        ("a: " + "{a: " * 100_000, "line 1: nested more than 100 deep"),
        ("".join(" " * depth + "a:\n" for depth in range(200)), "line 101: nested more than 100 deep"),
    ],
)
def test_what_is_refused_is_named_in_one_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(InputError) as error:
        read_mapping(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read_mapping(tmp_path / "none.yaml")
    assert str(error.value) == f"{tmp_path}/none.yaml: no such file"
    with pytest.raises(InputError, match="is a folder, expected a file"):
        read_mapping(tmp_path)


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = write(tmp_path, "a: " + "x" * MOST_BYTES)
    with pytest.raises(InputError, match=rf"{MOST_BYTES + 3} bytes, expected at most {MOST_BYTES}"):
        read_mapping(path)


words = st.from_regex(r"[A-Za-zµ][A-Za-z0-9µ:#{} _./-]{0,12}", fullmatch=True)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(words, plain, max_size=4))
def test_json_is_read_as_what_it_says(tmp_path_factory: pytest.TempPathFactory, value: dict[str, object]) -> None:
    """JSON is YAML 1.2, and another library writes it: numbers to the last digit, words that look like none."""
    path = write(tmp_path_factory.getbasetemp(), json.dumps(value))
    assert read_mapping(path) == value


@settings(max_examples=300)
@given(st.binary(max_size=60) | st.text(alphabet="ab:-[]{}&*!|>#?%@`,'\"\\ \n\t01.", max_size=60))
def test_whatever_the_bytes_a_mapping_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes | str
) -> None:
    path = write(tmp_path_factory.getbasetemp(), content)
    try:
        assert isinstance(read_mapping(path), dict)
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017
