"""A Run as BLIS TraceV2, with named shared prefixes and true output lengths: one CSV to replay, one to judge by."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from roofml.blis.replay import for_blis
from roofml.traces.run import Run
from roofml.traces.tracev2 import COLUMNS
from roofml.util.errors import InputError
from roofml.util.outside_text import for_yaml
from roofml.util.reading import is_folder
from roofml.util.writing import write_files


@dataclass(frozen=True)
class TraceFiles:
    """Paths of a written trace."""

    header: Path
    replay: Path
    """Every request. Failed requests are included because they loaded the server."""
    judge: Path
    """The measured requests alone: `blis calibrate` ignores `status`."""


def write_trace(run: Run, folder: Path) -> TraceFiles:
    """Write `run` to `folder` as `trace.yaml`, `trace.csv` and `measured.csv`. Raises InputError if it cannot."""
    if not is_folder(folder):
        raise InputError(f"{folder}: no such folder")
    files = trace_files(folder)
    write_files(trace_texts(run, files))
    return files


def trace_files(folder: Path) -> TraceFiles:
    """Where the files of a trace stand in `folder`."""
    return TraceFiles(folder / "trace.yaml", folder / "trace.csv", folder / "measured.csv")


def trace_texts(run: Run, files: TraceFiles) -> dict[Path, str]:
    """What the files of a trace of `run` hold."""
    server = run.server
    header = {
        "type": for_yaml(server.engine),
        "model": for_yaml(server.model),
        "tensor_parallel": server.tensor_parallel,
        "max_num_seqs": server.max_num_seqs,
        "block_size": server.block_size,
        "max_model_len": server.max_model_len,
    }
    mode = "real" if _is_measured(run) else "generated"
    lines = ["trace_version: 2", "time_unit: us", f"mode: {mode}", f"warm_up_requests: {warm_up(run)}", "server:"]
    lines += [f"  {key}: {value}" for key, value in header.items()]
    rows = _rows(run)
    measured = [row for row, ok in zip(rows, run.ok, strict=True) if ok]
    return {files.header: "\n".join(lines) + "\n", files.replay: _csv(rows), files.judge: _csv(measured)}


def _is_measured(run: Run) -> bool:
    """Whether anything was measured: nothing was of a load that nobody has served."""
    return bool(run.ok.any() or run.late.any())


def warm_up(run: Run) -> int:
    """How many of the lowest request ids are not measured: `blis calibrate` leaves ids below that number out."""
    measured = run.request_id[run.ok]
    first = int(measured.min()) if len(measured) else 0
    return first if np.any(run.request_id < first) else 0


def as_replayed(run: Run) -> Run:
    """The run as its trace has it: `for_blis`, and no shared prefixes where the server cached none."""
    if run.server.prefix_caching:
        return for_blis(run)
    none = np.zeros(len(run), np.int64)
    return replace(run, prefix_group=none - 1, prefix_tokens=none)


def _rows(run: Run) -> list[dict[str, object]]:
    """Return one row a request. BLIS takes `send_time_us` for the arrival if it is positive, else `arrival_time_us`.

    `model` is empty: BLIS then takes the request for its `--model`, and drops one with any other name.
    """
    run = as_replayed(run)
    send = np.rint(run.arrival_us).astype(np.int64)
    ok = run.ok & np.isfinite(run.ttft_us) & np.isfinite(run.e2e_us)
    first = np.where(ok, send + np.rint(np.where(ok, run.ttft_us, 0)).astype(np.int64), 0)
    last = np.where(ok, send + np.rint(np.where(ok, run.e2e_us, 0)).astype(np.int64), 0)
    late = run.late if len(run.late) else np.zeros(len(run), np.bool_)
    given_up = send * 0
    if math.isfinite(run.deadline_us):
        given_up = np.rint(run.arrival_us + run.deadline_us).astype(np.int64)
        last = np.where(late, given_up, last)
    measured = _is_measured(run)
    rows: list[dict[str, object]] = []
    for i in range(len(run)):
        prefix = int(run.prefix_tokens[i]) if run.prefix_group[i] >= 0 else 0
        own = int(run.prompt_tokens[i]) - prefix
        rows.append(
            {
                **dict.fromkeys(COLUMNS, ""),
                "request_id": int(run.request_id[i]),
                "round_index": 0,
                "prefix_group": f"prefix-{run.prefix_group[i]}" if prefix else "",
                "prefix_length": prefix,
                "streaming": "true",
                "input_tokens": own,
                "output_tokens": int(run.output_tokens[i]),
                "text_tokens": own,
                "image_tokens": 0,
                "audio_tokens": 0,
                "video_tokens": 0,
                "reason_ratio": 0,
                "deadline_us": int(given_up[i]),
                "server_input_tokens": int(run.prompt_tokens[i]),
                "arrival_time_us": int(send[i]),
                "send_time_us": int(send[i]),
                "first_chunk_time_us": int(first[i]),
                "last_chunk_time_us": int(last[i]),
                "num_chunks": int(run.output_tokens[i]),
                "status": "ok" if ok[i] or not measured else "timeout" if late[i] else "error",
            }
        )
    return rows


def _csv(rows: list[dict[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
