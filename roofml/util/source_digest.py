"""A digest of code and data in files: two processes with the same one compute the same."""

from __future__ import annotations

import os
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Protocol

from roofml.util.reading import MOST_BYTES_OF_A_TABLE, read_bytes

COMPILED = {".pyc", ".nbc", ".nbi"}
"""Endings of what Python and Numba keep beside sources."""


class Hash(Protocol):
    """What `hashlib` makes."""

    def update(self, data: bytes, /) -> None:
        """Take more bytes."""


def add_files(sha: Hash, folders: Iterable[Path], leave_out: Set[Path] = frozenset()) -> None:
    """Add every file of some folders, or some files, with its name within them, in a fixed order.

    What is compiled, and what is in `leave_out` (files, or folders with all in them), does not count. Raises
    InputError for what cannot be read.
    """
    for folder in folders:
        files = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file())
        for file in files:
            if file.suffix in COMPILED or leave_out & {file, *file.parents}:
                continue
            content = read_bytes(file, MOST_BYTES_OF_A_TABLE)
            sha.update(os.fsencode(f"{folder.name}/{file.relative_to(folder)}\0") + content + b"\0")
