"""Files of `vllm bench forward`: what is read of them, what is refused by name, and what the doctor says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commandline import fails, ok
from forward_files import case, write

from roofml.traces.forwards import TimedRequest, detect, read
from roofml.traces.read import kind_of_path, read_all, read_runs
from roofml.traces.server import ServerOverrides
from roofml.util.errors import InputError

DECODE = case("decode", [(1, 1025, 0, False)] * 4, 8000.0)
PROMPT = case("prefill", [(512, 512, 0, False)], 20000.0, spread_pct=2.5)
CHUNK = case("chunk", [(512, 4096, 0, True)], 21000.0)
STAGES = {"timer": "pipeline_correlated_gpu_events_rank_max", "median": 9.0, "sample_spread_pct": 0.1}
HIT = case("hit", [(64, 4096, 0, False), (1, 100, 0, False)], 9000.0)


def test_a_file_is_told_by_its_content_and_read_as_it_was_run(tmp_path: Path) -> None:
    path = write(tmp_path / "whatever.json", [DECODE, PROMPT, CHUNK, HIT])
    assert detect(path)
    assert kind_of_path(path) == "forwards"
    found = read(path)
    assert [each.name for each in found.cases] == ["decode", "prefill", "chunk", "hit"]
    assert found.cases[0].requests == [TimedRequest(1, 1024)] * 4
    assert [found.cases[i].requests[0].decodes for i in range(4)] == [True, False, False, False]
    assert found.cases[2].requests[0].chunked
    assert found.cases[1].median_us == 20000.0
    assert found.ranks == 1
    assert not found.drawn


def test_lengths_that_were_drawn_are_told(tmp_path: Path) -> None:
    drawn = case("jitter", [(1, 700 + 13 * number, 0, False) for number in range(8)], 8000.0)
    found = read(write(tmp_path / "out.json", [drawn]))
    assert found.drawn
    assert "lengths-drawn" in {finding.code for finding in found.findings}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"requests": []}, "requests is"),
        ({"ranks": []}, "ranks is"),
        ({"case": ""}, "expected its name"),
        ({"median_us": 1.0}, "is not the 8000"),
        ({"median_us": "8 ms"}, "median_us is"),
        ({"requests": [{"query_len": 4, "kv_len": 2}]}, "kv_len 2 is less than query_len 4"),
        ({"requests": [{"query_len": 0, "kv_len": 2}]}, "query_len is 0"),
        ({"requests": [{"query_len": 2, "kv_len": 2, "chunked": 1}]}, "chunked is 1"),
        ({"requests": [{"query_len": 1, "kv_len": 9, "chunked": True}]}, "no benchmark runs"),
        ({"requests": [{"query_len": 3, "kv_len": 9, "num_draft_tokens": 1}]}, "no benchmark runs"),
    ],
)
def test_what_no_benchmark_writes_is_refused_by_name(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    path = write(tmp_path / "out.json", [DECODE | change])
    with pytest.raises(InputError, match=why) as error:
        read(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("rank", "why"),
    [
        ({"routing": "random"}, "routing is"),
        ({"latency_us": {}}, "median is"),
        ({"latency_us": {"median": -1.0}}, "median is"),
        ({"latency_us": {"median": 8000.0, "sample_spread_pct": "small"}}, "sample_spread_pct is"),
    ],
)
def test_a_rank_that_cannot_be_is_refused(tmp_path: Path, rank: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        read(write(tmp_path / "out.json", [case("decode", [(1, 1025, 0, False)] * 4, 8000.0, **rank)]))


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (case("verify", [(4, 1024, 3, False)], 9000.0), "drafts"),
        (case("drafter", [(1, 1024, 0, False)], 9000.0, timing_scope="target_and_drafter"), "--exclude-drafter"),
        (case("replayed", [(64, 4096, 0, False)], 9000.0, num_tokens=576), "prefixes were replayed"),
        (case("stages", [(1, 9, 0, False)], 9.0, latency_us=STAGES), "pipeline"),
    ],
)
def test_a_case_that_no_fit_can_use_is_left_out_with_the_reason(tmp_path: Path, made: dict[str, Any], why: str) -> None:
    found = read(write(tmp_path / "out.json", [DECODE, made]))
    assert [each.name for each in found.cases] == ["decode"]
    assert why in found.left_out[made["case"]]
    assert "case-left-out" in {finding.code for finding in found.findings}
    with pytest.raises(InputError, match=why):  # nothing is left
        read(write(tmp_path / "alone.json", [made]))


def test_kernels_come_from_the_summary_beside_the_file_where_it_is(tmp_path: Path) -> None:
    kernels = [{"name": "nvjet_tst", "us": 6000.0, "pct": 75.0, "calls": 64, "example": "nvjet"}]
    profile = {
        "summary": "prof/decode.rank0.kernels.json",
        "span_us": 7990.0,
        "busy_us": 7990.0,
        "top_kernels": kernels,
    }
    path = write(tmp_path / "out.json", [case("decode", [(1, 1025, 0, False)] * 4, 8000.0, profile=profile)])
    assert read(path).cases[0].kernels == {"nvjet_tst": 6000.0}
    (tmp_path / "prof").mkdir()
    whole = {"kernels": [*kernels, {"name": "flash_fwd", "us": 1900.0, "pct": 25.0, "calls": 32, "example": "x"}]}
    (tmp_path / "prof" / "decode.rank0.kernels.json").write_text(json.dumps(whole))
    assert read(path).cases[0].kernels == {"nvjet_tst": 6000.0, "flash_fwd": 1900.0}


def test_all_that_nobody_says_is_asked_for_in_one_message(tmp_path: Path) -> None:
    path = write(tmp_path / "out.json", [DECODE])
    said = fails("fit", path).err
    for flag in ("--model", "--tp", "--gpu"):
        assert flag in said
    assert "--gpu" not in fails("fit", path, "--gpu", "H100").err.split("give", 1)[1]


def test_as_many_ranks_as_the_tensor_parallel_size(tmp_path: Path) -> None:
    path = write(tmp_path / "out.json", [case("decode", [(1, 1025, 0, False)] * 4, 8000.0, ranks=2)])
    overrides = ServerOverrides(model="llama-3.1-8b-instruct", gpu="H100", tensor_parallel=4)
    with pytest.raises(InputError, match="timed on 2 ranks"):
        read_all([path], overrides)


def test_the_doctor_says_what_it_holds(tmp_path: Path) -> None:
    path = write(tmp_path / "out.json", [DECODE, PROMPT, HIT])
    (told,) = ok("doctor", path, "--json").document["runs"]
    assert told["format"] == "vllm-forward"
    assert told["cases"] == 3
    assert told["routing"] == ["balanced"]
    assert told["missing"] == ["model", "tensor_parallel", "gpu"]
    assert told["mean_ttft_us"] is None
    assert "refused" not in told
    assert "unstable-timing" in {finding["code"] for finding in told["findings"]}
    shown = ok("doctor", path).out
    assert "3 exact batches timed on 1 GPU" in shown
    assert "1 of 3 cases spread by more than 0.5 %" in shown


def test_what_needs_requests_says_that_there_are_none(tmp_path: Path) -> None:
    path = write(tmp_path / "out.json", [DECODE])
    with pytest.raises(InputError, match="exact batches"):
        read_runs([path], ServerOverrides(model="llama-3.1-8b-instruct", gpu="H100", tensor_parallel=1))
