"""sglang's `bench_serving`: what its lines say, and their traps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clients import Served, vllm_bench

from roofml.traces.aggregate_run import AggregateRun, RefusedRun
from roofml.traces.read import AnyRun, read_all
from roofml.traces.run import Run

INFO = {"model_path": "Qwen/Qwen2.5-3B", "tp_size": 2, "dp_size": 1, "page_size": 1, "max_total_num_tokens": 500_000}
INFO |= {"version": "0.5.5", "disable_radix_cache": True, "max_running_requests": 64, "context_length": 4096}


def line(details: bool = False, **changes: Any) -> dict[str, Any]:
    served = Served()
    wanted = ("input_lens", "output_lens", "ttfts", "itls", "errors", "generated_texts")
    whole = vllm_bench(served)
    kept = {key: value for key, value in whole.items() if not isinstance(value, list) or (details and key in wanted)}
    for key in ("model_id", "num_prompts", "failed", "endpoint_type", "burstiness", "date"):
        kept.pop(key, None)
    kept["mean_e2e_latency_ms"] = kept.pop("mean_e2el_ms")
    return {"backend": "sglang", "dataset_name": "random", "server_info": INFO} | kept | {"backend": "sglang"} | changes


def read(tmp_path: Path, *lines: dict[str, Any]) -> list[AnyRun]:
    path = tmp_path / "bench.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    return list(read_all([path], strict=False, complete=False).every)


def codes(run: AnyRun) -> set[str]:
    return {finding.code for finding in run.findings}


def test_each_line_is_a_run_of_means(tmp_path: Path) -> None:
    runs = read(tmp_path, line(request_rate=4.0), line(request_rate=float("inf"), max_concurrency=8))
    assert [run.name for run in runs] == ["bench", "bench#2"]
    first, second = runs
    assert isinstance(first, AggregateRun)
    assert isinstance(second, AggregateRun)
    assert first.measured["e2e_mean"] == pytest.approx(1e6 * Served().e2e.mean())
    assert second.load.max_concurrency == 8


def test_the_server_says_how_it_was_set(tmp_path: Path) -> None:
    (run,) = read(tmp_path, line())
    assert isinstance(run, AggregateRun)
    server = run.server
    assert (server.engine, server.engine_version, server.model) == ("sglang", "0.5.5", "Qwen/Qwen2.5-3B")
    assert (server.tensor_parallel, server.num_gpu_blocks, server.block_size) == (2, 500_000, 1)
    assert (server.max_num_seqs, server.max_model_len, server.prefix_caching) == (64, 4096, False)


def test_details_of_a_closed_loop_are_requests(tmp_path: Path) -> None:
    served = Served()
    took = float(served.e2e.sum())
    details = line(True, request_rate=float("inf"), max_concurrency=1, duration=took)
    (run,) = read(tmp_path, details)
    assert isinstance(run, Run)
    assert np.allclose(run.e2e_us, 1e6 * served.e2e)
    assert "gaps-divided-evenly" in codes(run)


def test_prefill_and_decode_on_two_servers_are_no_engine(tmp_path: Path) -> None:
    (run,) = read(tmp_path, line(server_info={"prefill": [INFO], "decode": [INFO], "internal_states": [INFO]}))
    assert isinstance(run, RefusedRun)
    assert "different servers" in run.reason
    assert run.to_dict()["mean_tpot_us"] is not None


def test_lengths_that_were_asked_for_are_told(tmp_path: Path) -> None:
    (run,) = read(tmp_path, line(backend="vllm", server_info=None))
    assert isinstance(run, AggregateRun)
    assert run.server.engine == "vllm"
    assert "asked-lengths" in codes(run)


def test_another_engine_is_refused_by_name(tmp_path: Path) -> None:
    (run,) = read(tmp_path, line(backend="lmdeploy"))
    assert isinstance(run, RefusedRun)
    assert "lmdeploy" in run.reason


def test_data_parallelism_is_refused_by_name(tmp_path: Path) -> None:
    (run,) = read(tmp_path, line(server_info=INFO | {"dp_size": 4}))
    assert isinstance(run, RefusedRun)
    assert "data parallelism" in run.reason
