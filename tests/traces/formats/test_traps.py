"""The traps of each format: named, and mended, left out or told, each on a small made-up file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from client_files import (
    Client,
    aiperf,
    client,
    guidellm,
    guidellm_old,
    inference_perf,
    llmperf,
    llmservingsim,
    otel_spans,
)

from roofml.traces.formats import aiperf as aiperf_reader
from roofml.traces.formats import guidellm as guidellm_reader
from roofml.traces.formats import inference_perf as inference_perf_reader
from roofml.traces.formats import llmperf as llmperf_reader
from roofml.traces.formats import llmservingsim as llmservingsim_reader
from roofml.traces.formats import otel_spans as otel_reader
from roofml.traces.read import read_all
from roofml.traces.recording import Recording, Requests
from roofml.traces.steps import is_steps
from roofml.util.errors import InputError


def codes(recording: Recording) -> dict[str, str]:
    return {finding.code: finding.severity for finding in recording.findings}


def each_of(recording: Recording) -> Requests:
    assert recording.each is not None
    return recording.each


def one(reader: Any, path: Path, content: bytes) -> Recording:
    path.write_bytes(content)
    (recording,) = reader.read(path)
    return recording


def edited(content: bytes, edit: Callable[[Any], None]) -> bytes:
    document = json.loads(content)
    edit(document)
    return json.dumps(document).encode()


# GuideLLM


def guide(tmp_path: Path, content: bytes, edit: Callable[[Any], None] | None = None) -> Recording:
    """With `edit` of the first benchmark."""
    changed = edited(content, lambda document: edit(document["benchmarks"][0])) if edit is not None else content
    return one(guidellm_reader, tmp_path / "benchmarks.json", changed)


def test_guidellm_counts_of_requests_that_were_cut_off_are_what_was_asked_for(tmp_path: Path) -> None:
    recording = guide(tmp_path, guidellm_old(client(failed=(3, 4))))
    assert codes(recording)["asked-for-counts"] == "corrected"
    assert each_of(recording).output_tokens[[3, 4]].tolist() == [0, 0]


def test_guidellm_requests_that_were_never_sent_are_no_load(tmp_path: Path) -> None:
    def cancel(benchmark: Any) -> None:
        for request in benchmark["requests"]["errored"]:
            request["info"]["timings"]["request_start"] = None

    recording = guide(tmp_path, guidellm(client(failed=(3, 4))), cancel)
    assert (recording.requests, codes(recording)["never-sent"]) == (38, "info")


def test_guidellm_warm_up_is_in_the_lists_and_not_measured(tmp_path: Path) -> None:
    run = client()
    start = 1_790_000_000.0 + run.send_s[9] - 1e-4

    def warm(benchmark: Any) -> None:
        benchmark |= {"warmup_duration": 2.0, "scheduler_metrics": {"measure_start_time": start}}

    warm_up = each_of(guide(tmp_path, guidellm(run), warm)).warm_up
    assert warm_up.tolist() == [True] * 9 + [False] * 31
    assert not len(each_of(guide(tmp_path, guidellm(run))).warm_up)


def test_guidellm_lists_that_are_a_sample_cannot_be_fitted_on(tmp_path: Path) -> None:
    totals = {"successful": 499, "errored": 1, "incomplete": 0, "total": 500}
    recording = guide(tmp_path, guidellm(client()), lambda it: it["metrics"].update(request_totals=totals))
    assert codes(recording)["sampled-requests"] == "warning"
    assert recording.unfit == "its lists hold 40 of 500 requests: the load of the others is not known"
    assert (recording.requests, recording.completed) == (40, 39)


def test_guidellm_metrics_without_lists_are_aggregates_whose_tpot_is_weighted(tmp_path: Path) -> None:
    def bare(benchmark: Any) -> None:
        benchmark["requests"] = {"successful": [], "incomplete": [], "errored": []}
        benchmark["metrics"] = {
            name: {"successful": {"mean": mean, "median": mean, "count": 500, "percentiles": {"p99": 2 * mean}}}
            for name, mean in (
                ("time_to_first_token_ms", 50.0),
                ("inter_token_latency_ms", 10.0),
                ("time_per_output_token_ms", 99.0),
                ("request_latency", 1.5),
                ("prompt_token_count", 300.0),
                ("output_token_count", 120.0),
            )
        }
        benchmark["metrics"]["request_totals"] = {"successful": 500, "errored": 2, "incomplete": 1, "total": 503}

    recording = guide(tmp_path, guidellm(client()), bare)
    assert recording.each is None
    assert (recording.requests, recording.completed) == (503, 500)
    assert recording.aggregates["ttft_mean"] == 50_000
    assert recording.aggregates["tpot_mean"] == 10_000
    assert recording.aggregates["e2e_p99"] == 3_000_000
    assert recording.load.output_tokens == 120
    assert codes(recording)["weighted-tpot"] == "warning"


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ({"type_": "synchronous", "max_concurrency": 1}, (1, np.inf, None)),
        ({"type_": "concurrent", "streams": 8, "max_concurrency": 8}, (8, np.inf, None)),
        ({"type_": "throughput", "max_concurrency": 512}, (512, np.inf, None)),
        ({"type_": "constant", "rate": 2.0, "max_concurrency": 10240}, (None, 2.0, np.inf)),
        ({"type_": "poisson", "rate": 2.0}, (None, 2.0, 1.0)),
    ],
)
def test_guidellm_says_its_load(tmp_path: Path, strategy: dict[str, Any], expected: tuple[Any, ...]) -> None:
    recording = guide(tmp_path, guidellm(client()), lambda it: it["config"].update(strategy=strategy))
    load = recording.load
    assert (load.max_concurrency, load.requests_per_s, load.burstiness) == expected


@pytest.mark.parametrize(
    ("target", "platform", "told"),
    [
        ("https://x--y.modal.run", "Linux", True),
        ("http://8.8.8.8:8000", "Linux", True),
        ("http://localhost:8000", "macOS-26", False),
        ("http://10.0.0.7:8000", "Linux", False),
        ("http://10.0.0.7:8000", "macOS-26", True),
        ("http://vllm.ns.svc.cluster.local:8000", "Linux", False),
        ("http://vllm:8000", "Linux", False),
    ],
)
def test_a_client_far_from_its_server_is_told(tmp_path: Path, target: str, platform: str, told: bool) -> None:
    def move(document: Any) -> None:
        document["metadata"]["platform"] = platform
        document["benchmarks"][0]["config"]["backend"] = {"target": target, "model": "m"}

    recording = one(guidellm_reader, tmp_path / "b.json", edited(guidellm(client()), move))
    assert ("remote-client" in codes(recording)) == told
    assert recording.hints == {"b.json": {"model": "m"}}


def test_a_client_that_fell_behind_its_plan_is_told(tmp_path: Path) -> None:
    def delay(benchmark: Any) -> None:
        for request in benchmark["requests"]["successful"]:
            request["info"]["timings"]["targeted_start"] -= 0.3

    assert codes(guide(tmp_path, guidellm(client()), delay))["client-queue"] == "warning"
    assert "client-queue" not in codes(guide(tmp_path, guidellm(client())))


def test_prompts_of_a_seed_and_cached_tokens_are_told(tmp_path: Path) -> None:
    recording = guide(tmp_path, guidellm(client(), 2))
    assert codes(recording)["seeded-prompts"] == "info"
    assert (each_of(recording).cached_tokens == 16).all()


def test_guidellm_counts_by_the_client_are_the_clients(tmp_path: Path) -> None:
    recording = guide(tmp_path, guidellm(client()), lambda it: it["config"].update(prefer_response_metrics=False))
    assert not each_of(recording).server_input_tokens.any()
    assert each_of(recording).input_tokens.all()


def test_chunks_of_several_tokens_are_told(tmp_path: Path) -> None:
    def bundle(benchmark: Any) -> None:
        for request in benchmark["requests"]["successful"]:
            request["info"]["timings"]["token_iterations"] //= 2

    assert codes(guide(tmp_path, guidellm(client()), bundle))["bundled-chunks"] == "warning"


def test_several_benchmarks_are_several_runs(tmp_path: Path) -> None:
    document = json.loads(guidellm(client()))
    document["benchmarks"].append(json.loads(guidellm(client(20)))["benchmarks"][0])
    path = tmp_path / "benchmarks.json"
    path.write_text(json.dumps(document))
    assert [run.requests for run in guidellm_reader.read(path)] == [40, 20]


# inference-perf


@pytest.mark.parametrize("layout", ["0.2", "0.3", "0.5", "0.6"])
def test_prompts_that_are_sent_over_and_over_are_known(tmp_path: Path, layout: str) -> None:
    each = each_of(one(inference_perf_reader, tmp_path / "r.json", inference_perf(client(), layout)))
    assert len(set(each.prompt.tolist())) == 12
    assert (each.prompt[:28] == each.prompt[12:]).all()


def test_two_times_a_token_are_told(tmp_path: Path) -> None:
    recording = one(inference_perf_reader, tmp_path / "r.json", inference_perf(client(), "0.2"))
    assert codes(recording)["half-token-times"] == "corrected"
    assert "half-token-times" not in codes(
        one(inference_perf_reader, tmp_path / "r.json", inference_perf(client(), "0.3"))
    )


def test_forced_lengths_win_over_what_the_client_counted(tmp_path: Path) -> None:
    def miscount(entries: Any) -> None:
        for entry in entries:
            if entry["error"] is None:
                entry["info"]["output_tokens"] -= 3

    content = edited(inference_perf(client(output=40), "0.3"), miscount)
    recording = one(inference_perf_reader, tmp_path / "r.json", content)
    assert codes(recording)["forced-lengths"] == "corrected"
    assert (each_of(recording).output_tokens[each_of(recording).ok] == 40).all()
    assert recording.generator is not None
    assert (recording.generator.ignore_eos, recording.generator.output_tokens) == (True, 40)


def test_counts_that_nothing_confirms_are_told(tmp_path: Path) -> None:
    content = inference_perf(client(), "0.3").replace(b'\\"ignore_eos\\": true', b'\\"ignore_eos\\": false')
    assert codes(one(inference_perf_reader, tmp_path / "r.json", content))["retokenized-lengths"] == "warning"
    content = inference_perf(client(), "0.6").replace(b'\\"ignore_eos\\": true', b'\\"ignore_eos\\": false')
    assert "retokenized-lengths" not in codes(one(inference_perf_reader, tmp_path / "r.json", content))


def config(folder: Path, **load: Any) -> None:
    shared = {"num_unique_system_prompts": 3, "num_users_per_system_prompt": 4, "output_len": 64}
    stages = [{"rate": 4.0, "duration": 5}, {"rate": 8.0, "duration": 2}]
    settings = {
        "data": {"type": "shared_prefix", "shared_prefix": shared | {"system_prompt_len": 20}},
        "load": {"type": "poisson", "stages": stages, "num_workers": 1, "worker_max_concurrency": 4} | load,
        "server": {"model_name": "mock", "ignore_eos": True},
    }
    (folder / "config.yaml").write_text(json.dumps(settings))  # JSON is YAML


def test_the_configuration_beside_it_says_prompts_load_and_model(tmp_path: Path) -> None:
    config(tmp_path)
    recording = one(inference_perf_reader, tmp_path / "per_request.json", inference_perf(client()))
    assert recording.generator is not None
    assert (recording.generator.prompts, recording.generator.prompts_per_group) == (12, 4)
    assert recording.hints == {"config.yaml": {"model": "mock"}}
    assert (recording.load.requests_per_s, recording.load.burstiness) == (None, 1.0)


@pytest.mark.parametrize(("limit", "told"), [(3, True), (400, False)])
def test_a_client_that_held_all_it_may_is_told(tmp_path: Path, limit: int, told: bool) -> None:
    config(tmp_path, worker_max_concurrency=limit)
    run = client(60, ())
    run = replace(run, send_s=np.linspace(0, 1, 60))
    recording = one(inference_perf_reader, tmp_path / "per_request.json", inference_perf(run))
    assert ("client-limit" in codes(recording)) == told


def stage(tpot: float = 0.01, **more: Any) -> dict[str, Any]:
    """A stage of 100 requests that made 64 tokens in fact: 50 ms and 63 times 10 ms."""
    latency = {
        "request_latency": {"mean": 0.68, "median": 0.67, "p99": 0.9},
        "time_to_first_token": {"mean": 0.05, "median": 0.04, "p99": 0.2},
        "time_per_output_token": {"mean": tpot},
    }
    successes = {"count": 99, "latency": latency, "throughput": {"requests_per_sec": 3.9}}
    successes |= {"prompt_len": {"mean": 200.0}, "output_len": {"mean": 64.0}}
    load = {"count": 100, "schedule_delay": {"mean": 0.001}, "send_duration": 25.0}
    load |= {"requested_rate": 4.0, "achieved_rate": 4.0}
    return {"load_summary": load, "successes": successes | more, "failures": {"count": 1}}


def staged(tmp_path: Path, report: Any, name: str = "stage_0_lifecycle_metrics.json") -> Recording:
    return one(inference_perf_reader, tmp_path / name, json.dumps(report).encode())


def test_a_stage_is_aggregates_of_one_rate(tmp_path: Path) -> None:
    recording = staged(tmp_path, stage())
    assert (recording.requests, recording.completed) == (100, 99)
    assert recording.aggregates["tpot_mean"] == pytest.approx(10_000)
    assert recording.aggregates["ttft_p99"] == pytest.approx(200_000)
    assert recording.load.requests_per_s == 4.0
    assert "half-token-times" not in codes(recording)


def test_times_per_token_that_are_half_are_told_and_not_used(tmp_path: Path) -> None:
    recording = staged(tmp_path, stage(tpot=0.005))
    assert codes(recording)["half-token-times"] == "corrected"
    assert recording.aggregates["tpot_mean"] == pytest.approx(10_000)


def test_lengths_of_a_stage_are_the_servers_or_the_forced_ones_or_none(tmp_path: Path) -> None:
    wrong: dict[str, Any] = {"output_len": {"mean": 127.0}, "token_count_mismatches": 99}
    nobody = staged(tmp_path, stage(**wrong))
    assert codes(nobody)["counts-contradict-server"] == "warning"
    assert "tpot_mean" not in nobody.aggregates
    assert nobody.load.output_tokens is None
    server = staged(tmp_path, stage(**wrong, output_tokens={"mean": 64.0}))
    assert server.aggregates["tpot_mean"] == pytest.approx(10_000)
    config(tmp_path)
    forced = staged(tmp_path, stage(**wrong), "stage_1_lifecycle_metrics.json")
    assert forced.aggregates["tpot_mean"] == pytest.approx(10_000)
    assert codes(forced)["forced-lengths"] == "corrected"
    assert (forced.load.output_tokens, forced.load.burstiness) == (64.0, 1.0)


def test_a_summary_over_rates_and_prometheus_are_refused(tmp_path: Path) -> None:
    summary = stage()
    for name in ("requested_rate", "achieved_rate"):
        del summary["load_summary"][name]
    assert "no operating point" in str(staged(tmp_path, summary, "summary_lifecycle_metrics.json").refused)
    server = {"load_summary": {}, "successes": {"count": 9, "rate": 3.0}, "failures": {}}
    assert "Prometheus" in str(staged(tmp_path, server).refused)


def test_requests_that_waited_in_the_client_are_told(tmp_path: Path) -> None:
    late = stage()
    late["load_summary"]["schedule_delay"]["mean"] = 3.9
    assert codes(staged(tmp_path, late))["client-queue"] == "warning"


def test_a_closed_loop_has_clients_and_no_rate(tmp_path: Path) -> None:
    config(tmp_path, type="concurrent", stages=[{"rate": 9.0, "concurrency_level": 16, "duration": 5}])
    load = staged(tmp_path, stage()).load
    assert (load.max_concurrency, load.requests_per_s, load.burstiness) == (16, np.inf, None)


def test_a_folder_is_its_requests_or_else_its_stages(tmp_path: Path) -> None:
    config(tmp_path)
    for number in (0, 1):
        staged(tmp_path, stage(), f"stage_{number}_lifecycle_metrics.json")
    summary = stage()
    for name in ("requested_rate", "achieved_rate"):
        del summary["load_summary"][name]
    staged(tmp_path, summary, "summary_lifecycle_metrics.json")
    assert inference_perf_reader.detect(tmp_path)
    assert [run.name for run in inference_perf_reader.read(tmp_path)] == [
        "stage_0_lifecycle_metrics",
        "stage_1_lifecycle_metrics",
    ]
    one(inference_perf_reader, tmp_path / "per_request_lifecycle_metrics.json", inference_perf(client()))
    assert [run.requests for run in inference_perf_reader.read(tmp_path)] == [40]


# AIPerf


def test_warm_up_loads_the_server_and_is_not_counted(tmp_path: Path) -> None:
    run = client(10, ())
    warm = replace(run, send_s=run.send_s - 20)
    content = aiperf(warm, phase="warmup").replace(b'"x_request_id": "r', b'"x_request_id": "w') + aiperf(run)
    recording = one(aiperf_reader, tmp_path / "r.jsonl", content)
    assert (recording.requests, recording.completed) == (10, 10)
    assert each_of(recording).warm_up.tolist() == [True] * 10 + [False] * 10


def test_the_servers_usage_wins_and_its_cached_tokens_are_kept(tmp_path: Path) -> None:
    recording = one(aiperf_reader, tmp_path / "r.jsonl", aiperf(client(), usage=True))
    assert "retokenized-lengths" not in codes(recording)
    ok = each_of(recording).ok
    assert (each_of(recording).cached_tokens[ok] == 16).all()
    assert codes(one(aiperf_reader, tmp_path / "r.jsonl", aiperf(client())))["retokenized-lengths"] == "warning"


@pytest.mark.parametrize(("unit", "factor"), [("ms", 1.0), ("s", 1e-3), ("us", 1e3), ("ns", 1e6)])
def test_times_are_read_in_their_unit(tmp_path: Path, unit: str, factor: float) -> None:
    lines: list[bytes] = []
    for text in aiperf(client()).splitlines():
        record = json.loads(text)
        for name in ("time_to_first_token", "request_latency"):
            if name in record["metrics"]:
                value = record["metrics"][name]["value"]
                record["metrics"][name] = {"value": factor * value, "unit": unit}
        lines.append(json.dumps(record).encode())
    each = each_of(one(aiperf_reader, tmp_path / "r.jsonl", b"\n".join(lines)))
    run = client()
    assert each.ttft_us[each.ok] == pytest.approx(1e6 * run.ttft_s[run.ok], abs=1)


def test_later_turns_and_cancelled_requests_are_told_and_left_out(tmp_path: Path) -> None:
    lines = aiperf(client(10, ())).splitlines(keepends=True)
    lines[4] = lines[4].replace(b'"turn_index": 0', b'"turn_index": 2')
    lines[5] = lines[5].replace(b'"was_cancelled": false', b'"was_cancelled": true')
    recording = one(aiperf_reader, tmp_path / "r.jsonl", b"".join(lines))
    assert codes(recording)["later-turns"] == "warning"
    assert (recording.requests, recording.completed) == (10, 9)


def summary(requests: int = 40) -> dict[str, Any]:
    return {
        "request_latency": {"unit": "ms", "avg": 500.0, "p50": 490.0, "p99": 900.0},
        "time_to_first_token": {"unit": "ms", "avg": 50.0, "p50": 45.0, "p99": 90.0},
        "inter_token_latency": {"unit": "ms", "avg": 10.0, "p50": 10.0, "p99": 12.0},
        "request_count": {"unit": "requests", "avg": float(requests)},
        "error_request_count": {"unit": "requests", "avg": 2.0},
        "output_sequence_length": {"unit": "tokens", "avg": 46.0},
        "input_config": {
            "endpoint": {"model_names": ["Qwen/Qwen3-0.6B"]},
            "input": {"extra": [["ignore_eos", True]], "prompt": {"output_tokens": {"mean": 46, "stddev": 0.0}}},
            "loadgen": {"concurrency": 4},
        },
    }


def test_aggregates_say_load_generator_and_model(tmp_path: Path) -> None:
    recording = one(aiperf_reader, tmp_path / "profile_export_aiperf.json", json.dumps(summary()).encode())
    assert (recording.requests, recording.completed) == (42, 40)
    assert recording.aggregates["tpot_mean"] == 10_000
    assert (recording.load.max_concurrency, recording.load.requests_per_s) == (4, np.inf)
    assert recording.generator is not None
    assert (recording.generator.ignore_eos, recording.generator.output_tokens) == (True, 46)
    assert recording.hints["profile_export_aiperf.json"]["model"] == "Qwen/Qwen3-0.6B"


@pytest.mark.parametrize(("requests", "cut"), [(38, False), (64, True)])
def test_records_are_compared_with_the_aggregates_beside_them(tmp_path: Path, requests: int, cut: bool) -> None:
    (tmp_path / "profile_export_aiperf.json").write_text(json.dumps(summary(requests)))
    recording = one(aiperf_reader, tmp_path / "profile_export.jsonl", aiperf(client()))
    assert (recording.unfit is not None) == cut == ("sampled-requests" in codes(recording))
    assert recording.load.max_concurrency == 4
    assert [run.requests for run in aiperf_reader.read(tmp_path)] == [40]


def test_the_csv_says_what_the_json_does(tmp_path: Path) -> None:
    text = (
        "Metric,avg,min,max,sum,p50,p90,p99\n"
        "Inter Token Latency (ms),10.00,1,12,1,10.00,11.00,12.00\n"
        "Request Latency (ms),500.00,1,900,1,490.00,800.00,900.00\n"
        "Time to First Token (ms),50.00,1,90,1,45.00,80.00,90.00\n\n"
        "Metric,Value\nRequest Count,40.00\nError Request Count,2.00\nRequest Throughput (requests/sec),2.16\n\n"
        "Endpoint,GPU_Index\nlocalhost,0\n"
    )
    path = tmp_path / "profile_export_aiperf.csv"
    path.write_text(text)
    assert aiperf_reader.detect(path)
    (recording,) = aiperf_reader.read(path)
    assert (recording.requests, recording.completed) == (42, 40)
    assert recording.aggregates["ttft_p99"] == 90_000
    assert recording.aggregates["tpot_median"] == 10_000
    assert recording.aggregates["requests_per_s"] == 2.16


# llmperf


def test_llmperf_rows_of_errors_and_bare_texts_are_left_out(tmp_path: Path) -> None:
    recording = one(llmperf_reader, tmp_path / "x_individual_responses.json", llmperf(client()))
    assert codes(recording) == {
        "bare-texts": "corrected",
        "times-of-errors": "corrected",
        "no-send-times": "warning",
        "retokenized-lengths": "warning",
    }
    assert np.isnan(each_of(recording).ttft_us[~each_of(recording).ok]).all()
    assert "Llama 2's tokenizer" in str(recording.unfit)


def llmperf_summary(model: str) -> dict[str, Any]:
    return {
        "model": model,
        "num_concurrent_requests": 5,
        "results_ttft_s_mean": 0.05,
        "results_end_to_end_latency_s_mean": 0.5,
        "results_inter_token_latency_s_mean": 0.011,
        "results_number_input_tokens_mean": 550.0,
        "results_number_output_tokens_mean": 46.0,
        "results_num_requests_started": 42,
        "results_num_completed_requests": 40,
        "framework": "anyscale",
    }


@pytest.mark.parametrize(("model", "fit"), [("meta-llama/Llama-2-7b-chat-hf", True), ("Qwen/Qwen3-8B", False)])
def test_llmperf_counts_are_right_for_the_model_of_its_tokenizer(tmp_path: Path, model: str, fit: bool) -> None:
    (tmp_path / "x_summary.json").write_text(json.dumps(llmperf_summary(model)))
    recording = one(llmperf_reader, tmp_path / "x_individual_responses.json", llmperf(client()))
    assert (recording.unfit is None) == fit == ("retokenized-lengths" not in codes(recording))
    assert recording.load.max_concurrency == 5
    assert recording.hints == {"x_summary.json": {"model": model}}


def test_llmperf_summaries_are_aggregates_whose_tpot_is_not_e2e_over_tokens(tmp_path: Path) -> None:
    by_concurrency = {"1": llmperf_summary("m"), "2": llmperf_summary("m")}
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(by_concurrency))
    assert llmperf_reader.detect(path)
    runs = llmperf_reader.read(path)
    assert [(run.requests, run.completed) for run in runs] == [(42, 40)] * 2
    assert runs[0].aggregates["tpot_mean"] == pytest.approx(10_000)
    assert codes(runs[0])["another-engine"] == "warning"


def test_llmperf_without_streaming_has_no_first_token(tmp_path: Path) -> None:
    run = client(10, ())
    run = Client(run.send_s, run.e2e_s, np.zeros(10), run.prompt, run.output, run.ok)
    each = each_of(one(llmperf_reader, tmp_path / "x.json", llmperf(run)))
    assert not each.streamed.any()
    assert np.isnan(each.ttft_us).all()
    assert np.isfinite(each.e2e_us).all()


# Engine-side


def test_llmservingsim_says_its_server(tmp_path: Path) -> None:
    meta = {
        "vllm_version": "0.19.0",
        "engine_kwargs": {
            "model": "meta-llama/Llama-3.1-8B",
            "tensor_parallel_size": 2,
            "data_parallel_size": 1,
            "max_num_seqs": 256,
            "max_model_len": None,
            "kv_cache_dtype": "fp8_e4m3",
        },
        "kv_cache": {"num_gpu_blocks": 2588, "block_size": 16, "enable_prefix_caching": True},
        "hardware": {"device_name": "NVIDIA GeForce RTX 4090"},
        "resolved_config": {"scheduler_config": {"async_scheduling": True, "max_num_batched_tokens": 2048}},
    }
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    (tmp_path / "requests.jsonl").write_bytes(llmservingsim(client()))
    assert llmservingsim_reader.detect(tmp_path)
    (recording,) = llmservingsim_reader.read(tmp_path)
    assert recording.name == tmp_path.name
    assert recording.unfit is None
    assert recording.facts["meta.json"] == {
        "model": "meta-llama/Llama-3.1-8B",
        "tensor_parallel": 2,
        "data_parallel_size": 1,
        "max_num_seqs": 256,
        "max_num_batched_tokens": 2048,
        "async_scheduling": True,
        "kv_dtype": "fp8",
        "num_gpu_blocks": 2588,
        "block_size": 16,
        "prefix_caching": True,
        "engine_version": "0.19.0",
        "gpu": "NVIDIA GeForce RTX 4090",
    }
    assert codes(recording)["engine-side-times"] == "info"


def test_llmservingsims_meta_alone_tells_of_a_server(tmp_path: Path) -> None:
    meta = {"schema_version": 1, "vllm_version": "0.19.0", "engine_kwargs": {"tensor_parallel_size": 2}}
    path = tmp_path / "meta.json"
    path.write_text(json.dumps(meta))
    (server,) = read_all([path]).servers
    assert server.merged == {"tensor_parallel": 2, "engine_version": "0.19.0"}


def test_llmservingsim_of_several_engines_cannot_be_fitted_on(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text(json.dumps({"engine_kwargs": {"data_parallel_size": 2}}))
    recording = one(llmservingsim_reader, tmp_path / "requests.jsonl", llmservingsim(client()))
    assert recording.unfit == "meta.json says data_parallel_size 2, which is not modelled"


def test_spans_of_several_answers_are_load_and_not_measured(tmp_path: Path) -> None:
    lines = otel_spans(client(10, ())).splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"intValue": "1"', b'"intValue": "4"')
    recording = one(otel_reader, tmp_path / "spans.jsonl", b"".join(lines))
    assert codes(recording)["several-answers"] == "warning"
    assert (recording.requests, recording.completed) == (10, 9)
    assert not is_steps(tmp_path / "spans.jsonl")


# Any of them


@pytest.mark.parametrize("wrong", [1, 12])
def test_first_tokens_before_the_send_cost_a_few_rows_or_refuse_many(tmp_path: Path, wrong: int) -> None:
    content = llmservingsim(client(40, ()))
    lines = content.splitlines(keepends=True)
    for place in range(wrong):
        lines[place] = re.sub(rb'"first_token_ts": [\d.]+', b'"first_token_ts": 5.0', lines[place])
    path = tmp_path / "requests.jsonl"
    if wrong > 2:
        path.write_bytes(b"".join(lines))
        with pytest.raises(InputError, match=r"line 1: first token .* 12 of 40 requests are so"):
            llmservingsim_reader.read(path)
        return
    recording = one(llmservingsim_reader, path, b"".join(lines))
    assert codes(recording)["impossible-times"] == "corrected"
    assert np.isnan(each_of(recording).ttft_us[0])
    assert recording.completed == 40
