"""The one way files are written: whole or not at all, several all or none, and never over what is not theirs.

A file is written beside its place and renamed into it. What is there keeps its mode, owner and extended attributes; a
link is followed and stays; a device, a pipe or our own standard output is written into; a read-only file, another's
file, one with a second name (hard link) and an input of the same command are refused. What is edited in place is edited
under a lock beside it. Temporary files of a process that was killed are removed by the next writer in their folder.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import stat
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

from roofml.util.errors import InputError, JobFailedError, because
from roofml.util.interrupts import temporary, uninterrupted
from roofml.util.reading import was_read

LONGEST_WAIT_S = 60.0
"""How long an edit waits for others of the same file."""
STALE_S = 86_400.0
"""Age of a temporary file that nobody writes to any more, where the system cannot say whether its writer lives."""

_HOST = sha256(socket.gethostname().encode()).hexdigest()[:6]


@dataclass(frozen=True)
class Target:
    """Where an output goes. `before` is the status of the regular file that is there, None if there is none."""

    given: Path
    path: Path
    """Links followed."""
    before: os.stat_result | None
    stream: bool = False
    """A device, a pipe, or our own standard output."""


def check_writable(path: Path, *, in_place: bool = False) -> None:
    """Raise InputError where `write_file` would refuse to write: asked before long work, not only after."""
    _target(path, in_place)


def write_file(path: Path, content: str | bytes, *, in_place: bool = False) -> None:
    """Write one file whole or not at all; text is UTF-8. Raises as `write_files` does."""
    write_files({path: content}, in_place=in_place)


def write_files(
    files: Mapping[Path, str | bytes],
    *,
    in_place: bool = False,
    expected: Mapping[Path, bytes | None] | None = None,
    copies: Mapping[Path, Path] | None = None,
) -> None:
    """Write several files, all or none. With `in_place`, a file may be one that was read: it is an edit of it.

    `expected` has what a file must still hold when it is replaced (None: it must not exist yet), `copies` those that
    are a copy of another and take its mode and owner: a backup is as private as what it backs up.

    Raises InputError where one must not be written (see the module), two are one file, or a file changed meanwhile, and
    JobFailedError, with nothing changed, where the system fails (a full disk).
    """
    targets = [_target(path, in_place) for path in files]
    for number, target in enumerate(targets):
        for other in targets[:number]:
            if not target.stream and target.path == other.path:
                raise InputError(f"{target.given}: is the same file as {other.given}, expected two")
    for folder in {target.path.parent for target in targets if not target.stream}:
        _remove_stale(folder)
    raw = [content.encode() if isinstance(content, str) else content for content in files.values()]
    with ExitStack() as stack:
        prepared: list[Path | None] = []
        for target, content in zip(targets, raw, strict=True):
            like = (copies or {}).get(target.given)
            prepared.append(None if target.stream else _prepare(target, content, stack, like))
        with uninterrupted():
            for path, held in (expected or {}).items():
                _check_unchanged(path, held)
            _commit(targets, prepared, raw)


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Hold the lock of a file that is edited in place, or made if it is not there yet.

    Raises JobFailedError where another process holds it for longer than LONGEST_WAIT_S.
    """
    from filelock import FileLock, Timeout

    target = _target(path, in_place=True)
    if target.stream:
        yield
        return
    place = target.path.with_name(f".roofml-{sha256(target.path.name.encode()).hexdigest()[:12]}.lock")
    lock = FileLock(place)
    try:
        lock.acquire(timeout=LONGEST_WAIT_S)
    except Timeout:
        raise JobFailedError(f"{path}: another roofml has been editing it for {LONGEST_WAIT_S:g} s") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be locked: {because(error)}") from None
    try:
        with temporary(place):
            yield
    finally:
        with suppress(OSError):  # unlinked while it is held: who waits for it sees that and makes a new one
            place.unlink()
        lock.release()


def free_name(path: Path, content: bytes) -> Path:
    """`<path>.bak`, or the first of `.bak2`, `.bak3` .. that does not replace something else than this content."""
    number = 1
    while True:
        candidate = path.with_name(f"{path.name}.bak{number if number > 1 else ''}")
        if not os.path.lexists(candidate):
            return candidate
        with suppress(OSError):
            if stat.S_ISREG(candidate.lstat().st_mode) and candidate.read_bytes() == content:
                return candidate
        number += 1


def _target(path: Path, in_place: bool) -> Target:
    if str(path) == "-":
        raise InputError("-: expected the name of a file; /dev/stdout is this command's output")
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        status = None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be written: {because(error)}") from None
    if status is not None:
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{path}: is a folder, expected a file name")
        if stat.S_ISBLK(status.st_mode) or stat.S_ISSOCK(status.st_mode):
            raise InputError(f"{path}: is a {'disk' if stat.S_ISBLK(status.st_mode) else 'socket'}, expected a file")
        if not stat.S_ISREG(status.st_mode) or _own_output(status) is not None:
            return Target(path, path, None, stream=True)
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise InputError(f"{path}: folder {target.parent} does not exist")
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"{path}: cannot write in {target.parent}: permission denied")
    if status is not None:
        _check_replaceable(path, target, status, in_place)
    return Target(path, target, status)


