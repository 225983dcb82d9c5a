"""Real logs, scrapes and manifests of other people's servers: what each says, by a reading that is not ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from roofml.traces.server_files import is_server_file, server_reports
from roofml.traces.server_files.arguments import model_name

LOGS = (
    "0.10.1.1_qwen2-7b_1xA100.log",
    "0.10.1.1_qwen2-7b_2xA100_ray.log",
    "0.15.1_qwen2.5-14b_slurm.out",
    "0.19.2rc1_nemotron-3-super-120b_gb10.txt",
    "0.22.0_gpt-oss-120b_1xH200.log",
    "0.22.1_gpt-oss-120b_tp4_stats.log",
)


@pytest.mark.parametrize("name", LOGS)
def test_a_log_says_what_it_says(shared: Path, name: str) -> None:
    facts = json.loads((shared / "samples" / "facts.json").read_text())[f"vllm-logs/{name}"]
    (report,) = server_reports([shared / "samples" / "vllm-logs" / name])
    said = report.to_dict()
    same = ("version", "kv_cache_tokens", "tensor_parallel_size", "dtype", "max_model_len", "enable_prefix_caching")
    assert {key: said[key] for key in same} == {key: facts[key] for key in same}
    assert said["model"] in (model_name(facts["model"]), facts["model_in_args"])
    assert said["kv_cache_requests"] == min(facts["max_concurrency_x"])
    assert said.get("stats_lines", 0) == facts["stats_lines"]
    assert said.get("max_running") == facts["max_running"]
    assert report.refused is None


@pytest.mark.parametrize(
    ("name", "blocks", "speculates"),
    [
        (LOGS[0], 29053, False),
        (LOGS[1], 74510, False),
        (LOGS[2], 9521, False),
        (LOGS[3], None, True),
        (LOGS[4], None, False),
    ],
)
def test_blocks_are_known_where_tokens_say_them(shared: Path, name: str, blocks: int | None, speculates: bool) -> None:
    (report,) = server_reports([shared / "samples" / "vllm-logs" / name])
    assert report.merged.get("num_gpu_blocks") == blocks
    assert ("kv-tokens-not-blocks" in [finding.code for finding in report.findings]) is (blocks is None)
    assert ("speculative_config" in report.merged) is speculates


def test_a_server_without_memory_never_started(shared: Path) -> None:
    (report,) = server_reports([shared / "samples" / "vllm-logs" / "0.25.1_no_kv_memory.log"])
    assert report.refused is not None
    assert "never started" in report.refused
    assert "No available memory for the cache blocks" in report.refused


def test_two_scrapes_tell_what_the_load_between_them_cost(shared: Path) -> None:
    facts = json.loads((shared / "samples" / "facts.json").read_text())
    expected = facts["vllm-metrics/0.22.0_gpt-oss-120b_eagle3_c16_m0.prom + m1.prom"]
    paths = sorted((shared / "samples" / "vllm-metrics").glob("*.prom"))
    (report,) = server_reports(paths)
    said = report.to_dict()
    for key in ("completed", "prompt_tokens", "generation_tokens", "iterations", "tokens_per_iteration"):
        assert said[key] == pytest.approx(expected[key], rel=1e-9)
    for kind in ("ttft", "e2e", "tpot", "itl"):
        assert said[f"mean_{kind}_us"] == pytest.approx(1e3 * expected[f"mean_{kind}_ms"], rel=1e-9)
    assert (said["num_gpu_blocks"], said["block_size"]) == (92148, 16)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "kubecon_eagle_k8s.yaml",
            {
                "version": "0.11.0",
                "model": "meta-llama/Llama-3.1-8B-Instruct",
                "gpu": "nvidia-h100-80gb",
                "tp": 1,
                "max_model_len": 512,
                "max_num_seqs": 128,
            },
        ),
        (
            "axionis_compose.yaml",
            {"version": "0.10.0", "model": "mistralai/Mistral-7B-Instruct-v0.3", "tp": 1, "max_model_len": 8192},
        ),
        (
            "aieev_compose.yaml",
            {
                "version": None,
                "model": "Qwen/Qwen3-VL-4B-Instruct",
                "kv_cache_dtype": "fp8",
                "max_num_seqs": 8,
                "max_num_batched_tokens": 8192,
                "enable_prefix_caching": True,
                "async_scheduling": True,
            },
        ),
        (
            "nvidia_compose.yaml",
            {"version": None, "model": "meta-llama/Llama-3.1-8B-Instruct", "max_num_seqs": 256, "quantization": "fp8"},
        ),
        (
            "inferencex_exp_lib.sh",
            {
                "version": "0.22.0",
                "model": "openai/gpt-oss-120b",
                "tp": 1,
                "max_num_seqs": 256,
                "max_model_len": 10240,
                "max_num_batched_tokens": 8192,
                "enable_prefix_caching": False,
            },
        ),
    ],
)
def test_settings_are_those_that_people_wrote(shared: Path, name: str, expected: dict[str, object]) -> None:
    (report,) = server_reports([shared / "samples" / "server-settings" / name])
    said = report.to_dict()
    assert {key: said[key] for key in expected} == expected


def test_no_clients_file_is_taken_for_a_server_file(shared: Path) -> None:
    folders = {"vllm-logs", "vllm-metrics", "server-settings"}
    taken = [path for path in (shared / "samples").rglob("*") if path.is_file() and is_server_file(path)]
    others = [path for path in taken if path.parent.name not in folders]
    assert {path.parent.name for path in taken if path not in others} == folders
    # LLMServingSim's own meta.json says how its server was set.
    assert {(path.name, path.parent.parent.name) for path in others} == {("meta.json", "llmservingsim")}
    assert not [path for path in taken if path.suffix == ".json" and path not in others]
