"""Bytes that are guided by coverage (atheris): for parsers, whose branches random changes of valid text do not find."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

MOST_BYTES = 4000
PARSERS = ("yaml", "json", "yaml-edit", "csv", "otlp", "kernel-table", "hub-listing")


def run_guided(seconds: float, folder: Path) -> int:
    """Guide each parser for so long, in a process of its own. Returns 1 if one failed."""
    if find_spec("atheris") is None:
        print("skipped: atheris is not installed (pip install atheris; it has wheels for some versions of Python)")
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    script = str(Path(__file__).resolve().parents[1] / "fuzz_guided.py")
    failed = 0
    for parser in PARSERS:
        print(f"{parser}: {seconds:g} s", flush=True)
        with tempfile.TemporaryDirectory(prefix="roofml-fuzz-") as scratch:  # the process ends without cleaning up
            command = [sys.executable, script, parser, str(seconds), str(folder)]
            failed |= subprocess.run(command, env={**os.environ, "TMPDIR": scratch}, check=False).returncode != 0
    return int(failed)


def guide(parser: str, seconds: float, folder: Path) -> None:
    """Run one parser in this process, which ends with it."""
    atheris: Any = import_module("atheris")
    with atheris.instrument_imports(include=["roofml", "ruamel"]):
        take, starts = _parser(parser)
    from roofml.util.errors import InputError

    from .target import NonsenseError

    def one(raw: bytes) -> None:
        try:
            take(raw)
        except InputError as error:
            if len(str(error).splitlines()) != 1:
                raise NonsenseError(f"a message of several lines: {error!r}") from error

    with tempfile.TemporaryDirectory() as corpus:
        for number, start in enumerate(starts):
            (Path(corpus) / str(number)).write_bytes(start)
        options = [f"-max_total_time={seconds:.0f}", f"-max_len={MOST_BYTES}", "-timeout=10", "-rss_limit_mb=3000"]
        prefix = f"-artifact_prefix={folder}/{parser}-"
        atheris.Setup([sys.argv[0], *options, prefix, "-verbosity=0", "-print_final_stats=1", corpus], one)
        atheris.Fuzz()


def _parser(name: str) -> tuple[Callable[[bytes], object], list[bytes]]:
    from . import readers, seeds
    from .rendering import as_csv, as_json, as_yaml

    table = as_csv(seeds.trace(2))
    listing = as_json(seeds.hub_listing())
    lines = b"".join(as_json(line).replace(b"\n", b" ") + b"\n" for line in seeds.otlp(2))
    parsers: dict[str, tuple[Callable[[bytes], object], list[bytes]]] = {
        "yaml": (readers.TAKE["yaml"], [as_yaml(seeds.header()), b"a: |\n  b\n- c\n", b"? x\n: [1, {y: 'z'}]\n"]),
        "json": (readers.TAKE["json"], [as_json(seeds.header()), b'[1e5, "\\u00e9", null]']),
        "yaml-edit": (readers.TAKE["defaults-yaml"], [seeds.DEFAULTS.encode(), b"defaults: {}\n"]),
        "csv": (readers.take_trace_table, [table]),
        "otlp": (readers.TAKE["otlp"], [lines]),
        "kernel-table": (
            readers.take_gemm_table,
            [b"\n".join(seeds.kernel_table("gemm.csv").read_bytes().split(b"\n")[:9])],
        ),
        "hub-listing": (readers.take_listing, [listing]),
    }
    return parsers[name]
