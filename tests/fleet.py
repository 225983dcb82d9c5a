"""A small fleet of made-up runs, the command in a process of its own, and a real Dask cluster beside it."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from runfolder import RunFolder, exp_config, header, row

ROOT = Path(__file__).resolve().parents[1]
LONGEST_S = 400
"""Of one command, on a busy machine."""
SMALL, LARGE = (
    ("meta-llama/Llama-2-7b-hf", 1, 20_000, 8_000),
    ("codellama/CodeLlama-34b-Instruct-hf", 2, 60_000, 15_000),
)
"""Model, tensor parallel size, µs to the first token and of another one: about what these take on an H100."""


def write_run(
    folder: Path,
    served: tuple[str, int, int, int],
    seed: int,
    slower: float = 1.0,
    requests: int = 120,
    shuffled: bool = False,
    **said: Any,
) -> Path:
    """A run of a server whose steps all take the same time; `shuffled`, with latencies that other requests had."""
    model, tp, first_us, step_us = served
    random = np.random.default_rng(seed)
    sends = np.cumsum(random.exponential(1e6 / 8, requests)).astype(int).tolist()
    prompts, outputs = random.integers(200, 900, requests).tolist(), random.integers(20, 120, requests).tolist()
    noise = random.normal(1, 0.02, requests).tolist()
    steps = random.permutation(outputs).tolist() if shuffled else outputs
    rows = [
        row(i, sends[i], ttft := int(first_us * slower), ttft + int(step_us * slower * (n - 1) * noise[i]), p, o)
        | {"model": model}
        for i, (p, o, n) in enumerate(zip(prompts, outputs, steps, strict=True))
    ]
    top = header()
    top["server"] |= {"model": model, "tensor_parallel": tp}
    config = exp_config() | {"model": model, "tensor_parallelism": tp, "gpu": "H100"} | said
    return RunFolder(rows=rows, header=top, exp_config=config).write(folder)


def write_fleet(folder: Path) -> Path:
    """Two deployments with three runs, one that its physics does not describe, and three things that are none."""
    write_run(folder / "chat" / "20260217-a", SMALL, 1)
    write_run(folder / "chat" / "20260218-b", SMALL, 2)
    write_run(folder / "code" / "run", LARGE, 3)
    write_run(folder / "odd" / "run", ("meta-llama/Llama-2-7b-hf", 2, 14_000, 5_000), 4, shuffled=True)
    write_run(folder / "broken" / "unknown-model", ("nobody/Nothing-1b", 1, 20_000, 8_000), 5)
    cut = write_run(folder / "broken" / "cut", SMALL, 6) / "trace.csv"
    cut.write_text("request_id,nothing\n1,2\n")
    (folder / "README.md").write_text("What lies here.\n")
    return folder


def copy_of(run: Path, folder: Path) -> Path:
    """The same recording in another folder."""
    folder.mkdir(parents=True)
    for file in run.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    with (folder / "trace.csv").open(newline="") as file:
        assert len(list(csv.reader(file))) > 1
    return folder


def environment(**more: str) -> dict[str, str]:
    """Of a command: ours, with the package's folder."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH", "")])])
    return {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "default", "NO_COLOR": "1", **more}


def started(*arguments: object, **more: str) -> subprocess.Popen[str]:
    """`roofml catalog fit` with these arguments, in a process group of its own."""
    code = "from roofml.cli.start import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "catalog", "fit", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**more),
        start_new_session=True,
    )


def done(*arguments: object, **more: str) -> dict[str, Any]:
    """The JSON of `roofml catalog fit`, which must succeed."""
    process = started(*arguments, "--json", **more)
    out, err = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 0, err
    return json.loads(out)


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[Any] | None = None) -> None:
    """Until something is so. Fails where the process ends before, or after LONGEST_S."""
    end = time.monotonic() + LONGEST_S
    while not ready():
        assert time.monotonic() < end, "waited in vain"
        assert process is None or process.poll() is None, process.communicate()[1] if process else ""
        time.sleep(0.05)


def kill(process: subprocess.Popen[Any]) -> None:
    """End a process and its group at once."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


def bytes_of(catalog: Path) -> dict[str, bytes]:
    """The files of a catalogue, but for kept results."""
    return {name: content for name, content in files_of(catalog).items() if not name.startswith("work/")}


def files_of(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def kept(catalog: Path) -> int:
    """How many results are kept."""
    return len(list((catalog / "work").rglob("*.json")))


@contextmanager
def scheduler(
    folder: Path, workers: int, **more: str
) -> Generator[tuple[str, subprocess.Popen[str], list[subprocess.Popen[str]]]]:
    """A real `dask scheduler` and workers, each a process: its address, itself, and them."""
    with ExitStack() as stack:
        file = folder / f"scheduler-{time.monotonic_ns()}.json"

        def start(module: str, *arguments: object) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *map(str, arguments)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                text=True,
                cwd=folder,
                env=environment(**more),
                start_new_session=True,
            )
            stack.callback(kill, process)
            return process

        local = ("--host", "127.0.0.1", "--no-dashboard")
        main = start("distributed.cli.dask_scheduler", *local, "--port", 0, "--scheduler-file", file)
        wait_for(file.exists, main)
        address = json.loads(file.read_text())["address"]
        alone = ("--nthreads", 1, "--no-nanny")  # a worker that dies is not replaced
        each = [start("distributed.cli.dask_worker", address, *local, *alone) for _ in range(workers)]
        yield address, main, each


def children(parent: int) -> list[int]:
    """Processes that a process started."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(folder.name))
    return found


def alive(process: int) -> bool:
    """Whether a process runs."""
    try:
        return (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@contextmanager
def store() -> Generator[tuple[str, dict[str, str]]]:
    """A real S3-compatible server on loopback: its address, and the environment in which commands find it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
        start_new_session=True,
    )

    def answers() -> bool:
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(answers, server)
        address = f"http://127.0.0.1:{port}"
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
        yield address, {"AWS_ENDPOINT_URL": address, **keys}
    finally:
        kill(server)


def put(address: str, bucket: str, folder: str, files: dict[str, bytes]) -> None:
    """Write files into a bucket of the store, which is made if it is not there. (It asks nobody who he is.)"""
    for name, content in {"": b"", **{f"/{folder}/{name}": content for name, content in files.items()}}.items():
        plain = {"Content-Type": "application/octet-stream"}
        request = urllib.request.Request(f"{address}/{bucket}{name}", content, plain, method="PUT")
        urllib.request.urlopen(request, timeout=30).close()


def listed(address: str, bucket: str, folder: str) -> list[str]:
    """Names below a folder of a bucket."""
    found = _got(f"{address}/{bucket}?list-type=2&prefix={folder}/").decode()
    return re.findall(rf"<Key>{folder}/([^<]+)</Key>", found)


def fetched(address: str, bucket: str, folder: str) -> dict[str, bytes]:
    """The files below a folder of a bucket."""
    return {name: _got(f"{address}/{bucket}/{folder}/{name}") for name in listed(address, bucket, folder)}


def _got(url: str) -> bytes:
    signed = urllib.request.Request(url, headers={"Authorization": "AWS test:of-anybody"})
    with urllib.request.urlopen(signed, timeout=30) as answer:
        return answer.read()
