"""Results are kept once, and none that was damaged is believed."""

from __future__ import annotations

from pathlib import Path

from roofml.jobs.kept import Kept, name_of
from roofml.jobs.places import LocalPlace


def at(place: LocalPlace) -> Kept:
    return Kept.at(place, [entry.name for entry in place.entries()])


def test_a_result_is_read_as_it_was_kept(tmp_path: Path) -> None:
    place = LocalPlace(tmp_path)
    result = {"b": [1.5, None, "é"], "a": {"x": 1e-300}}
    assert Kept(place, frozenset()).keep("ab12", result) == result
    assert at(place).load(["ab12", "other"]) == {"ab12": result}


def test_a_damaged_result_is_none(tmp_path: Path) -> None:
    place = LocalPlace(tmp_path)
    Kept(place, frozenset()).keep("ab12", {"value": 1})
    file = tmp_path / name_of("ab12")
    for damage in (file.read_bytes()[:-5], file.read_bytes().replace(b'"value": 1', b'"value": 2'), b"[]", b""):
        file.write_bytes(damage)
        assert at(place).load(["ab12"]) == {}


def test_results_that_nothing_names_are_cleared(tmp_path: Path) -> None:
    place = LocalPlace(tmp_path)
    for key in ("ab12", "cd34"):
        Kept(place, frozenset()).keep(key, {})
    at(place).clear(["cd34"])
    assert set(at(place).load(["ab12", "cd34"])) == {"cd34"}
