"""What stands where a trace should: one clear refusal at once, whatever kind of thing it is, and nothing left out."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from quickness import quickly
from runfolder import RunFolder, inference_perf, requests

from roofml.traces.read import read_run, read_runs
from roofml.traces.steps import is_steps, read_steps
from roofml.util.errors import InputError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="FIFOs, devices and sparse files are POSIX's")

FILES = ("trace.csv", "trace.yaml", "exp-config.yaml", "kv-cache.yaml", "inference-perf.yaml")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def gigabytes(path: Path) -> None:
    """Of zeros, which take no room on the disk."""
    with path.open("wb") as file:
        file.truncate(3_000_000_000)


def less_gigabytes(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1_900_000_000)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def broken_link(path: Path) -> None:
    path.symlink_to("nowhere")


def folder(path: Path) -> None:
    path.mkdir()


def unix_socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(before)


KINDS: dict[str, tuple[Callable[[Path], None], str]] = {
    "fifo": (fifo, "is a FIFO"),
    "dev-zero": (zeros, "is a device"),
    "gigabytes": (gigabytes, "3000000000 bytes"),
    "link-loop": (loop, "cannot be read: Too many levels"),
    "broken-link": (broken_link, "no such file"),
    "folder": (folder, "is a folder"),
    "socket": (unix_socket, ""),
}


def refused(job: Callable[[], object]) -> str:
    with quickly(2), pytest.raises(InputError) as caught:
        job()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FILES)
def test_in_a_run_folder_it_is_refused_and_never_left_out(tmp_path: Path, name: str, kind: str) -> None:
    run = RunFolder(rows=requests(5), inference_perf=inference_perf()).write(tmp_path / "run")
    (run / name).unlink()
    make, message = KINDS[kind]
    make(run / name)
    said = refused(lambda: read_run(run))
    assert said.startswith(f"{run / name}: ")
    assert message in said


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["trace.csv", "trace.yaml", "run", "steps.parquet", "steps.jsonl"])
def test_as_a_run_or_a_table_it_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    make, message = KINDS[kind]
    make(path)
    said = refused(lambda: read_runs([path]))
    assert said.startswith(f"{path}: ")
    assert message in said or (kind == "folder" and "not a run" in said)
    assert message in refused(lambda: read_steps(path))


@pytest.mark.parametrize("name", ["trace.csv", "trace.yaml"])
def test_a_sparse_file_below_the_limit_is_refused_at_its_start(tmp_path: Path, name: str) -> None:
    run = RunFolder(rows=requests(5)).write(tmp_path / "run")
    less_gigabytes(run / name)
    assert refused(lambda: read_run(run)).startswith(f"{run / name}: ")
    with (run / name).open("r+b") as file:
        file.write(b"request_id,client_id\n")
    assert refused(lambda: read_run(run)).startswith(f"{run / name}: ")


@pytest.mark.parametrize("name", ["x" * 5000, "y/" * 2500 + "y", "nul\0", "loop", "loop/inside", "trace.csv/inside"])
def test_names_that_cannot_be_looked_up(tmp_path: Path, name: str) -> None:
    loop(tmp_path / "loop")
    (tmp_path / "trace.csv").write_text("x")
    path = tmp_path / name
    assert refused(lambda: read_runs([path])).startswith(str(path))
    assert refused(lambda: read_steps(path)).startswith(str(path))
    try:
        assert not is_steps(path)
    except InputError as error:
        assert str(error).startswith(str(path))  # noqa: PT017  # either answer is one


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path, name: str) -> None:
    run = RunFolder(rows=requests(5), inference_perf=inference_perf()).write(tmp_path / "run")
    (run / name).chmod(0)
    assert "Permission denied" in refused(lambda: read_run(run))


def test_links_to_good_files_are_followed(tmp_path: Path) -> None:
    run = RunFolder(rows=requests(5)).write(tmp_path / "run")
    (tmp_path / "link").symlink_to(run)
    (run / "trace.csv").rename(tmp_path / "elsewhere")
    (run / "trace.csv").symlink_to(tmp_path / "elsewhere")
    assert len(read_run(tmp_path / "link")) == 5
