"""BLIS's ground truth: two files of a run, joined, and what lies around them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clients import MODEL, Served, write
from runfolder import exp_config, inference_perf

from roofml.traces.aggregate_run import RefusedRun
from roofml.traces.read import AnyRun, read_all
from roofml.traces.run import Run
from roofml.util.errors import InputError


def repository(folder: Path, served: Served, around: bool = True, **changes: Any) -> Path:
    """Both files of a run `r1`, and with `around` the settings of server and generator where they belong."""
    config = {"tensor_parallelism": 1, "max_num_seqs": 128, "max_num_batched_tokens": 2048}
    config |= {"kv_blocks_total_gpu": 7462, "block_size": 16}
    arrivals = np.rint(1e6 * (served.start - served.start[0])).astype(int).tolist()
    rows = [
        {"index": i, "arrival_time_us": arrivals[i], "input_tokens": int(served.prompt[i])}
        | {"output_tokens": int(served.output[i]), "prefix_group": "", "has_error": False}
        for i in range(len(served))
    ]
    truth: list[dict[str, Any]] = [
        {"index": i, "has_error": False, "e2e_s": float(served.e2e[i]), "ttft_s": float(served.ttft[i])}
        for i in range(len(served))
    ]
    document = {"experiment": "r1", "model_id": MODEL, "config": config, "requests": rows} | changes.get("load", {})
    data = folder / "replay_data"
    data.mkdir(parents=True)
    write(data / "r1.json", document)
    write(data / "r1_ground_truth.json", changes.get("truth", lambda rows: rows)(truth))
    if around:
        results = folder / "default_args" / "r1" / "results"
        results.mkdir(parents=True)
        (results.parent / "exp-config.yaml").write_text(json.dumps(exp_config()))
        (results / "config.yaml").write_text(json.dumps(inference_perf(20, 100)))
    return folder


def one(path: Path) -> AnyRun:
    (run,) = read_all([path], strict=False, complete=False).every
    return run


@pytest.mark.parametrize("place", ["", "replay_data", "replay_data/r1.json", "replay_data/r1_ground_truth.json"])
def test_the_run_is_found_from_any_of_its_places(tmp_path: Path, place: str) -> None:
    served = Served()
    run = one(repository(tmp_path / "repository", served) / place)
    assert isinstance(run, Run)
    assert np.allclose(run.e2e_us, 1e6 * served.e2e)
    assert np.allclose(run.arrival_us, 1e6 * (served.start - served.start[0]), atol=1)
    server = run.server
    assert (server.model, server.tensor_parallel, server.num_gpu_blocks, server.max_model_len) == (MODEL, 1, 7462, 4096)
    assert server.missing == ()
    assert run.to_dict()["missing"] == ["gpu", "engine_version"]


def test_rows_are_joined_by_index_whatever_their_order(tmp_path: Path) -> None:
    served = Served()
    run = one(repository(tmp_path / "repository", served, truth=lambda rows: rows[::-1]))
    assert isinstance(run, Run)
    assert np.allclose(run.e2e_us, 1e6 * served.e2e)


def test_failures_have_no_truth(tmp_path: Path) -> None:
    def without(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        rows[3] = {"index": 3, "has_error": True, "e2e_s": None, "ttft_s": None}
        return [row for row in rows if row["index"] != 5]

    run = one(repository(tmp_path / "repository", Served(), truth=without))
    told = run.to_dict()
    assert (told["requests"], told["completed"]) == (60, 58)
    assert {"failed-requests", "rows-not-joined"} <= {finding["code"] for finding in told["findings"]}


def test_counts_of_a_tokenizer_are_told_where_nobody_says_what_was_asked(tmp_path: Path) -> None:
    run = one(repository(tmp_path / "repository", Served(), around=False))
    assert "retokenized" in {finding.code for finding in run.findings}


def test_all_failed_is_refused(tmp_path: Path) -> None:
    def nothing(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"index": row["index"], "has_error": True} for row in rows]

    run = one(repository(tmp_path / "repository", Served(), truth=nothing))
    assert isinstance(run, RefusedRun)
    assert "60 requests failed" in run.reason


def test_an_index_given_twice_is_refused(tmp_path: Path) -> None:
    path = repository(tmp_path / "repository", Served(), truth=lambda rows: [*rows, rows[3]])
    with pytest.raises(InputError, match=r"r1_ground_truth\.json: index 3 is there 2 times"):
        one(path)


def test_without_its_truth_it_names_the_file_that_is_missing(tmp_path: Path) -> None:
    path = repository(tmp_path / "repository", Served())
    (path / "replay_data" / "r1_ground_truth.json").unlink()
    with pytest.raises(InputError, match=r"r1_ground_truth\.json: no such file"):
        one(path)
