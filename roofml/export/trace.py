"""A Run as BLIS TraceV2, with named shared prefixes and true output lengths: one CSV to replay, one to judge by."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
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
    files = TraceFiles(folder / "trace.yaml", folder / "trace.csv", folder / "measured.csv")
    server = run.server
    header = {
        "type": "vllm",
        "model": for_yaml(server.model),
        "tensor_parallel": server.tensor_parallel,
        "max_num_seqs": server.max_num_seqs,
        "block_size": server.block_size,
        "max_model_len": server.max_model_len,
    }
    lines = ["trace_version: 2", "time_unit: us", "mode: real", "warm_up_requests: 0", "server:"]
    lines += [f"  {key}: {value}" for key, value in header.items()]
    rows = _rows(run)
    measured = [row for row, ok in zip(rows, run.ok, strict=True) if ok]
    write_files({files.header: "\n".join(lines) + "\n", files.replay: _csv(rows), files.judge: _csv(measured)})
    return files


def _rows(run: Run) -> list[dict[str, object]]:
    """Return one row a request. BLIS takes `send_time_us` for the arrival if it is positive, else `arrival_time_us`."""
    run = for_blis(run)
    send = np.rint(run.arrival_us).astype(np.int64)
    ok = run.ok & np.isfinite(run.ttft_us) & np.isfinite(run.e2e_us)
    first = np.where(ok, send + np.rint(np.where(ok, run.ttft_us, 0)).astype(np.int64), 0)
    last = np.where(ok, send + np.rint(np.where(ok, run.e2e_us, 0)).astype(np.int64), 0)
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
                "deadline_us": 0,
                "server_input_tokens": int(run.prompt_tokens[i]),
                "arrival_time_us": int(send[i]),
                "send_time_us": int(send[i]),
                "first_chunk_time_us": int(first[i]),
                "last_chunk_time_us": int(last[i]),
                "num_chunks": int(run.output_tokens[i]),
                "status": "ok" if ok[i] else "error",
            }
        )
    return rows


def _csv(rows: list[dict[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
