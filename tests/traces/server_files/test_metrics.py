"""/metrics: what a server counted, and its KV cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from roofml.traces.server_files import metrics, read_server_files, server_reports
from roofml.util.errors import InputError

CACHE = 'block_size="16",cache_dtype="fp8_e4m3",enable_prefix_caching="True",num_gpu_blocks="{blocks}",window="None"'


def scrape(
    requests: int, ttft_s: float = 0.1, tpot_s: float = 0.01, started: float = 5.0, engines: int = 1, drafts: int = 0
) -> str:
    """A scrape after so many requests of 100 + 11 tokens."""
    lines = ["# HELP python_info x", "# TYPE vllm:num_requests_running gauge", f"process_start_time_seconds {started}"]
    for engine in range(engines):
        labels = f'engine="{engine}",model_name="a \\"name\\", odd"'
        done = requests // engines

        def add(name: str, value: float, more: str = "", labels: str = labels) -> None:
            lines.append(f"vllm:{name}{{{labels}{more}}} {value}")

        add("request_success_total", done, ',finished_reason="length"')
        add("request_success_total", 3, ',finished_reason="abort"')
        add("prompt_tokens_total", 100.0 * done)
        add("generation_tokens_total", 11.0 * done)
        for name, mean in (
            ("time_to_first_token", ttft_s),
            ("request_time_per_output_token", tpot_s),
            ("e2e_request_latency", ttft_s + 10 * tpot_s),
        ):
            add(f"{name}_seconds_bucket", done, ',le="+Inf"')
            add(f"{name}_seconds_sum", mean * done)
            add(f"{name}_seconds_count", done)
        if drafts:
            add("spec_decode_num_drafts_total", drafts)
        lines.append(f'vllm:cache_config_info{{{CACHE.format(blocks=1000 - engine)},engine="{engine}"}} 1.0')
    return "\n".join(lines) + "\n"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_scrape_says_the_cache_and_the_counts(tmp_path: Path) -> None:
    path = write(tmp_path, "m.prom", scrape(50))
    assert metrics.detect(path)
    said = metrics.facts(path)
    assert said.facts == {
        "engine": "vllm",
        "block_size": 16,
        "num_gpu_blocks": 1000,
        "prefix_caching": True,
        "kv_dtype": "fp8",
        "served_model_name": 'a \\"name\\", odd',
    }
    assert said.observed["completed"] == 50
    assert said.observed["mean_ttft_us"] == pytest.approx(100_000)
    assert said.observed["mean_tpot_us"] == pytest.approx(10_000)
    assert [finding.code for finding in said.findings] == ["counters-since-start"]


def test_an_idle_server_has_no_means(tmp_path: Path) -> None:
    said = metrics.facts(write(tmp_path, "m.prom", scrape(0)))
    assert said.observed["completed"] == 0
    assert said.observed["mean_ttft_us"] is None
    assert not said.findings


@pytest.mark.parametrize("turned", [False, True])
def test_before_and_after_tell_what_the_load_cost(tmp_path: Path, turned: bool) -> None:
    before = write(tmp_path, "m0", scrape(20, ttft_s=1.0))
    # 20 requests of 1 s and 60 of 0.2 s
    after = write(tmp_path, "m1", scrape(80, ttft_s=(20 * 1.0 + 60 * 0.2) / 80))
    (report,) = server_reports([after, before] if turned else [before, after])
    assert report.observed["completed"] == 60
    assert report.observed["mean_ttft_us"] == pytest.approx(200_000)
    assert not report.findings
    assert report.to_dict()["completed"] == 60


def test_scrapes_of_two_servers_are_not_subtracted(tmp_path: Path) -> None:
    paths = [write(tmp_path, "m0", scrape(20)), write(tmp_path, "m1", scrape(80, started=9.0))]
    assert [finding.code for finding in read_server_files(paths).findings] == ["scrapes-of-two-servers"]


def test_engines_in_parallel_are_said(tmp_path: Path) -> None:
    said = metrics.facts(write(tmp_path, "m", scrape(40, engines=2)))
    assert (said.facts["data_parallel_size"], said.facts["num_gpu_blocks"]) == (2, 999)
    assert said.observed["completed"] == 40


def test_speculation_is_said(tmp_path: Path) -> None:
    said = metrics.facts(write(tmp_path, "m", scrape(40, drafts=7)))
    assert said.facts["speculative_config"]
    assert "gaps-of-several-tokens" in [finding.code for finding in said.findings]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vllm:x{} NaN\n", "line 1: vllm:x is nan, expected a finite number"),
        ('vllm:x{a="1} 2\n', "line 1: no sample of a metric"),
        ("vllm:x many\n", "line 1: vllm:x: 'many', expected a number"),
        ("# TYPE vllm:x gauge\n", "no metric of vLLM in it"),
    ],
)
def test_what_is_no_scrape_is_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match="m: ") as refused:
        metrics.facts(write(tmp_path, "m", text))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_other_metrics_are_not_ours(tmp_path: Path) -> None:
    assert not metrics.detect(write(tmp_path, "m", "# TYPE sglang:x gauge\nsglang:x 1\n"))
