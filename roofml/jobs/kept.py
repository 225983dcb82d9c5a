"""Kept results: each of a task's, once, under a digest of all that it depends on, so that nothing is computed twice.

A result is a JSON document with a digest of its own, so that one that was cut or changed is computed again. What is
made of results alone has bytes that say nothing of who computed them, when, and in how many attempts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from roofml.jobs.places import Place, listing
from roofml.util.digest import digest
from roofml.util.reading import parse_quickly

FOLDER = "work"


@dataclass(frozen=True)
class Kept:
    """The results below a place."""

    place: Place
    names: frozenset[str]
    """Of all that are there."""

    @classmethod
    def below(cls, place: Place) -> Kept:
        """Those below a place, which need not be there yet."""
        return cls.at(place, (entry.name for entry in listing(place)))

    @classmethod
    def at(cls, place: Place, names: Iterable[str]) -> Kept:
        """Those among the files of a place."""
        return cls(place, frozenset(name for name in names if name.startswith(f"{FOLDER}/")))

    def load(self, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Key -> result, for those that are kept and as they were written."""
        wanted = {name_of(key): key for key in keys}
        found: dict[str, dict[str, Any]] = {}
        for name, raw in self.place.read_some(sorted(self.names & set(wanted))).items():
            result = _read(raw)
            if result is not None:
                found[wanted[name]] = result
        return found

    def forget(self, keys: Iterable[str]) -> None:
        """Make way for the results of these keys: what lies there is damaged, or a link or pipe of somebody."""
        self.place.make_way(name_of(key) for key in keys)

    def keep(self, key: str, result: dict[str, Any]) -> dict[str, Any]:
        """Write a result, and return it as it will be read."""
        text = _text(result)
        document = f'{{"sha256": "{digest(text)}", "result": {text}}}\n'
        self.place.write(name_of(key), document.encode())
        return cast("dict[str, Any]", json.loads(text))

    def clear(self, used: Iterable[str]) -> None:
        """Remove results that were there before and that no key of `used` names."""
        self.place.remove(sorted(self.names - {name_of(key) for key in used}))


def name_of(key: str) -> str:
    """The file of a result."""
    return f"{FOLDER}/{key[:2]}/{key}.json"


def _text(result: object) -> str:
    return json.dumps(result, ensure_ascii=False, allow_nan=False)


def _read(raw: bytes) -> dict[str, Any] | None:
    """The result in a file, or None where it is not as it was written."""
    try:
        document: Any = parse_quickly(raw, "a kept result")
        result = document["result"]
        return result if digest(_text(result)) == document["sha256"] else None
    except (ValueError, TypeError, KeyError):
        return None
