"""A place is listed, read and written the same way, wherever it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from roofml.jobs.places import LocalPlace, RemotePlace, below, place_of
from roofml.util.errors import InputError


@pytest.fixture(params=["local", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> LocalPlace | RemotePlace:
    if request.param == "local":
        return LocalPlace(tmp_path)
    return RemotePlace(f"memory://{tmp_path.name}")


def test_what_is_written_is_listed_and_read(place: LocalPlace | RemotePlace) -> None:
    place.write("a/b.txt", b"one")
    place.write("c.txt", b"three")
    assert [(entry.name, entry.size) for entry in place.entries()] == [("a/b.txt", 3), ("c.txt", 5)]
    assert place.read("a/b.txt") == b"one"
    assert place.read_some(["c.txt", "missing"]) == {"c.txt": b"three"}
    place.write("c.txt", b"other")
    assert place.read("c.txt") == b"other"
    place.remove(["c.txt", "missing"])
    assert [entry.name for entry in place.entries()] == ["a/b.txt"]


def test_hidden_files_are_not_listed(place: LocalPlace | RemotePlace) -> None:
    place.write(".git/config", b"x")
    place.write("run/.trace.csv.swp", b"x")
    place.write("run/trace.csv", b"x")
    assert [entry.name for entry in place.entries()] == ["run/trace.csv"]


def test_what_is_missing_or_too_large_is_an_input_error(place: LocalPlace | RemotePlace) -> None:
    place.write("large", b"12345")
    with pytest.raises(InputError, match="missing: no such file"):
        place.read("missing")
    with pytest.raises(InputError, match=r"4 bytes|at most 4"):
        place.read("large", 4)


def test_nothing_there_is_an_input_error(tmp_path: Path) -> None:
    for place in (LocalPlace(tmp_path / "none"), RemotePlace("memory://nothing-of-this-name")):
        with pytest.raises(InputError, match=r"expected a folder|nothing is there|no such folder"):
            place.entries()


def test_links_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("x")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert [entry.name for entry in LocalPlace(tmp_path).entries()] == ["a/file"]


def test_credentials_of_a_url_are_not_shown() -> None:
    shown = place_of("https://user:secret@host/runs?token=abc").shown
    assert shown == "https://host/runs"


def test_credentials_are_not_in_what_a_store_says(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def invalidate_cache(self) -> None: ...

        def find(self, root: str, **_: object) -> None:
            raise OSError(f"no luck with {root}, user key, password s3cret, at ?token=abc")

    place = RemotePlace("s3://key:s3cret@bucket/runs?token=abc")
    monkeypatch.setattr(RemotePlace, "_opened", lambda self: (Broken(), self.url))
    with pytest.raises(InputError) as told:
        place.entries()
    for secret in ("key", "s3cret", "token", "abc"):
        assert secret not in str(told.value)


def test_what_cannot_be_written_to_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be made"):
        LocalPlace(tmp_path / "file" / "catalog").check_writable()
    LocalPlace(tmp_path / "new").check_writable()
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(InputError, match="expected a folder that we may write to"):
        LocalPlace(tmp_path).check_writable()
    RemotePlace("memory://anywhere").check_writable()


def test_places_of_texts() -> None:
    assert place_of("file:///tmp/runs") == LocalPlace(Path("/tmp/runs"))
    assert place_of("runs") == LocalPlace(Path("runs"))
    assert place_of("s3://bucket/runs/") == RemotePlace("s3://bucket/runs")
    with pytest.raises(InputError, match="expected a folder, or a URL"):
        place_of(" ")
    with pytest.raises(InputError, match="nonsense"):
        place_of("nonsense://x").entries()


def test_a_place_below_another(tmp_path: Path) -> None:
    assert below(LocalPlace(tmp_path / "a" / "b"), LocalPlace(tmp_path)) == "a/b"
    assert below(LocalPlace(tmp_path), LocalPlace(tmp_path / "a")) is None
    assert below(RemotePlace("s3://b/runs/catalog"), RemotePlace("s3://b/runs")) == "catalog"
    assert below(RemotePlace("s3://b/runs2"), RemotePlace("s3://b/runs")) is None
