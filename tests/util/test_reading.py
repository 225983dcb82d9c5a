"""Files from outside are read whole, in bounds, or refused in one line that names them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from roofml.util import reading
from roofml.util.errors import InputError

posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes("µs\r\n".encode())
    assert reading.read_bytes(path) == "µs\r\n".encode()
    assert reading.read_text(path) == "µs\r\n"
    assert reading.first_bytes(path, 1) == "µ".encode()[:1]


@posix
@pytest.mark.parametrize(
    "kind", ["fifo", "/dev/zero", "/dev/null", "socket", "folder", "loop", "broken", "long", "nul"]
)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(kind)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(kind)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "broken":
        path.symlink_to("nowhere")
    elif kind == "long":
        path = Path("x" * 5000)
    elif kind == "nul":
        path = Path("a\0b")
    with pytest.raises(InputError) as error:
        reading.read_bytes(path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    assert reading.first_bytes(path, 4) == b""


@posix
def test_what_is_there_but_unreadable_is_not_taken_for_absent(tmp_path: Path) -> None:
    (tmp_path / "broken").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    assert [reading.is_there(tmp_path / name) for name in ("broken", "fifo", "folder", "none", "none/x")] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert [reading.is_file(tmp_path / name) for name in ("broken", "fifo", "folder", "none")] == [
        True,
        True,
        False,
        False,
    ]
    with pytest.raises(InputError, match="cannot be read: File name too long"):
        reading.is_there(tmp_path / ("x" * 5000))


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "zeros"
    with path.open("wb") as file:
        file.truncate(3 * 2**30)
    with pytest.raises(InputError, match="zeros: 3221225472 bytes, expected at most 4000000"):
        reading.read_bytes(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "key 'a' is there twice"),
        ('{"b": {"a": 1, "a": 1}}', "key 'a' is there twice"),
        ("[1, 2]", "expected a JSON object"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "nested too deep"),
        ('{"a": 1' + "0" * 400 + "}", "a number of 401 digits, expected at most 300"),
    ],
)
def test_json_is_one_object_without_doubt(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        reading.read_json_object(path)


def test_json_of_other_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(InputError, match="not valid JSON"):
        reading.read_json_object(path)


def test_hugging_face_writes_infinity(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"time_step_limit": [0.0, Infinity]}')
    assert reading.read_json_object(path) == {"time_step_limit": [0.0, float("inf")]}
