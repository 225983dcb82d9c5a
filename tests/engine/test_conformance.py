"""The schedule is vLLM's, step by step: held against what the schedulers of three releases did.

The files in data/schedules were recorded with `benchmarks/conformance.py --record` beside each release: workloads
drawn with seeds 71 (40, synchronous), 72 (40, asynchronous), 73 and 74 (30 each, `--more`: other settings, priorities,
clients that give up), and `[tokens, requests]` of every step.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "tests" / "data" / "schedules"
VERSIONS = ("0.15.1", "0.22.0", "0.33.0")


def recorded(name: str) -> list[str]:
    return gzip.decompress((RECORDED / f"{name}.jsonl.gz").read_bytes()).decode().splitlines()


def our_steps(workloads: list[str], *arguments: str) -> list[list[list[int]]]:
    command = [sys.executable, str(ROOT / "benchmarks" / "conformance.py"), "--steps", *arguments]
    done = subprocess.run(command, input="\n".join(workloads), capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_step_is_that_of_the_real_scheduler(version: str) -> None:
    workloads, theirs = recorded("workloads"), [json.loads(line) for line in recorded(version)]
    ours = our_steps(workloads, "--engine-version", version)
    differ = [number for number, pair in enumerate(zip(theirs, ours, strict=True)) if pair[0] != pair[1]]
    assert differ == []
    assert len(theirs) == len(workloads) == 140
    assert sum(map(len, theirs)) > 50_000


def test_a_workload_may_name_its_version() -> None:
    """The versions differ in what was recorded, so each line was served by its own."""
    workloads, theirs = recorded("workloads"), {version: recorded(version) for version in VERSIONS}
    chosen = [place for place in range(len(workloads)) if len({theirs[version][place] for version in VERSIONS}) == 3][
        :4
    ]
    lines = [
        json.dumps({**json.loads(workloads[place]), "engine_version": version})
        for place in chosen
        for version in VERSIONS
    ]
    expected = [json.loads(theirs[version][place]) for place in chosen for version in VERSIONS]
    assert len(chosen) == 4
    assert our_steps(lines) == expected
