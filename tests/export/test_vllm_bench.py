"""A run written as `vllm bench serve` and vLLM would have, and read back; the sample run that every clone has."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from roofml.export.server_log import server_log
from roofml.export.vllm_bench import even_gaps, vllm_bench_json
from roofml.latency.server_defaults import graph_sizes
from roofml.traces.engine_version import parse_version
from roofml.traces.read import read_runs
from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.traces.server_files import vllm_log
from roofml.traces.settings import SchedulerSettings
from roofml.util.package_data import data_folder

SERVER = Server("acme/Model-7B", 2, 64, 2048, 16, 9521, 4096, gpu="H100", engine_version="0.15.1", prefix_caching=False)


def made_up(requests: int = 60) -> Run:
    rng = np.random.default_rng(1)
    output = rng.integers(1, 40, requests)
    ttft = np.round(rng.uniform(2e4, 5e4, requests))
    ok = np.ones(requests, np.bool_)
    ok[7] = False
    e2e = np.where(ok, ttft + 9_000.0 * (output - 1), np.nan)
    return Run(
        name="made up",
        server=SERVER,
        request_id=np.arange(requests),
        arrival_us=np.round(np.cumsum(rng.exponential(1e5, requests))),
        prompt_tokens=rng.integers(50, 900, requests),
        output_tokens=output,
        prefix_group=np.full(requests, -1),
        prefix_tokens=np.zeros(requests, np.int64),
        ttft_us=np.where(ok, ttft, np.nan),
        e2e_us=e2e,
        ok=ok,
    )


def sizes(server: Server) -> tuple[int, ...]:
    release = parse_version(server.engine_version or "", "test")
    return graph_sizes(server.max_num_seqs, server.max_num_batched_tokens, release, SchedulerSettings())


def write(folder: Path, run: Run, device: str = "NVIDIA H100 80GB HBM3, 81559 MiB, 1") -> Path:
    folder.mkdir()
    (folder / "bench.json").write_text(vllm_bench_json(run))
    (folder / "server.log").write_text(server_log(run.server, sizes(run.server), device=device))
    return folder


def test_a_run_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    run = made_up()
    (read,) = read_runs([write(tmp_path / "run", run)])
    told = read.to_dict()
    assert (told["requests"], told["completed"]) == (60, 59)
    assert told["mean_ttft_us"] == pytest.approx(np.nanmean(run.ttft_us), rel=2e-5)
    assert told["mean_e2e_us"] == pytest.approx(np.nanmean(run.e2e_us), rel=2e-5)
    assert told["mean_tpot_us"] == pytest.approx(9_000.0, rel=1e-6)
    kept = np.isin(run.request_id, read.request_id[read.ok])
    assert np.array_equal(read.output_tokens[read.ok], run.output_tokens[kept])
    assert np.allclose(
        np.diff(read.arrival_us), np.diff(run.arrival_us[np.isin(run.request_id, read.request_id)]), atol=2
    )


def test_the_log_says_the_server(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    for server in (SERVER, replace(SERVER, max_model_len=4100, prefix_caching=True, async_scheduling=False)):
        path.write_text(server_log(server, sizes(server), device="NVIDIA L4, 23034 MiB"))
        said = vllm_log.facts(path)
        same = ("model", "tensor_parallel", "max_num_seqs", "max_num_batched_tokens", "block_size", "num_gpu_blocks")
        same += ("max_model_len", "prefix_caching", "async_scheduling", "engine_version")
        assert {name: said.facts[name] for name in same} == {name: getattr(server, name) for name in same}
        assert said.facts["cudagraph_capture_sizes"] == list(sizes(server))
        assert said.facts["gpu"] == "L4"


def test_gaps_add_up_to_the_time_of_decoding() -> None:
    run = made_up()
    total = np.array([gap.sum() for gap in even_gaps(run)])
    assert np.allclose(total[run.ok], (run.e2e_us - run.ttft_us)[run.ok])


def test_failures_are_zeros_and_all_failed_is_a_file_too() -> None:
    document = json.loads(vllm_bench_json(made_up()))
    assert (document["output_lens"][7], document["ttfts"][7], document["itls"][7]) == (0, 0.0, [])
    assert (document["completed"], document["failed"]) == (59, 1)
    run = made_up(8)
    none = json.loads(vllm_bench_json(replace(run, ok=np.zeros(8, np.bool_))))
    assert (none["completed"], none["mean_ttft_ms"], none["total_output_tokens"]) == (0, 0.0, 0)


def test_a_closed_loop_is_written_as_one() -> None:
    document = json.loads(vllm_bench_json(replace(made_up(), clients=4)))
    assert (document["request_rate"], document["max_concurrency"]) == ("inf", 4)


def test_the_sample_run_needs_no_flags() -> None:
    (run,) = read_runs([data_folder("sample_run")])
    assert len(run) == 800
    assert not run.server.missing
    assert (run.server.model, run.server.engine_version) == ("meta-llama/Llama-3.1-8B-Instruct", "0.15.1")
    assert run.server.gpu is not None
    assert not [finding for finding in run.findings if finding.severity in ("error", "warning")]
    assert sum(path.stat().st_size for path in data_folder("sample_run").iterdir()) < 300_000