def _check_replaceable(path: Path, target: Path, status: os.stat_result, in_place: bool) -> None:
    if was_read(status) and not in_place:
        raise InputError(f"{path}: is an input of this command, expected another file for its output")
    if not status.st_mode & 0o222 or not os.access(target, os.W_OK):
        raise InputError(f"{path}: is read-only")
    if status.st_nlink > 1 and os.name != "nt":
        raise InputError(f"{path}: has {status.st_nlink} names (hard links), of which only one would change")


def _own_output(status: os.stat_result) -> int | None:
    """The number of our standard stream that is this file."""
    for number in (1, 2):
        with suppress(OSError):
            if os.path.samestat(os.fstat(number), status):
                return number
    return None


def _prepare(target: Target, content: bytes, stack: ExitStack, like: Path | None) -> Path:
    """A temporary file beside the target with the content, mode, owner and attributes it will have.

    Those of the file that is there, or of the one that it is `like`.
    """
    model, of = (target.path, target.before) if like is None else (like, like.stat())
    prepared = target.path.with_name(f".roofml-{_HOST}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    stack.enter_context(temporary(prepared))

    def remove() -> None:
        with suppress(OSError):
            prepared.unlink()

    stack.callback(remove)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        # What exists with few rights is never readable by more, not even before its mode is set.
        with os.fdopen(os.open(prepared, flags, 0o666 if of is None else 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if of is not None:
            _keep_attributes(model, of, prepared)
    except OSError as error:
        _fail(target.given, error)
    return prepared


def _keep_attributes(path: Path, before: os.stat_result, prepared: Path) -> None:
    """Give the new file the owner, mode and extended attributes (access lists) of the one at `path`."""
    if hasattr(os, "chown"):
        now = prepared.stat()
        if (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
            try:
                os.chown(prepared, before.st_uid, before.st_gid)
            except PermissionError:
                raise InputError(f"{path}: belongs to another user or group, expected one of yours") from None
    if hasattr(os, "listxattr"):
        with suppress(OSError):
            for name in os.listxattr(path):
                os.setxattr(prepared, name, os.getxattr(path, name))
    prepared.chmod(stat.S_IMODE(before.st_mode))


def _commit(targets: list[Target], prepared: list[Path | None], raw: list[bytes]) -> None:
    """Put every file in its place. Where one fails, those before it get back what they were."""
    done: list[tuple[Target, bytes | None]] = []
    for target, file, content in zip(targets, prepared, raw, strict=True):
        try:
            if file is None:
                _write_stream(target.given, content)
                continue
            before = target.path.read_bytes() if target.before is not None and len(targets) > 1 else None
            file.replace(target.path)
            done.append((target, before))
        except OSError as error:
            for earlier, held in done:
                with suppress(OSError):
                    if earlier.before is None:
                        earlier.path.unlink()
                    elif held is not None:
                        earlier.path.write_bytes(held)
            _fail(target.given, error)


def _write_stream(path: Path, content: bytes) -> None:
    """Write into a device, a pipe or our own standard output."""
    number = _own_output(path.stat())
    if number is not None:
        handle = os.dup(number)
        (sys.stdout if number == 1 else sys.stderr).flush()
    else:
        try:
            handle = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
        except OSError as error:
            if error.errno == errno.ENXIO:
                raise InputError(f"{path}: nobody reads this pipe") from None
            raise
        if hasattr(os, "set_blocking"):
            os.set_blocking(handle, True)
    with os.fdopen(handle, "wb") as file:
        file.write(content)


def _check_unchanged(path: Path, held: bytes | None) -> None:
    try:
        now = path.read_bytes() if os.path.lexists(path) else None
    except OSError as error:
        _fail(path, error)
    if now != held:
        raise InputError(f"{path}: another program changed it meanwhile: nothing was written, try again")


def _remove_stale(folder: Path) -> None:
    """Remove temporary files of ours whose writer was killed."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            parts = entry.name.split("-")
            if not (entry.name.startswith(f".roofml-{_HOST}-") and entry.name.endswith(".tmp") and len(parts) == 4):
                continue
            with suppress(OSError):
                if parts[2].isdigit() and _has_ended(int(parts[2]), entry):
                    Path(entry.path).unlink()


def _has_ended(process: int, entry: os.DirEntry[str]) -> bool:
    if os.name == "nt":  # there os.kill(process, 0) would end it
        return time.time() - entry.stat().st_mtime > STALE_S
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _fail(path: Path, error: OSError) -> NoReturn:
    """Raise the error of a file that the system would not write."""
    message = f"{path}: cannot be written: {because(error)}"
    refused = error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP}
    raise (InputError(message) if refused else JobFailedError(message)) from None
