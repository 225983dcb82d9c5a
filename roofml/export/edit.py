"""Changes of a user's files: planned from what is there, shown, then written under locks, all of them or none."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from roofml.util.errors import InputError, because
from roofml.util.reading import is_there, read_text, refuse
from roofml.util.writing import check_writable, free_name, locked, write_files


@dataclass(frozen=True)
class Edit:
    """A change of a file that is not written yet."""

    path: Path
    before: str | None
    """None if the file does not exist."""
    after: str
    makes_folder: bool = False
    """Whether the folders that it stands in are made where they are not there."""
    is_script: bool = False
    """Whether a new file may be run."""

    @property
    def changed(self) -> bool:
        """Whether there is anything to write."""
        return self.after != self.before

    def diff(self) -> str:
        """Return the change as a unified diff, empty if nothing changes."""
        old = [] if self.before is None else self.before.splitlines(keepends=True)
        lines = difflib.unified_diff(old, self.after.splitlines(keepends=True), str(self.path), str(self.path))
        return "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines)


def existing_text(path: Path) -> str | None:
    """Return the text of `path` with its own line breaks, or None if the file does not exist.

    A link to nothing is a file that does not exist yet. Raises InputError for what is no file, is too large, is not
    UTF-8 or cannot be read.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        refuse(path, error)
    return read_text(path)


def check_apart(paths: Iterable[Path]) -> None:
    """Raise InputError where two outputs are one file: each edit would begin with what was there before the other."""
    seen: dict[str, Path] = {}
    for path in paths:
        place = os.path.realpath(path)
        if place in seen:
            raise InputError(f"{path}: is the same file as {seen[place]}, expected two")
        seen[place] = path


def check_edits(edits: Iterable[Edit]) -> None:
    """Raise InputError where a file could not be written: asked before long work, not only after."""
    for edit in edits:
        if not edit.changed:
            continue
        missing = _missing_folders(edit)
        if not missing:
            check_writable(edit.path, in_place=True)
        elif not os.access(above := missing[0].parent, os.W_OK) or not above.is_dir():
            raise InputError(f"{edit.path}: cannot make the folder {missing[0]}")


def write_edits(edits: Sequence[Edit], *, backup: bool = True) -> list[Path | None]:
    """Write the changes, all or none. Returns where what was there is kept: None where nothing was, or is to be, kept.

    Raises InputError where a file must not be written or no longer holds what its edit began with.
    """
    check_apart(edit.path for edit in edits)
    files: dict[Path, str | bytes] = {}
    expected: dict[Path, bytes | None] = {}
    backups: list[Path | None] = []
    copies: dict[Path, Path] = {}
    for edit in edits:
        held = None if edit.before is None else edit.before.encode()
        saved = free_name(edit.path, held) if edit.changed and backup and held is not None else None
        if saved is not None and held is not None and not os.path.lexists(saved):
            files[saved], expected[saved], copies[saved] = held, None, edit.path
        if edit.changed:
            files[edit.path], expected[Path(os.path.realpath(edit.path))] = edit.after, held
        backups.append(saved)
    write_files(files, in_place=True, expected=expected, copies=copies)
    return backups


def carry_out(
    plan: Callable[[], list[Edit]], edits: list[Edit], *, backup: bool = True
) -> tuple[list[Edit], list[Path | None]]:
    """Write the `edits` that `plan` made, or makes again if a file has changed since. Returns them and the backups.

    From reading to writing the files that change are locked, so that of several exports at once none is lost.
    """
    paths = [edit.path for edit in edits if edit.changed]
    with _folders(edits), _held(paths):
        if any(existing_text(edit.path) != edit.before for edit in edits):
            edits = plan()
            for edit in edits:
                if edit.changed and edit.path not in paths:
                    raise InputError(f"{edit.path}: another program changed it meanwhile, try again")
        backups = write_edits(edits, backup=backup)
        for edit in edits:
            if edit.is_script and edit.before is None:
                mode = edit.path.stat().st_mode
                edit.path.chmod(mode | (mode & 0o444) >> 2)
        return edits, backups


@contextmanager
def _folders(edits: Iterable[Edit]) -> Generator[None]:
    """Make the folders that edits stand in. Where nothing comes of the edits, those that were made are gone again."""
    made: list[Path] = []
    try:
        for edit in edits:
            for folder in _missing_folders(edit) if edit.changed else ():
                try:
                    folder.mkdir()
                except FileExistsError:
                    continue
                except (OSError, ValueError) as error:
                    raise InputError(f"{folder}: cannot be made: {because(error)}") from None
                made.append(folder)
        yield
    except BaseException:
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()
        raise


def _missing_folders(edit: Edit) -> list[Path]:
    """The folders that have to be made for an edit, the outermost first."""
    if not edit.makes_folder:
        return []
    return [folder for folder in reversed(edit.path.parents) if not is_there(folder)]


@contextmanager
def _held(paths: Iterable[Path]) -> Generator[None]:
    """Hold the locks of all files. They are taken in one order, or two exports could wait for each other for ever."""
    with ExitStack() as stack:
        for path in sorted(paths, key=os.path.realpath):
            stack.enter_context(locked(path))
        yield
