"""Real files of vllm bench serve, sglang's bench_serving and BLIS's ground truth, by what is known to be in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from roofml.traces.aggregate_run import RefusedRun
from roofml.traces.read import read_all

REFUSED = {
    "vllm-bench/0.25.1_all_failed.json": "all 8 requests failed",
    "sglang-bench/0.5.5_qwen2.5-3b_1p1d_c64.jsonl": "prefill and decode ran on different servers",
}
CUT = "vllm-bench/2025-04_llama3.1-8b_fp8_1xL40S_c128_cut.json"
SUFFIXES = ("vllm-bench/", "sglang-bench/")
CLOSE = pytest.approx


def known(shared: Path) -> dict[str, dict[str, Any]]:
    return json.loads((shared / "samples" / "facts.json").read_text())


def test_each_file_says_what_is_in_it(shared: Path) -> None:
    checked = 0
    for name, facts in known(shared).items():
        if not name.startswith(SUFFIXES) or name == CUT:
            continue
        runs = read_all([shared / "samples" / name], strict=False, complete=False).every
        expected = facts["runs"] if isinstance(facts.get("runs"), list) else None
        if expected is None and "runs" in facts:
            assert len(runs) == facts["runs"], name
            completed = facts.get("completed")
            assert completed is None or [run.to_dict()["completed"] for run in runs] == completed
            continue
        for run, said in zip(runs, expected or [facts], strict=True):
            told = run.to_dict()
            assert (told["requests"], told["completed"]) == (said["requests"], said["completed"]), name
            for ours, theirs in (("ttft", "mean_ttft_ms"), ("tpot", "mean_tpot_ms"), ("e2e", "mean_e2e_ms")):
                if said.get(theirs):
                    assert told[f"mean_{ours}_us"] == CLOSE(1e3 * said[theirs], rel=0.005), (name, ours)
                    checked += 1
    assert checked > 30


def test_some_are_refused_for_their_reason(shared: Path) -> None:
    for name, reason in REFUSED.items():
        (run,) = read_all([shared / "samples" / name], strict=False, complete=False).every
        assert isinstance(run, RefusedRun)
        assert reason in run.reason


def test_a_cut_file_has_the_means_of_its_header(shared: Path) -> None:
    (run,) = read_all([shared / "samples" / CUT], strict=False, complete=False).every
    header = json.loads((shared / "samples" / CUT).read_text())
    told = run.to_dict()
    assert (told["requests"], told["completed"]) == (header["num_prompts"], header["completed"])
    assert told["mean_ttft_us"] == CLOSE(1e3 * header["mean_ttft_ms"])
    assert told["mean_tpot_us"] == CLOSE(1e3 * header["mean_tpot_ms"])


def test_the_ground_truth_of_blis_is_the_run_it_was_made_of(shared: Path) -> None:
    (run,) = read_all([shared / "samples" / "blis-ground-truth"], strict=False, complete=False).runs
    assert run.to_dict()["mean_ttft_us"] == CLOSE(46_161, rel=0.005)
    assert run.to_dict()["mean_e2e_us"] == CLOSE(3_635_467, rel=0.005)
    assert run.server.missing == ()
    (traced,) = read_all([shared / "groundtruth" / run.name], complete=False).runs
    rows = len(run)
    assert run.prompt_tokens.tolist() == traced.prompt_tokens[:rows].tolist()
    assert run.output_tokens.tolist() == traced.output_tokens[:rows].tolist()
    assert abs(run.e2e_us - traced.e2e_us[:rows]).max() < 1000
