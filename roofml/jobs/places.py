"""Places: a folder of this machine, or one of an object store, that is listed, read and written the same way.

A place is a path, or a URL that fsspec knows (`s3://bucket/runs`, `gs://...`, `http://...`). What it holds is named by
its path from there, with `/`, so that what is made of it does not depend on where it lies. Credentials and endpoints
are those of the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...), and what a URL has of them is never shown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from roofml.util.errors import InputError, JobFailedError, because
from roofml.util.outside_text import for_line
from roofml.util.reading import MOST_BYTES_OF_A_TABLE, read_bytes
from roofml.util.writing import write_file

MOST_FILES = 1_000_000
"""Files below a place."""
DEEPEST = 24
"""Folders within folders that are looked into."""
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
_WHEN = ("ETag", "etag", "md5", "md5Hash", "crc32c", "generation", "LastModified", "mtime", "updated", "created")
"""What stores say of a file that changes when it does."""


@dataclass(frozen=True, order=True)
class Entry:
    """A file of a place."""

    name: str
    """Path from the place, with `/`."""
    size: int
    version: str
    """Changes when the file does; empty where the place does not say."""
    problem: str = ""
    """Why it cannot be looked at; a folder then, or a file."""


@dataclass(frozen=True)
class LocalPlace:
    """A folder of this machine, or one that all workers have under the same name."""

    path: Path

    @property
    def shown(self) -> str:
        """For people."""
        return str(self.path)

    @property
    def address(self) -> str:
        """From which `place_of` makes the same place, on any worker that has this folder."""
        return str(self.path.absolute())

    def check_writable(self) -> None:
        """Raise InputError where no file can be written: asked before long work, not only after."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be made: {because(error)}") from None
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise InputError(f"{self.path}: expected a folder that we may write to")

    def entries(self) -> list[Entry]:
        """Its files but hidden ones, by name; links are followed, each folder once.

        Raises InputError for what is no folder, or has more than MOST_FILES.
        """
        if not self.path.is_dir():
            raise InputError(f"{self.path}: expected a folder")
        found: list[Entry] = []
        for entry in _walked(self.path, PurePosixPath(), set()):
            found.append(entry)
            if len(found) > MOST_FILES:
                raise InputError(f"{self.path}: more than {MOST_FILES} files below it")
        return sorted(found)

    def read(self, name: str, most: int = MOST_BYTES_OF_A_TABLE) -> bytes:
        """A file's bytes, decompressed. Raises InputError for none, and for more than `most`."""
        return read_bytes(self.path / name, most)

    def read_some(self, names: Iterable[str]) -> dict[str, bytes]:
        """Those of the files that are there and can be read."""
        found: dict[str, bytes] = {}
        for name in names:
            try:
                found[name] = self.read(name)
            except InputError:
                continue
        return found

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all. Raises as `util.writing.write_file`."""
        target = self.path / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{target.parent}: cannot be made: {because(error)}") from None
        write_file(target, content, in_place=True)  # what is there is brought up to date

    def make_way(self, names: Iterable[str]) -> None:
        """Remove what lies where files will be written, were it a pipe or a link that leads nowhere."""
        for name in names:
            with suppress(OSError):
                (self.path / name).unlink()

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, those that are there."""
        for name in names:
            (self.path / name).unlink(missing_ok=True)


