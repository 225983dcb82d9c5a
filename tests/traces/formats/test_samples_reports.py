"""Real files of other tools: what each says is what facts.json, computed without roofml, says of it."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roofml.traces.recording import Recording
from roofml.util.errors import InputError
from roofml.workloads.files import read_file_load

REQUESTS = {
    "guidellm/0.3_stripped.json": "guidellm",
    "guidellm/0.6.0_qwen2.5-1.5b_L40S_sync_cut.json": "guidellm",
    "inference-perf/mock_0.3.0/per_request_lifecycle_metrics.json": "inference_perf",
    "inference-perf/mock_0.5.0/per_request_lifecycle_metrics.json": "inference_perf",
    "inference-perf/mock_2026-08/per_request_lifecycle_metrics.json": "inference_perf",
    "aiperf/2025-11_qwen_concurrency1/profile_export.jsonl": "aiperf",
    "aiperf/2025-11_qwen_concurrency2/profile_export.jsonl": "aiperf",
    "llmperf/anyscale_7b_individual.json": "llmperf",
    "llmservingsim/RTX4090_Llama-3.1-8B/requests.jsonl": "llmservingsim",
    "llmservingsim/RTXPRO6000_Qwen3-30B-A3B-Instruct-2507/requests.jsonl": "llmservingsim",
}
STAGES = [
    *(f"inference-perf/kubecon_eagle/stage_{stage}_lifecycle_metrics.json" for stage in (0, 1, 4)),
    *(f"inference-perf/llama-2-7b_general/stage_{stage}_lifecycle_metrics.json" for stage in (0, 1)),
    *(f"inference-perf/mock_{version}/stage_0_lifecycle_metrics.json" for version in ("0.3.0", "0.5.0", "2026-08")),
    "inference-perf/mock_2026-08/stage_1_lifecycle_metrics.json",
]
OTHERS = {  # requests, completed, mean TTFT and TPOT in ms as the file's own aggregates have them
    "guidellm/0.6.0_qwen2.5-1.5b_L40S_sync.csv": ("guidellm", 500, 500, 152.392, 5.271),
    "aiperf/2025-11_qwen_concurrency1/profile_export_aiperf.json": ("aiperf", 64, 64, 30.815, 18.199),
    "aiperf/0.10.0_qwen3.6-35b_rtx5090_c16/profile_export_aiperf.json": ("aiperf", 96, 96, 230.137, 11.847),
    "aiperf/0.10.0_qwen3.6-35b_rtx5090_c16/profile_export_aiperf.csv": ("aiperf", 96, 96, 230.14, 11.85),
    "llmperf/anyscale_7b_summary.json": ("llmperf", 150, 150, 225.183, 18.148),
    "otel/vllm_llm_request_spans.jsonl": ("otel_spans", 2, 2, 80.117, None),
}
MODULES = (*("guidellm", "inference_perf", "aiperf", "llmperf", "llmservingsim", "otel_spans", "workload"),)


@pytest.fixture(scope="module")
def samples(shared: Path) -> Path:
    folder = shared / "samples"
    if not folder.is_dir():
        pytest.skip(f"real files of other tools are not here: {folder}")
    return folder


@pytest.fixture(scope="module")
def facts(samples: Path) -> dict[str, Any]:
    return json.loads((samples / "facts.json").read_text())


def read(samples: Path, name: str, module: str) -> list[Recording]:
    reader: Any = import_module(f"roofml.traces.formats.{module}")
    path = samples / name
    assert [each for each in MODULES if import_module(f"roofml.traces.formats.{each}").detect(path)] == [module]
    return reader.read(path)


@pytest.mark.parametrize("name", REQUESTS)
def test_requests_and_their_means(samples: Path, facts: dict[str, Any], name: str) -> None:
    said = facts[name].get("benchmarks", [facts[name]])[0]
    (recording,) = read(samples, name, REQUESTS[name])
    each = recording.each
    assert each is not None
    assert recording.refused is None
    assert (recording.requests, recording.completed) == (said["requests"], said["completed"])
    ok = each.ok
    gaps = np.maximum(each.output_tokens - 1, 1)
    assert np.nanmean(each.ttft_us[ok]) == pytest.approx(1e3 * said["mean_ttft_ms"], rel=0.001)
    assert np.nanmean(((each.e2e_us - each.ttft_us) / gaps)[ok]) == pytest.approx(1e3 * said["mean_tpot_ms"], rel=0.001)
    assert np.nanmean(each.e2e_us[ok]) == pytest.approx(1e3 * said["mean_e2e_ms"], rel=0.001)
    if "span_of_sends_s" in said:
        assert each.send_us[-1] == pytest.approx(1e6 * said["span_of_sends_s"], abs=1)
    if "distinct_prompts" in said:
        assert len(set(each.prompt.tolist())) == said["distinct_prompts"]
        assert set(each.output_tokens[ok].tolist()) == set(said["true_output_tokens"])


@pytest.mark.parametrize("name", STAGES)
def test_stages(samples: Path, facts: dict[str, Any], name: str) -> None:
    said = facts[name]
    (recording,) = read(samples, name, "inference_perf")
    assert (recording.requests, recording.completed) == (said["requests"], said["completed"])
    assert recording.aggregates["ttft_mean"] == pytest.approx(1e3 * said["mean_ttft_ms"])
    assert recording.aggregates["e2e_mean"] == pytest.approx(1e3 * said["mean_e2e_ms"])
    if "mock" in name:  # whose truth is a token every 10 ms
        assert recording.aggregates["tpot_mean"] == pytest.approx(11_000, rel=0.09)
    reported = 1e3 * said["reported_time_per_output_token_ms"]
    half = reported < 0.6 * recording.aggregates["tpot_mean"]
    assert half == ("half-token-times" in {finding.code for finding in recording.findings})
    assert half == ("mock_2026" not in name and "mock_0.3" not in name)


@pytest.mark.parametrize("name", OTHERS)
def test_other_files(samples: Path, name: str) -> None:
    module, requests, completed, ttft, tpot = OTHERS[name]
    (recording,) = read(samples, name, module)
    assert (recording.requests, recording.completed) == (requests, completed)
    found = recording.aggregates.get("ttft_mean")
    if recording.each is not None:
        found = float(recording.each.ttft_us.mean())
    assert found == pytest.approx(1e3 * ttft, rel=0.001)
    if tpot is not None:
        assert recording.aggregates["tpot_mean"] == pytest.approx(1e3 * tpot, rel=0.001)


def test_several_benchmarks_without_lists(samples: Path) -> None:
    runs = read(samples, "guidellm/0.8.0.dev18_schema2_mock.json", "guidellm")
    assert [(run.requests, run.load.requests_per_s, run.each) for run in runs] == [(2, 2.0, None), (2, 4.0, None)]


def test_summaries_by_concurrency(samples: Path) -> None:
    runs = read(samples, "llmperf/tgi_mistral-7b_by_concurrency.json", "llmperf")
    assert [run.load.max_concurrency for run in runs] == [1, 2, 4, 8, 16, 32, 64, 128]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("kubecon_eagle/summary_lifecycle_metrics.json", "averages over stages"),
        ("mock_2026-08/summary_lifecycle_metrics.json", "averages over stages"),
        ("kubecon_eagle/stage_1_prometheus_metrics.json", "Prometheus"),
    ],
)
def test_what_is_no_operating_point_is_refused(samples: Path, name: str, reason: str) -> None:
    (recording,) = read(samples, f"inference-perf/{name}", "inference_perf")
    assert reason in str(recording.refused)


def test_the_server_that_llmservingsim_says(samples: Path) -> None:
    (recording,) = read(samples, "llmservingsim/RTX4090_Llama-3.1-8B/requests.jsonl", "llmservingsim")
    said = recording.facts["meta.json"]
    assert (said["gpu"], said["engine_version"], said["num_gpu_blocks"]) == ("NVIDIA GeForce RTX 4090", "0.19.0", 2588)


@pytest.mark.parametrize("name", ["AzureLLMInferenceTrace_conv.csv", "mooncake_conversation_trace.jsonl"])
def test_workloads(samples: Path, facts: dict[str, Any], name: str) -> None:
    said = facts[f"workloads/{name}"]
    (recording,) = read(samples, f"workloads/{name}", "workload")
    assert recording.requests == said["requests"]
    assert "no run" in str(recording.refused)
    load = read_file_load(samples / "workloads" / name).load
    assert load.arrival_us[-1] == pytest.approx(1e6 * said["span_of_arrivals_s"])
    assert load.prompt_tokens.mean() == pytest.approx(said["mean_input_tokens"])
    assert load.output_tokens.mean() == pytest.approx(said["mean_output_tokens"])


def test_what_lies_beside_them_is_none_of_them(samples: Path) -> None:
    for name in (
        "guidellm/0.6.0_system_info.json",
        "llmservingsim/RTX4090_Llama-3.1-8B/meta.json",
        "llmservingsim/RTX4090_Llama-3.1-8B/timeseries.csv",
        "inference-perf/llama-2-7b_general/vllm_logging.json",
        "vllm-bench/0.25.1_aggregate.json",
        "sglang-bench/0.5.5_qwen2.5-3b_c32.jsonl",
    ):
        for module in MODULES:
            reader: Any = import_module(f"roofml.traces.formats.{module}")
            assert not reader.detect(samples / name), (module, name)
            with pytest.raises(InputError):
                reader.read(samples / name)
