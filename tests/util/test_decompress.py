"""Compressed files are read as what is in them, within bounds, and damaged ones are refused in a line."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from quickness import quickly

from roofml.util import standard_input
from roofml.util.errors import InputError
from roofml.util.reading import first_bytes, is_folder, is_there, open_file, read_bytes, read_json

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}
TEXT = b'{"a": [1, 2, 3]}\n' * 5000


@pytest.mark.parametrize("kind", PACKERS)
def test_what_is_compressed_is_read_whatever_it_is_called(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(PACKERS[kind](TEXT))
    assert read_bytes(path) == TEXT
    assert first_bytes(path, 10) == TEXT[:10]
    with open_file(path) as file:
        file.read(100)
        file.seek(0)
        assert file.readline() == TEXT.splitlines(keepends=True)[0]


@pytest.mark.parametrize("kind", PACKERS)
def test_a_damaged_one_is_refused_in_a_line(tmp_path: Path, kind: str) -> None:
    whole = PACKERS[kind](TEXT)
    path = tmp_path / "cut"
    for damaged in (whole[: len(whole) // 2], whole[:12] + bytes(40) + whole[52:], whole[:8] + b"garbage" * 9):
        path.write_bytes(damaged)
        try:
            found = read_bytes(path)
        except InputError as error:
            assert str(error).startswith(f"{path}: not valid {kind}, or cut short")  # noqa: PT017  # zstd may end early
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert kind == "zstd"
            assert TEXT.startswith(found)


@pytest.mark.parametrize("kind", ["gzip", "zstd", "xz"])
def test_a_bomb_stops_at_its_bound(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(PACKERS[kind](bytes(80_000_000)))
    assert path.stat().st_size < 1_000_000
    with quickly(5, time.process_time):
        with pytest.raises(InputError, match="more than 64000000 bytes come out of it"):
            read_bytes(path, 2_000_000_000)
        with pytest.raises(InputError, match="more than 4000000 bytes come out of it"):
            read_json(path)


def test_standard_input_is_a_file_that_can_be_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    standard_input.kept.cache_clear()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(TEXT))))
    path = Path("-")
    assert is_there(path)
    assert not is_folder(path)
    assert first_bytes(path, 5) == TEXT[:5]
    assert read_bytes(path) == TEXT
    assert read_bytes(path) == TEXT
    standard_input.kept.cache_clear()


def test_a_terminal_is_no_input(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    standard_input.kept.cache_clear()
    monkeypatch.setattr("sys.stdin", Terminal())
    with pytest.raises(InputError, match=r"^-: standard input is a terminal"):
        read_bytes(Path("-"))
