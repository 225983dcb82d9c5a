"""A run spoiled in 33 ways, each fitted: refused by the reader or the judge, or mended, and with what reason.

    python benchmarks/spoiled_runs.py RUN [--gpu H100] [--requests 1500] [--only WORD]

RUN is a folder in the TraceV2 format whose fit is good. Exits with 1 where a spoiled run is fitted without a word.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from roofml.calibration.calibrate import fit
from roofml.traces.read import read_runs
from roofml.traces.server import ServerOverrides
from roofml.util.errors import InputError

Rows = list[dict[str, str]]
Times = tuple[str, str]
SENT: Times = ("arrival_time_us", "send_time_us")
CHUNKS: Times = ("first_chunk_time_us", "last_chunk_time_us")


def change(rows: Rows, columns: Times, new: Callable[[int, int], float]) -> Rows:
    """Every time in `columns` as `new(row, time)` has it, at least 1."""
    for number, row in enumerate(rows):
        for column in columns:
            row[column] = str(max(0, round(new(number, int(row[column])))))
    return rows


def latencies(rows: Rows, new: Callable[[int, int], float]) -> Rows:
    """Chunk times at `new(row, µs since the request was sent)` after it."""
    for number, row in enumerate(rows):
        sent = int(row["send_time_us"])
        for column in CHUNKS:
            row[column] = str(sent + max(1, round(new(number, int(row[column]) - sent))))
    return rows


def shuffled(rows: Rows, *columns: str) -> Rows:
    """The values of `columns` of another request; chunk times keep their distance from the send."""
    order: list[int] = np.random.default_rng(0).permutation(len(rows)).tolist()
    if columns == CHUNKS:
        apart = [[int(row[column]) - int(row["send_time_us"]) for column in CHUNKS] for row in rows]
        for row, other in zip(rows, order, strict=True):
            for column, distance in zip(CHUNKS, apart[other], strict=True):
                row[column] = str(int(row["send_time_us"]) + distance)
        return rows
    values = [[row[column] for column in columns] for row in rows]
    for row, other in zip(rows, order, strict=True):
        row.update(zip(columns, values[other], strict=True))
    return rows


def one(rows: Rows, column: str, new: Callable[[dict[str, str]], int]) -> Rows:
    """One row in the middle with another value."""
    row = rows[len(rows) // 2]
    row[column] = str(new(row))
    return rows


def reversed_arrivals(rows: Rows) -> Rows:
    """The pauses between requests in the opposite order."""
    sent = [int(row["send_time_us"]) for row in rows]
    for row, new in zip(rows, [sent[-1] - time for time in reversed(sent)], strict=True):
        distance = new - int(row["send_time_us"])
        for column in (*SENT, *CHUNKS):
            row[column] = str(int(row[column]) + distance)
    return rows


def random_counts(rows: Rows) -> Rows:
    """Output counts that have nothing to do with what was made."""
    rng = np.random.default_rng(0)
    for row in rows:
        row["output_tokens"] = str(int(rng.integers(20, 900)))
    return rows


ALL = (*SENT, *CHUNKS)
Spoil = tuple[str, Callable[[Rows], Rows] | None, dict[str, Any]]


def kinds(tp: int) -> list[Spoil]:
    """What is done to the rows, and what is said of the server."""

    def times(factor: float) -> Callable[[Rows], Rows]:
        return lambda rows: change(rows, ALL, lambda _, time: time * factor)  # pyright: ignore[reportArgumentType]

    def waits(factor: float) -> Callable[[Rows], Rows]:
        return lambda rows: latencies(rows, lambda _, us: us * factor)

    half = 750
    return [
        ("unit: all times in ms", times(1e-3), {}),
        ("unit: all times in ns", times(1e3), {}),
        ("unit: all times in s", times(1e-6), {}),
        ("unit: latencies in ms", waits(1e-3), {}),
        ("unit: latencies in ns", waits(1e3), {}),
        ("unit: latencies ten times", waits(10.0), {}),
        ("unit: decodes of 1 µs", lambda rows: [r | {CHUNKS[1]: str(int(r[CHUNKS[0]]) + 250)} for r in rows], {}),
        ("limit: max_num_seqs 8", None, {"max_num_seqs": 8}),
        ("limit: max_num_seqs 1", None, {"max_num_seqs": 1}),
        ("limit: 120 KV blocks", None, {"num_gpu_blocks": 120}),
        ("limit: 64 new tokens a step, cache off", None, {"max_num_batched_tokens": 64, "prefix_caching": False}),
        ("model: llama-2-7b", None, {"model": "llama-2-7b-hf"}),
        ("model: llama-2-70b", None, {"model": "llama-2-70b-hf"}),
        ("model: qwen3-4b", None, {"model": "qwen3-4b"}),
        ("GPU: A100-SXM", None, {"gpu": "A100-SXM"}),
        ("GPU: L40S", None, {"gpu": "L40S"}),
        ("GPU: B200", None, {"gpu": "B200"}),
        ("GPU: GB200", None, {"gpu": "GB200"}),
        ("GPU: twice as many", None, {"tensor_parallel": 2 * tp}),
        ("GPU: half as many, or four times", None, {"tensor_parallel": tp // 2 if tp > 1 else 4}),
        ("clock: chunks 5 s late", lambda rows: latencies(rows, lambda _, us: us + 5e6), {}),
        ("clock: chunks 25 ms early", lambda rows: latencies(rows, lambda _, us: us - 25e3), {}),
        ("clock: 100 s ahead from the middle", lambda rows: latencies(rows, lambda i, us: us + 1e8 * (i > half)), {}),
        (
            "clock: an hour behind from the middle",
            lambda rows: latencies(rows, lambda i, us: us - 3.6e9 * (i > half)),
            {},
        ),
        ("clock: all sent at once", lambda rows: change(rows, SENT, lambda _, time: 0 * time), {}),
        ("shuffled: latencies", lambda rows: shuffled(rows, *CHUNKS), {}),
        ("shuffled: pauses reversed", reversed_arrivals, {}),
        ("shuffled: random output counts", random_counts, {}),
        (
            "one row: last chunk in 40 days",
            lambda r: one(r, CHUNKS[1], lambda row: int(row[CHUNKS[0]]) + 3_456_000_000_000),
            {},
        ),
        ("one row: no time between chunks", lambda r: one(r, CHUNKS[1], lambda row: int(row[CHUNKS[0]]) + 1), {}),
        (
            "one row: last chunk before the first",
            lambda r: one(r, CHUNKS[1], lambda row: int(row[CHUNKS[0]]) - 1000),
            {},
        ),
        (
            "one row: first chunk before the send",
            lambda r: one(r, CHUNKS[0], lambda row: int(row["send_time_us"]) - 5),
            {},
        ),
        ("one row: sent a year before", lambda r: one(r, "send_time_us", lambda row: 1), {}),
    ]


def spoiled(run: Path, folder: Path, spoil: Callable[[Rows], Rows] | None, most: int) -> Path:
    """A copy of the first `most` requests of `run`, spoiled."""
    shutil.copytree(run, folder)
    with (folder / "trace.csv").open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows, names = list(reader)[:most], list(reader.fieldnames or ())
    rows = rows if spoil is None else spoil(rows)
    with (folder / "trace.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return folder


def verdict(path: Path, server: dict[str, Any], usual: set[str]) -> tuple[str, str]:
    """What becomes of a fit of the run: refused, judged a misfit, mended or fitted; and why.

    `usual` are the findings that the run has as it is: more are added to it.
    """
    try:
        runs = read_runs([path], ServerOverrides(**server))
        calibration = fit(runs)
    except InputError as error:
        return "refused", str(error).replace(f"{path}/", "").replace(str(path), "run")
    if calibration.misfit:
        return "misfit", "; ".join(calibration.misfit)
    findings = [finding for finding in runs[0].findings if finding.severity in ("corrected", "warning")]
    mended = [finding.summary for finding in findings if usual and finding.summary not in usual]
    if not usual:
        usual.update(finding.summary for finding in findings)
    errors = ", ".join(f"{kind} {error:+.2f} %" for kind, error in calibration.runs[0].error_pct.items())
    if mended:
        return "mended", f"{' '.join(mended)} ({errors})"
    return "FITTED", errors


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("run", type=Path)
    parser.add_argument("--gpu", default="H100")
    parser.add_argument("--requests", type=int, default=1500)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    tp = read_runs([arguments.run])[0].server.tensor_parallel
    silent, usual = 0, set[str]()
    print("| spoiled | verdict | reason |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        good: Spoil = ("nothing", None, {})
        for number, (name, spoil, server) in enumerate([good, *kinds(tp)]):
            if name == "nothing" or arguments.only in name:
                path = spoiled(arguments.run, Path(folder) / str(number) / "run", spoil, arguments.requests)
                what, why = verdict(path, {"gpu": arguments.gpu, **server}, usual)
                silent += what == "FITTED" and name != "nothing"
                print(f"| {name} | {what} | {why} |", flush=True)
    print(f"\nfitted without a word: {silent}")
    return 1 if silent else 0


if __name__ == "__main__":
    raise SystemExit(main())
