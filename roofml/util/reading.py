"""The one way files from outside are read: regular files only, bounded in size and depth, errors that name the file.

What is compressed (gzip, zstd, xz, bzip2, by its first bytes) is read as what is in it, and `-` is standard input.

A FIFO or a device would hold a command for ever, a file of gigabytes would take the machine's memory, and a key that
stands twice in a JSON object would be obeyed by halves. Inside `remembered()` what was read is noted, so that
`roofml.util.writing` never puts an output in its place.
"""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, cast

from roofml.util.decompress import decompressed
from roofml.util.errors import InputError, because
from roofml.util.standard_input import is_standard_input, kept

MOST_BYTES = 4_000_000
"""Most bytes of a file that people write: a config, a sheet, a header."""

MOST_BYTES_OF_A_TABLE = 2_000_000_000
"""Most bytes of a file that machines write: a trace of a million requests has 300 MB."""

LONGEST_NUMBER = 300
"""Digits of a whole number in JSON: more would not fit a float."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)

_READ: ContextVar[set[tuple[int, int]] | None] = ContextVar("files that were read", default=None)


@contextmanager
def remembered() -> Generator[None]:
    """Inside, every file that is read is remembered as an input of the command."""
    token = _READ.set(set())
    try:
        yield
    finally:
        _READ.reset(token)


def was_read(status: os.stat_result) -> bool:
    """Whether the file of this status was read inside `remembered()`."""
    return (status.st_dev, status.st_ino) in (_READ.get() or ())


def is_there(path: Path) -> bool:
    """Whether there is anything of this name, a broken link and a FIFO too: what is there must be readable.

    Raises InputError for a name that cannot be looked up: too long, links in a circle, no permission.
    """
    if is_standard_input(path):
        return True
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        refuse(path, error)
    return True


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder, or a link to one. Raises InputError for a name that cannot be looked up."""
    if is_standard_input(path):
        return False
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        refuse(path, error)


def is_file(path: Path) -> bool:
    """Whether there is something of this name that is no folder. Whether it can be read is said when it is read."""
    return is_there(path) and not is_folder(path)


def open_file(path: Path, most: int = MOST_BYTES) -> io.BufferedReader:
    """A regular file opened for reading, decompressed. Raises InputError for none, another kind, or one too large.

    That is more than `most` bytes, in the file or, while it is read, out of it.
    """
    if is_standard_input(path):
        return _opened(kept(MOST_BYTES_OF_A_TABLE), path, most)
    return _opened(path, path, most)


def _opened(path: Path, name: Path, most: int) -> io.BufferedReader:
    """The file at `path`, which errors call `name`."""
    # Without O_NONBLOCK the call itself would wait for a FIFO's writer.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        if os.name == "nt" and path.is_dir():
            raise InputError(f"{name}: is a folder, expected a file")
        handle = os.open(path, flags)
    except (OSError, ValueError) as error:
        refuse(name, error)
    try:
        status = os.fstat(handle)
        for is_kind, kind in _KINDS:
            if is_kind(status.st_mode):
                raise InputError(f"{name}: is {kind}, expected a file")
        if status.st_size > most:
            raise InputError(f"{name}: {status.st_size} bytes, expected at most {most}")
        remembered_files = _READ.get()
        if remembered_files is not None:
            remembered_files.add((status.st_dev, status.st_ino))
        file = os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise
    try:
        return decompressed(file, name, status.st_size, most)
    except BaseException as error:
        file.close()
        if isinstance(error, OSError):
            refuse(name, error)
        raise


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """All of a regular file. Raises InputError for none, another kind, or more than `most` bytes."""
    with open_file(path, most) as file:
        try:
            raw = file.read(most + 1)
        except OSError as error:
            refuse(path, error)
    if len(raw) > most:
        raise InputError(f"{path}: more than {most} bytes")
    return raw


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """All of a regular UTF-8 file, line ends as they are. Raises InputError as `read_bytes`, and for other bytes."""
    return as_text(read_bytes(path, most), path)


def as_text(raw: bytes, path: Path | str) -> str:
    """Bytes as UTF-8 text. Raises InputError naming the first byte that is not."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from None


def first_bytes(path: Path, count: int) -> bytes:
    """The first bytes of a file, to see what it is; none of a folder or of what is no regular file.

    Of a compressed file that was cut, those that can be read.
    """
    found = b""
    try:
        if not is_standard_input(path) and not stat.S_ISREG(path.stat().st_mode):
            return b""
        with open_file(path, most=2**63 - 1) as file:
            while len(found) < count and (block := file.read1(min(count - len(found), 4096))):
                found += block
    except (OSError, ValueError, InputError):
        pass
    return found


def read_json(path: Path, most: int = MOST_BYTES) -> object:
    """The JSON document in a file. Raises InputError as `read_bytes` and `parse_json` do."""
    return parse_json(read_bytes(path, most), path)


def read_json_object(path: Path, most: int = MOST_BYTES) -> dict[str, Any]:
    """The JSON object in a file. Raises InputError as `read_json`, and for another document."""
    return as_object(read_json(path, most), path)


def parse_json(raw: bytes | str, source: Path | str) -> object:
    """The JSON document in a text. Raises InputError naming `source` for an invalid one and for a key given twice.

    NaN and Infinity are read, for Hugging Face configs have them; who uses a number checks it.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{source}: key {twice[:80]!r} is there twice")
        return result

    def whole(digits: str) -> int:
        if len(digits) > LONGEST_NUMBER:
            raise InputError(f"{source}: a number of {len(digits)} digits, expected at most {LONGEST_NUMBER}")
        return int(digits)

    try:
        return cast("object", json.loads(raw, object_pairs_hook=unique, parse_int=whole))
    except InputError:
        raise
    except RecursionError:
        raise InputError(f"{source}: not valid JSON: nested too deep") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ones
        raise InputError(f"{source}: not valid JSON: {error}") from None


def parse_quickly(raw: bytes | str, source: Path | str) -> object:
    """As `parse_json`, several times as fast: for what machines write. Of a key given twice the last counts."""
    quick: Any = import_module("orjson")
    try:
        return cast("object", quick.loads(raw))
    except ValueError:  # NaN, Infinity, numbers of many digits; or it is no JSON, and that says where
        return parse_json(raw, source)


def as_object(document: object, source: Path | str) -> dict[str, Any]:
    """A JSON document that is an object. Raises InputError naming `source` for another."""
    if not isinstance(document, dict):
        raise InputError(f"{source}: expected a JSON object")
    return cast("dict[str, Any]", document)


def refuse(path: Path, error: OSError | ValueError) -> NoReturn:
    """Raise InputError for what the system said of `path`."""
    if isinstance(error, InputError):
        raise error
    if isinstance(error, FileNotFoundError):
        raise InputError(f"{path}: no such file") from None
    raise InputError(f"{path}: cannot be read: {because(error)}") from None
