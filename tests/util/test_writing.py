"""Files are written whole or not at all, several all or none, and never over what is not theirs."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from roofml.util import interrupts, reading, writing
from roofml.util.errors import InputError, JobFailedError
from roofml.util.writing import check_writable, free_name, locked, write_file, write_files

posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
as_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
not_root = pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")

BOTH = pytest.mark.parametrize("write", [check_writable, lambda path: write_file(path, "text")])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_text_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out.yaml"
    for text in ("first µs\n", "second\n"):
        write_file(path, text)
        assert path.read_bytes() == text.encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    write_file(tmp_path / "ours", "")
    assert len({stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("other", "ours")}) == 1


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o755])
def test_a_file_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    path.chmod(mode)
    write_file(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == mode


@posix
def test_a_private_file_is_never_readable_by_others_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    path.chmod(0o600)
    modes: list[int] = []
    sync = os.fsync

    def look(handle: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(handle).st_mode))
        sync(handle)

    monkeypatch.setattr(os, "fsync", look)
    write_file(path, "secret")
    assert modes == [0o600]


@as_root
def test_a_file_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    os.chown(path, 12345, 23456)
    write_file(path, "new")
    assert (path.stat().st_uid, path.stat().st_gid, path.read_text()) == (12345, 23456, "new")


@posix
def test_a_file_of_another_user_is_refused_where_its_owner_cannot_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    taken = os.stat_result((0o100666, 1, 1, 1, 4242, 4242, 3, 0, 0, 0))
    monkeypatch.setattr(writing, "_target", lambda path, in_place: writing.Target(path, path, taken))

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(InputError, match="belongs to another user or group"):
        write_file(path, "new")
    assert contents(tmp_path) == {"out": b"old"}


@posix
def test_a_system_without_owners_and_attributes_writes_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("chown", "listxattr", "setxattr", "getxattr", "set_blocking"):
        monkeypatch.delattr(os, name, raising=False)
    for name in ("O_NONBLOCK", "O_CLOEXEC"):
        monkeypatch.delattr(os, name, raising=False)
    path = tmp_path / "out"
    for text in ("one", "two"):
        write_file(path, text)
    assert contents(tmp_path) == {"out": b"two"}
    assert reading.read_text(path) == "two"


@BOTH
def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path, write) -> None:
    with pytest.raises(InputError) as error:
        write(tmp_path / "nowhere" / "out")
    assert str(error.value) == f"{tmp_path}/nowhere/out: folder {tmp_path}/nowhere does not exist"
    with pytest.raises(InputError, match="is a folder, expected a file name"):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == []


@BOTH
@pytest.mark.parametrize("name", ["-", "x" * 5000, "a\0b"])
def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path, write, name: str) -> None:
    with pytest.raises(InputError):
        write(Path(name) if name == "-" else tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_the_longest_name_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    write_file(path, "text")
    write_file(path, "again")
    assert contents(tmp_path) == {"x" * 255: b"again"}


@posix
@BOTH
def test_links_in_a_circle_are_refused(tmp_path: Path, write) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(InputError, match="a: cannot be written"):
        write(tmp_path / "a")


@BOTH
@posix
def test_a_read_only_file_is_refused(tmp_path: Path, write) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    path.chmod(0o444)
    with pytest.raises(InputError, match="out: is read-only"):
        write(path)
    assert contents(tmp_path) == {"out": b"old"}


@not_root
@BOTH
def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path, write) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match=f"out: cannot write in {tmp_path}: permission denied"):
        write(tmp_path / "out")
    tmp_path.chmod(0o700)


@posix
def test_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "target", tmp_path / "link"
    link.symlink_to(target)
    for text in ("made", "replaced"):  # the first time it leads nowhere yet
        write_file(link, text)
        assert link.is_symlink()
        assert target.read_text() == text
    assert contents(tmp_path / "there") == {"target": b"replaced"}


@posix
@BOTH
def test_a_file_with_two_names_is_refused(tmp_path: Path, write) -> None:
    (tmp_path / "a").write_text("old")
    os.link(tmp_path / "a", tmp_path / "b")
    with pytest.raises(InputError, match="has 2 names"):
        write(tmp_path / "a")
    assert contents(tmp_path) == {"a": b"old", "b": b"old"}


@posix
def test_devices_are_written_into_and_stay() -> None:
    before = Path("/dev/null").stat()
    write_file(Path("/dev/null"), "text")
    after = Path("/dev/null").stat()
    assert stat.S_ISCHR(after.st_mode)
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
    if Path("/dev/full").exists():
        with pytest.raises(JobFailedError, match="/dev/full: cannot be written: No space left on device"):
            write_file(Path("/dev/full"), "text")


@posix
def test_a_pipe_is_written_into_where_somebody_reads(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="nobody reads this pipe"):
        write_file(pipe, "text")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    for _ in range(100):
        try:
            write_file(pipe, "text" * 50_000)
            break
        except InputError:
            threading.Event().wait(0.02)
    reader.join(5)
    assert got == ["text" * 50_000]
    assert stat.S_ISFIFO(pipe.lstat().st_mode)


@posix
@BOTH
def test_a_socket_is_refused(tmp_path: Path, write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(InputError, match="is a socket"):
            write(Path("socket"))


@posix
@pytest.mark.parametrize("to", ["pipe", "file"])
def test_standard_output_is_written_into(tmp_path: Path, to: str) -> None:
    code = (
        "from pathlib import Path; from roofml.util.writing import write_file; print('before'); "
        "write_file(Path('/dev/stdout'), 'text\\n'); print('after')"
    )
    out = tmp_path / "out"
    with out.open("wb") as file:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=file if to == "file" else subprocess.PIPE, check=True, timeout=60
        )
    assert (out.read_bytes() if to == "file" else done.stdout) == b"before\ntext\nafter\n"


@BOTH
def test_an_input_of_the_command_is_no_output(tmp_path: Path, write) -> None:
    path, other = tmp_path / "in", tmp_path / "other"
    path.write_text("input")
    with reading.remembered():
        reading.read_text(path)
        with pytest.raises(InputError, match="in: is an input of this command"):
            write(path)
        write(other)
        write_file(path, "edited", in_place=True)
    write_file(path, "a later command may")


@posix
def test_an_input_is_known_by_what_it_is(tmp_path: Path) -> None:
    path, link = tmp_path / "in", tmp_path / "link"
    path.write_text("input")
    link.symlink_to(path)
    with reading.remembered():
        reading.read_bytes(path)
        with pytest.raises(InputError, match="link: is an input"):
            write_file(link, "text")
    assert path.read_text() == "input"


def test_several_files_are_all_written_or_none(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("old")
    with pytest.raises(InputError):
        write_files({a: "new", b: "new", tmp_path / "nowhere" / "c": "new"})
    assert contents(tmp_path) == {"a": b"old"}
    write_files({a: "new", b: b"raw"})
    assert contents(tmp_path) == {"a": b"new", "b": b"raw"}
    with pytest.raises(InputError, match="is the same file as"):
        write_files({a: "1", tmp_path / "." / "x" / ".." / "a": "2"})
    assert contents(tmp_path) == {"a": b"new", "b": b"raw"}


def test_what_was_replaced_comes_back_where_a_later_file_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    a.write_text("old")
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if target == c:
            raise OSError(errno.EIO, "Input/output error")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(JobFailedError, match="c: cannot be written: Input/output error"):
        write_files({a: "new", b: "new", c: "new"})
    assert contents(tmp_path) == {"a": b"old"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "out"
    path.write_text("old")

    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(JobFailedError, match=f"out: cannot be written: {os.strerror(code)}"):
        write_file(path, "new")
    assert contents(tmp_path) == {"out": b"old"}


def test_text_that_is_no_text_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write_file(tmp_path / "out", "lone surrogate \udc80")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_changed_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("by somebody else")
    for held in (b"as it was", None):
        with pytest.raises(InputError, match="another program changed it meanwhile"):
            write_files({path: "ours"}, expected={path: held})
    write_files({path: "ours"}, expected={path: b"by somebody else"})
    assert contents(tmp_path) == {"out": b"ours"}


@posix
def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from roofml.util import writing
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
writing.write_file(Path({str(tmp_path)!r}) / "out", "half")
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert done.returncode == -9
    left = [path.name for path in tmp_path.iterdir()]
    assert len(left) == 1
    assert left[0].endswith(".tmp")
    ours = tmp_path / f".roofml-{left[0].split('-')[1]}-{os.getpid()}-00.tmp"
    ours.write_text("one that is being written now")
    write_file(tmp_path / "other", "text")
    assert set(contents(tmp_path)) == {"other", ours.name}


def test_an_edit_waits_for_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "count"
    path.write_text("0")

    def add() -> None:
        for _ in range(20):
            with locked(path):
                number = int(reading.read_text(path))
                write_file(path, str(number + 1), in_place=True)

    threads = [threading.Thread(target=add) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents(tmp_path) == {"count": b"100"}


def test_an_edit_that_waits_too_long_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "LONGEST_WAIT_S", 0.1)
    path = tmp_path / "out"
    with locked(path), pytest.raises(JobFailedError, match="out: another roofml has been editing it"), locked(path):
        pass
    assert list(tmp_path.iterdir()) == []


@posix
def test_a_backup_is_as_private_as_what_it_backs_up(tmp_path: Path) -> None:
    path, backup = tmp_path / "out", tmp_path / "out.bak"
    path.write_text("old")
    path.chmod(0o600)
    write_files({backup: "old", path: "new"}, copies={backup: path})
    assert [stat.S_IMODE(file.stat().st_mode) for file in (path, backup)] == [0o600, 0o600]


def test_a_backup_replaces_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out"
    assert free_name(path, b"x").name == "out.bak"
    (tmp_path / "out.bak").write_text("another version")
    if os.name != "nt":
        (tmp_path / "out.bak2").symlink_to("nowhere")
    else:
        (tmp_path / "out.bak2").mkdir()
    assert free_name(path, b"x").name == "out.bak3"
    assert free_name(path, b"another version").name == "out.bak"


def test_temporary_files_are_known_to_who_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[set[str]] = []
    monkeypatch.setattr(os, "fsync", lambda _: known.append({path.name for path in interrupts._temporary}))
    write_file(tmp_path / "out", "text")
    assert [name.endswith(".tmp") for name in known[0]] == [True]
    assert interrupts._temporary == set()
