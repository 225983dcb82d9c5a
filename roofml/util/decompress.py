"""Decompressing what is read: by a file's first bytes, as it is read, and never more than may come out."""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from roofml.util.errors import InputError

MOST_FOLD = 200
"""Times as large as its file a text may become: JSON of one number over and over comes to some 100."""
ALWAYS_ALLOWED = 64_000_000
"""Bytes that may come out of a file however small it is."""


def _gzip(raw: io.BufferedReader) -> Any:
    return import_module("gzip").GzipFile(fileobj=raw)


def _zstd(raw: io.BufferedReader) -> Any:
    try:
        return import_module("compression.zstd").ZstdFile(raw)  # Python 3.14 has it
    except ImportError:
        decompressor = import_module("zstandard").ZstdDecompressor(max_window_size=2**27)
        return decompressor.stream_reader(raw, read_across_frames=True)


def _xz(raw: io.BufferedReader) -> Any:
    return import_module("lzma").LZMAFile(raw)


def _bzip2(raw: io.BufferedReader) -> Any:
    return import_module("bz2").BZ2File(raw)


_OPENERS: dict[bytes, tuple[str, Callable[[io.BufferedReader], Any]]] = {
    b"\x1f\x8b": ("gzip", _gzip),
    b"\x28\xb5\x2f\xfd": ("zstd", _zstd),
    b"\xfd7zXZ\x00": ("xz", _xz),
    b"BZh": ("bzip2", _bzip2),
}
"""First bytes -> name, and what reads the text in it; a library is loaded when it is needed."""
_OWN_ERRORS = ("error", "LZMAError", "ZstdError")
"""Names of the errors that are neither OSError, EOFError nor ValueError: of zlib, lzma and zstandard."""
LONGEST_MAGIC = max(map(len, _OPENERS))


def decompressed(raw: io.BufferedReader, path: Path, size: int, most: int) -> io.BufferedReader:
    """What is in a file of `size` bytes: the file itself, unless it is compressed.

    Reading raises InputError naming `path` where more than `most` bytes come out, or more than so many times what went
    in, and where what is compressed is damaged or cut short.
    """
    head = raw.read(LONGEST_MAGIC)
    raw.seek(0)
    for magic, (name, opener) in _OPENERS.items():
        if head.startswith(magic):
            allowed = min(most, max(ALWAYS_ALLOWED, MOST_FOLD * size))
            return io.BufferedReader(_Text(raw, path, name, opener, allowed))
    return raw


class _Text(io.RawIOBase):
    """The text of a compressed file, which can be read, and read again from its start."""

    def __init__(
        self, raw: io.BufferedReader, path: Path, name: str, opener: Callable[[io.BufferedReader], Any], most: int
    ) -> None:
        self._raw, self._path, self._name, self._opener, self._most = raw, path, name, opener, most
        self._stream: Any = opener(raw)
        self._came = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data: bytes = self._stream.read(len(buffer))
        except Exception as error:
            if not isinstance(error, OSError | EOFError | ValueError) and type(error).__name__ not in _OWN_ERRORS:
                raise
            why = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"{self._path}: not valid {self._name}, or cut short: {why}") from None
        self._came += len(data)
        if self._came > self._most:
            raise InputError(f"{self._path}: more than {self._most} bytes come out of it, expected at most that")
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR and offset == 0:
            return self._came
        if whence != io.SEEK_SET or offset != 0:
            raise InputError(f"{self._path}: compressed with {self._name}: decompress it first")
        self._raw.seek(0)
        self._stream, self._came = self._opener(self._raw), 0
        return 0

    def tell(self) -> int:
        return self._came

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()
