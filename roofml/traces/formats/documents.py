"""Documents: the JSON objects of a file that holds one, a list of them, or one a line; and what its run is called."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from roofml.util.errors import InputError
from roofml.util.outside_text import for_line
from roofml.util.reading import as_object, parse_quickly, read_bytes
from roofml.util.standard_input import is_standard_input

MOST_BYTES = 600_000_000
"""Most bytes of a file that is read as a whole: its numbers take some four times that."""
MOST_RUNS = 10_000
ENDINGS = (".gz", ".zst", ".xz", ".bz2", ".jsonl", ".json", ".csv", ".yaml", ".yml", ".txt")


def run_name(path: Path) -> str:
    """What the run in a file is called: the file's name without its endings, the folder's for a folder."""
    if is_standard_input(path):
        return "stdin"
    name = path.resolve().name
    while True:
        shorter = next((name[: -len(end)] for end in ENDINGS if name.lower().endswith(end)), name)
        if shorter in (name, ""):
            return for_line(name) or "run"
        name = shorter


def read_documents(path: Path, most: int = MOST_BYTES) -> list[tuple[str, dict[str, Any]]]:
    """(what errors call it, object) for each. Raises InputError naming file and line for what is none."""
    raw = read_bytes(path, most)
    lines = raw.strip().split(b"\n")
    first = lines[0].strip()
    if len(lines) > 1 and first.startswith(b"{") and first.endswith(b"}"):
        found = list(_by_line(path, raw))
    else:
        document = parse_quickly(raw, path)
        listed = cast("list[object]", document) if isinstance(document, list) else [document]
        found = [
            (str(path) if not isinstance(document, list) else f"{path}: run {place}", as_object(each, path))
            for place, each in enumerate(listed, 1)
        ]
    if not found:
        raise InputError(f"{path}: no run in it")
    if len(found) > MOST_RUNS:
        raise InputError(f"{path}: {len(found)} runs in it, expected at most {MOST_RUNS}")
    return found


def _by_line(path: Path, raw: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(raw.split(b"\n"), 1):
        if line.strip():
            where = f"{path}: line {number}"
            yield where, as_object(parse_quickly(line, where), where)
