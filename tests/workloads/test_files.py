"""Workload files as loads: what they say, as it came, at another rate, in a loop; and which prompts share what."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roofml.traces.formats import workload
from roofml.traces.server import Server
from roofml.util.errors import InputError
from roofml.workloads.files import read_file_load
from roofml.workloads.prefix_tree import prefix_groups

SERVER = Server(
    model="m", tensor_parallel=1, max_num_seqs=64, max_num_batched_tokens=512, block_size=16, num_gpu_blocks=4000,
    max_model_len=4096,
)  # fmt: skip
AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2023-11-16 18:15:46.6805900,374,44\n"
    "2023-11-16 18:15:50.9951690,396,109\n"
    "2023-11-16 18:15:51.2224670,879,55\n"
)
BURSTGPT = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,472,18,490,Conversation log\n"
    "45,ChatGPT,1087,230,1317,Conversation log\n"
    "60,GPT-4,100,0,100,API log\n"
    "118,GPT-4,417,276,693,Conversation log\n"
)
MOONCAKE = [
    {"timestamp": 0, "input_length": 1300, "output_length": 5, "hash_ids": [0, 1, 2]},
    {"timestamp": 3000, "input_length": 1800, "output_length": 6, "hash_ids": [0, 1, 2, 3]},
    {"timestamp": 3000, "input_length": 900, "output_length": 7, "hash_ids": [8, 9]},
]
VIDUR = "num_prefill_tokens,num_decode_tokens,pd_ratio\n120,40,3.0\n7,2,3.5\n"
SPLITWISE = "request_id,arrival_timestamp,prompt_size,token_size\n0,0.5,100,20\n1,2.5,200,30\n"


def written(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "workload"
    path.write_text(content)
    assert workload.detect(path)
    return path


def lines(entries: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


CASES = {
    "azure": (AZURE, [0.0, 4.314579, 4.541877], [374, 396, 879], [44, 109, 55]),
    "azure 2024": (
        AZURE.replace("900,", "900+00:00,").replace("690,", "690+00:00,").replace("670,", "670+00:00,"),
        [0.0, 4.314579, 4.541877],
        [374, 396, 879],
        [44, 109, 55],
    ),
    "burstgpt": (BURSTGPT, [0.0, 40.0, 113.0], [472, 1087, 417], [18, 230, 276]),
    "mooncake": (lines(MOONCAKE), [0.0, 3.0, 3.0], [1300, 1800, 900], [5, 6, 7]),
    "llmservingsim": (
        lines([{"input_toks": 9, "output_toks": 4, "arrival_time_ns": ns, "input_tok_ids": []} for ns in (5e8, 2e9)]),
        [0.0, 1.5],
        [9, 9],
        [4, 4],
    ),
    "splitwise": (SPLITWISE, [0.0, 2.0], [100, 200], [20, 30]),
    "vidur": (VIDUR, None, [120, 7], [40, 2]),
}


@pytest.mark.parametrize("kind", CASES)
def test_a_file_says_its_arrivals_and_lengths(tmp_path: Path, kind: str) -> None:
    content, arrivals, prompts, outputs = CASES[kind]
    path = written(tmp_path, content)
    read = workload.read_arrivals(path)
    assert read.kind == kind.split()[0]
    assert read.prompt_tokens.tolist() == prompts
    assert read.output_tokens.tolist() == outputs
    assert read.arrival_us / 1e6 == pytest.approx([] if arrivals is None else arrivals, abs=1e-6)
    (recording,) = workload.read(path)
    assert (recording.format, recording.requests, recording.completed) == ("workload", len(prompts), 0)
    assert "a load and no run" in str(recording.refused)


def test_failures_of_burstgpt_are_no_load_and_told(tmp_path: Path) -> None:
    read = workload.read_arrivals(written(tmp_path, BURSTGPT))
    assert [(finding.code, finding.evidence["requests"]) for finding in read.findings] == [("no-output-tokens", 1)]


def test_rows_out_of_order_are_sorted_and_told(tmp_path: Path) -> None:
    header, first, second, third = AZURE.splitlines(keepends=True)
    read = workload.read_arrivals(written(tmp_path, header + third + first + second))
    assert read.prompt_tokens.tolist() == [374, 396, 879]
    assert [finding.code for finding in read.findings] == ["rows-reordered"]


def test_a_load_comes_as_it_came_or_at_another_rate_or_in_a_loop(tmp_path: Path) -> None:
    path = written(tmp_path, AZURE)
    load = read_file_load(path).load
    assert load.arrival_us[-1] == pytest.approx(4_541_877, abs=1)
    faster = read_file_load(path, requests_per_s=4.0).load
    assert faster.arrival_us[-1] == pytest.approx(2 / 4.0 * 1e6)
    assert faster.arrival_us / faster.arrival_us[-1] == pytest.approx(load.arrival_us / load.arrival_us[-1])
    looped = read_file_load(path, clients=2).load
    assert (looped.clients, looped.prompt_tokens.tolist()) == (2, [374, 396, 879])
    assert read_file_load(path).load.run(SERVER).prompt_tokens.tolist() == [374, 396, 879]


def test_lengths_alone_need_a_rate_or_clients(tmp_path: Path) -> None:
    path = written(tmp_path, VIDUR)
    with pytest.raises(InputError, match="lengths without arrivals: give a rate or a number of clients"):
        read_file_load(path)
    assert read_file_load(path, clients=1).load.clients == 1
    first, second = (read_file_load(path, requests_per_s=2.0, seed=seed).load for seed in (1, 1))
    assert first.arrival_us.tolist() == second.arrival_us.tolist()


def test_requests_at_one_moment_have_no_rate(tmp_path: Path) -> None:
    content = lines([entry | {"timestamp": 7} for entry in MOONCAKE])
    with pytest.raises(InputError, match="no arrivals that can be stretched"):
        read_file_load(written(tmp_path, content), requests_per_s=1.0)


def test_equal_leading_hashes_are_shared_tokens(tmp_path: Path) -> None:
    load = read_file_load(written(tmp_path, lines(MOONCAKE))).load
    assert load.prefix_group[0] == load.prefix_group[1] >= 0
    assert load.prefix_group[2] == -1
    assert load.prefix_tokens[:2].tolist() == [1300, 1536]  # the last block of the first is not full
    run = load.run(SERVER)
    assert run.prefix_group.tolist() == load.prefix_group.tolist()


@given(st.lists(st.lists(st.integers(0, 2), max_size=5), min_size=1, max_size=12))
def test_no_group_shares_more_than_its_requests_do(hashes: list[list[int]]) -> None:
    first = np.concatenate(([0], np.cumsum([len(each) for each in hashes])))
    found = prefix_groups(np.array([block for each in hashes for block in each], np.int64), first)
    if found is None:
        assert not any(hashes)
        return
    group, shared, share = found
    assert 0 <= share <= 1
    for one, other in combinations(range(len(hashes)), 2):
        if group[one] == group[other] >= 0:
            common = 0
            for a, b in zip(hashes[one], hashes[other], strict=False):
                if a != b:
                    break
                common += 1
            assert min(shared[one], shared[other]) <= common


@pytest.mark.parametrize(
    ("hashes", "expected"),
    [
        ([[0, 1], [0, 1, 2], [0, 1, 2, 3]], 1.0),  # one conversation
        ([[0], [0], [1, 2], [1, 2, 3]], 1.0),  # two
        ([[0, 1, 1], [0, 1, 1], [0, 2, 2], [0, 2, 2]], 6 / 7),  # two under one system prompt: of one block too much
    ],
)
def test_most_that_is_shared_is_found(hashes: list[list[int]], expected: float) -> None:
    first = np.concatenate(([0], np.cumsum([len(each) for each in hashes])))
    found = prefix_groups(np.array([block for each in hashes for block in each], np.int64), first)
    assert found is not None
    assert found[2] == pytest.approx(expected)


BAD = [
    (AZURE.replace("374", "-374"), "line 2: ContextTokens is '-374'"),
    (AZURE.replace("374", "x"), "line 2: ContextTokens is 'x'"),
    (AZURE.replace("2023-11-16 18:15:50", "yesterday"), "line 3: TIMESTAMP is 'yesterday"),
    (AZURE.replace(",109", ""), "line 3: 2 cells, expected 3"),
    (AZURE.replace(",44\n", ",44444444444444444444\n"), "line 2: GeneratedTokens"),
    (AZURE.splitlines()[0] + "\n", "no rows"),
    (AZURE.replace("TIMESTAMP", "ContextTokens"), "line 1: column ContextTokens stands twice"),
    (BURSTGPT.replace("45,", "soon,"), "line 3: Timestamp is 'soon'"),
    (BURSTGPT.replace("45,", "1e300,"), "line 3: Timestamp is '1e300'"),
    (VIDUR.replace("120,40", "0,40"), "line 2: num_prefill_tokens is '0'"),
    (VIDUR.replace("40", "0").replace(",2,", ",0,"), "num_decode_tokens is '0', expected at least one request"),
    (lines([MOONCAKE[0] | {"hash_ids": ["a"]}]), "line 1: hash_ids: .*expected whole numbers"),
    (lines([MOONCAKE[0] | {"input_length": 1e300}]), "line 1: input_length is 1"),
    (lines([MOONCAKE[0] | {"output_length": 1.5}]), "line 1: output_length is 1.5, expected a whole number"),
    (lines([MOONCAKE[0], MOONCAKE[1] | {"input_length": None}]), "line 2: input_length is missing"),
    (lines([MOONCAKE[0], MOONCAKE[1] | {"timestamp": None}]), "timestamp is missing on 1 of 2 lines"),
    (lines([MOONCAKE[0], MOONCAKE[1] | {"timestamp": "x"}]), "line 2: timestamp is 'x', expected a number"),
    (lines(MOONCAKE)[:-9], "line 3: not valid JSON.*cut short"),
]


@pytest.mark.parametrize(("content", "expected"), BAD, ids=[case[1][:30] for case in BAD])
def test_what_is_no_workload_is_refused(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "workload"
    path.write_text(content)
    with pytest.raises(InputError, match=expected) as caught:
        read_file_load(path)
    assert str(path) in str(caught.value)


def test_texts_and_runs_are_no_lengths(tmp_path: Path) -> None:
    texts = tmp_path / "ShareGPT.json"
    texts.write_text(json.dumps([{"id": "x", "conversations": [{"from": "human", "value": "hello"}]}]))
    assert workload.detect(texts)
    with pytest.raises(InputError, match="conversations as texts, whose lengths depend on a tokenizer"):
        workload.read(texts)
    run = tmp_path / "run.csv"
    run.write_text("input_tokens,output_tokens,ttft_ms\n1,2,3\n")
    assert not workload.detect(run)
    with pytest.raises(InputError, match="not a workload"):
        workload.read_arrivals(run)