@dataclass(frozen=True)
class RemotePlace:
    """A folder of a store that fsspec knows."""

    url: str

    @property
    def shown(self) -> str:
        """For people: without the credentials that a URL may have, and without its query."""
        match = _URL.fullmatch(self.url)
        assert match is not None
        host, slash, path = match["rest"].partition("/")
        path = path.partition("?")[0]
        return for_line(f"{match['scheme']}://{host.rpartition('@')[2].partition('?')[0]}{slash}{path}")

    @property
    def address(self) -> str:
        """From which `place_of` makes the same place."""
        return self.url

    def check_writable(self) -> None:
        """Raise InputError for a store that can only be read."""
        system, _ = self._opened()
        protocols = {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)
        if protocols & {"http", "https"}:
            raise InputError(f"{self.shown}: can be read and not written")

    def _why(self, error: Exception) -> str:
        """What a store says, without what the URL has of credentials."""
        said = for_line(str(error) or type(error).__name__)
        match = _URL.fullmatch(self.url)
        assert match is not None
        user, at, _ = match["rest"].partition("/")[0].rpartition("@")
        query = match["rest"].partition("?")[2]
        for secret in (f"{user}{at}", *user.split(":"), query, *query.split("&")):
            if len(secret) > 2:
                said = said.replace(secret, "***")
        return said[:300]

    def entries(self) -> list[Entry]:
        """Its files but hidden ones, by name.

        Raises InputError where it cannot be listed, holds nothing, or more than MOST_FILES.
        """
        system, root = self._opened()
        try:
            system.invalidate_cache()
            found = cast("Mapping[str, Mapping[str, Any]]", system.find(root, maxdepth=DEEPEST, detail=True))
            if not found:
                system.ls(root)  # which says why, where a walk leaves out what it cannot list
        except FileNotFoundError:
            raise InputError(f"{self.shown}: no such folder") from None
        except Exception as error:  # every store has its own
            raise InputError(f"{self.shown}: cannot be listed: {self._why(error)}") from None
        if len(found) > MOST_FILES:
            raise InputError(f"{self.shown}: more than {MOST_FILES} files below it")
        if not found:
            raise InputError(f"{self.shown}: nothing is there")
        entries: list[Entry] = []
        for path, facts in found.items():
            name = path.removeprefix(root).strip("/")
            hidden = any(part.startswith(".") for part in name.split("/"))
            if not name or hidden or facts.get("type") == "directory" or path.endswith("/"):
                continue
            version = " ".join(str(facts[key]) for key in _WHEN if facts.get(key) is not None)
            entries.append(Entry(name, int(facts.get("size") or 0), version))
        return sorted(entries)

    def read(self, name: str, most: int = MOST_BYTES_OF_A_TABLE) -> bytes:
        """A file's bytes as they are. Raises InputError for none, and for more than `most`."""
        system, root = self._opened()
        try:
            with system.open(_below(root, name), "rb") as file:
                raw = cast("bytes", file.read(most + 1))
        except FileNotFoundError:
            raise InputError(f"{self.shown}/{name}: no such file") from None
        except Exception as error:
            raise InputError(f"{self.shown}/{name}: cannot be read: {self._why(error)}") from None
        if len(raw) > most:
            raise InputError(f"{self.shown}/{name}: more than {most} bytes")
        return raw

    def read_some(self, names: Iterable[str]) -> dict[str, bytes]:
        """Those of the files that are there and can be read, many at a time."""
        system, root = self._opened()
        paths = {_below(root, name): name for name in names}
        if not paths:
            return {}
        try:
            found = cast("Mapping[str, bytes]", system.cat(list(paths), on_error="omit"))
        except Exception:  # what cannot be read is computed again
            return {}
        return {paths[path]: raw for path, raw in found.items() if path in paths}

    def write(self, name: str, content: bytes) -> None:
        """Write a file in one piece, which stores do whole or not at all. Raises JobFailedError where it fails."""
        system, root = self._opened()
        path = _below(root, name)
        try:
            if getattr(system, "protocol", None) in ("memory", ("memory",)):
                system.makedirs(path.rpartition("/")[0], exist_ok=True)
            system.pipe_file(path, content)
        except NotImplementedError:
            raise InputError(f"{self.shown}: can be read and not written") from None
        except Exception as error:
            raise JobFailedError(f"{self.shown}/{name}: cannot be written: {self._why(error)}") from None

    def make_way(self, names: Iterable[str]) -> None:
        """Nothing: a store has files alone, and replaces them."""

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, those that are there."""
        system, root = self._opened()
        for name in names:
            try:
                system.rm_file(_below(root, name))
            except FileNotFoundError:
                continue
            except Exception as error:
                raise JobFailedError(f"{self.shown}/{name}: cannot be removed: {self._why(error)}") from None

    def _opened(self) -> tuple[Any, str]:
        """The file system and the place's path in it."""
        from fsspec.core import url_to_fs  # pyright: ignore[reportUnknownVariableType]

        try:
            system, root = cast("tuple[Any, str]", url_to_fs(self.url))
        except ImportError as error:
            raise InputError(f"{self.shown}: {error}; `pip install 'roofml[cluster]'` has what S3 needs") from None
        except Exception as error:
            raise InputError(f"{self.shown}: cannot be opened: {self._why(error)}") from None
        return system, root.rstrip("/")


Place = LocalPlace | RemotePlace


def place_of(text: str) -> Place:
    """The place that a path or a URL names; `file://` is a path. Raises InputError for an empty one."""
    if not text.strip():
        raise InputError("expected a folder, or a URL such as s3://bucket/runs")
    match = _URL.fullmatch(text)
    if match is None:
        return LocalPlace(Path(text))
    if match["scheme"].lower() in ("file", "local"):
        return LocalPlace(Path(match["rest"]))
    return RemotePlace(text.rstrip("/"))


def listing(place: Place) -> list[Entry]:
    """The files of a place that need not be there yet."""
    try:
        return place.entries()
    except InputError:
        return []


def below(place: Place, other: Place) -> str | None:
    """The path of `place` from `other`, where it lies below it; None elsewhere."""
    if isinstance(place, LocalPlace) and isinstance(other, LocalPlace):
        inner, outer = Path(os.path.realpath(place.path)), Path(os.path.realpath(other.path))
        return str(PurePosixPath(*inner.relative_to(outer).parts)) if inner.is_relative_to(outer) else None
    if isinstance(place, RemotePlace) and isinstance(other, RemotePlace):
        return place.url.removeprefix(f"{other.url}/") if place.url.startswith(f"{other.url}/") else None
    return None


def _walked(folder: Path, name: PurePosixPath, seen: set[str]) -> Iterator[Entry]:
    real = os.path.realpath(folder)
    if real in seen or len(name.parts) > DEEPEST:
        return
    seen.add(real)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield Entry(str(name / "*"), 0, "", f"cannot be listed: {because(error)}")
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            if entry.is_dir():
                yield from _walked(Path(entry.path), name / entry.name, seen)
            elif entry.is_file():
                status = entry.stat()
                yield Entry(str(name / entry.name), status.st_size, f"{status.st_mtime_ns}")
        except OSError as error:
            yield Entry(str(name / entry.name), 0, "", f"cannot be looked at: {because(error)}")


def _below(root: str, name: str) -> str:
    return f"{root}/{name}"
