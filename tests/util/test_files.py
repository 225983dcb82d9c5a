"""Files are written whole or not at all, and packaged data is found."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from roofml.util import files
from roofml.util.errors import InputError
from roofml.util.files import check_writable, data_folder, write_atomically

needs_permissions = pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")


def test_text_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out.yaml"
    for text in ("first µs\n", "second\n"):
        write_atomically(path, text)
        assert path.read_bytes() == text.encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    """Temporary files are private; the result must not be."""
    (tmp_path / "other").write_text("")
    write_atomically(tmp_path / "ours", "")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("other", "ours")}
    assert len(modes) == 1


@pytest.mark.parametrize("check", [check_writable, lambda path: write_atomically(path, "text")])
def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path, check) -> None:
    with pytest.raises(InputError) as error:
        check(tmp_path / "nowhere" / "out")
    assert str(error.value) == f"{tmp_path}/nowhere/out: folder {tmp_path}/nowhere does not exist"
    with pytest.raises(InputError, match="is a folder, expected a file name"):
        check(tmp_path)
    assert list(tmp_path.iterdir()) == []


@needs_permissions
def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match=f"out: cannot write in {tmp_path}: permission denied"):
        write_atomically(tmp_path / "out", "text")
    tmp_path.chmod(0o700)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_text_that_is_no_text_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write_atomically(tmp_path / "out", "lone surrogate \udc80")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["model_configs", "hardware", "bench_data", "coeffs"])
def test_packaged_folders_are_found(name: str) -> None:
    assert data_folder(name).is_dir()


def test_a_folder_that_is_missing_from_the_package_says_what_to_do() -> None:
    with pytest.raises(FileNotFoundError, match="packaged folder 'nothing' is missing: reinstall roofml"):
        data_folder("nothing")


def test_an_installed_package_uses_its_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel carries the folders in `data/`; a folder of the same name beside it in site-packages is another's."""
    for folder in ("roofml/data/hardware", "hardware"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(files, "__file__", str(tmp_path / "roofml" / "util" / "files.py"))
    assert data_folder("hardware") == tmp_path / "roofml" / "data" / "hardware"
