"""The doctor finds the traps in the data, corrects what can be settled and says what cannot."""

from __future__ import annotations

import heapq
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from quickness import assert_within, best_s
from runfolder import OVERLOADED, Row, RunFolder, eleven_runs, header, inference_perf, requests, row

from roofml.traces.doctor import clean
from roofml.traces.finding import Finding
from roofml.traces.read import read_raw
from roofml.traces.repeated_prompts import find_cycle
from roofml.traces.run import Run
from roofml.traces.server import ServerOverrides
from roofml.traces.token_counts import elasticity
from roofml.util.errors import InputError


def diagnose(tmp_path: Path, overrides: ServerOverrides | None = None, **changes: Any) -> Run:
    folder = RunFolder(**changes).write(tmp_path / "run")
    return clean(read_raw(folder, overrides or ServerOverrides()))


def codes(run: Run) -> set[str]:
    return {finding.code for finding in run.findings}


def found(run: Run, code: str) -> Finding:
    (finding,) = (finding for finding in run.findings if finding.code == code)
    return finding


def test_a_sound_run_passes_untouched(tmp_path: Path) -> None:
    rows = requests(300)
    run = diagnose(tmp_path, rows=rows)
    assert codes(run) <= {"next-experiment", "warm-server", "engine-version-missing"}
    assert not run.saturated
    assert run.ok.all()
    assert run.arrival_us[0] == 0
    assert run.prompt_tokens.tolist() == [one["input_tokens"] for one in rows]
    assert run.output_tokens.tolist() == [one["output_tokens"] for one in rows]
    assert (run.prefix_group == -1).all()
    assert (run.prefix_tokens == 0).all()


# Trap 1: repeated prompts.


def test_repeated_prompts_are_found_from_lengths_alone(tmp_path: Path) -> None:
    run = diagnose(tmp_path, rows=requests(300, prompts=20))
    finding = found(run, "repeated-prompts")
    assert finding.severity == "corrected"
    assert finding.evidence["period"] == 20
    assert "the trace alone shows it" in finding.summary
    assert (run.prefix_group == np.arange(300) % 20).all()
    assert (run.prefix_tokens == run.prompt_tokens).all()


def test_the_generator_confirms(tmp_path: Path) -> None:
    run = diagnose(tmp_path, rows=requests(300, prompts=20, output=100), inference_perf=inference_perf(20, 100))
    assert "inference-perf.yaml says so too" in found(run, "repeated-prompts").summary
    assert found(run, "shared-system-prompt").evidence["system_prompt_tokens"] == 64


def test_neighbours_that_changed_places_are_put_back(tmp_path: Path) -> None:
    rows = requests(300, prompts=20)
    for place in (30, 77, 150, 151):
        one, other = rows[place], rows[place + 1]
        one["input_tokens"], other["input_tokens"] = other["input_tokens"], one["input_tokens"]
    expected = np.arange(300) % 20
    # Prompt 150 has slipped two places.
    expected[[30, 31, 77, 78, 150, 151, 152]] = [11, 10, 18, 17, 11, 12, 10]
    run = diagnose(tmp_path, rows=rows)
    assert run.prefix_group.tolist() == expected.tolist()
    assert found(run, "repeated-prompts").evidence["swapped_requests"] == 7


def test_a_stranger_among_repeats_shares_with_nobody(tmp_path: Path) -> None:
    rows = requests(300, prompts=20)
    rows[100]["input_tokens"] = 3000
    run = diagnose(tmp_path, rows=rows)
    assert np.flatnonzero(run.prefix_group == -1).tolist() == [100]
    assert run.prefix_tokens[100] == 0
    assert "1 requests fit no prompt" in found(run, "repeated-prompts").advice


def test_rows_missing_from_the_trace_are_bridged_by_their_ids(tmp_path: Path) -> None:
    rows = [one for one in requests(2000, prompts=20) if one["request_id"] not in (400, 900, 901, 1500)]
    run = diagnose(tmp_path, rows=rows)
    assert (run.prefix_group == run.request_id % 20).all()


@pytest.mark.parametrize("lengths", [[512], [300, 500], [100, 200, 300, 400]])
def test_a_plain_pattern_of_lengths_is_no_proof(tmp_path: Path, lengths: list[int]) -> None:
    rows = [one | {"input_tokens": lengths[i % len(lengths)]} for i, one in enumerate(requests(400))]
    run = diagnose(tmp_path, rows=rows)
    assert "repeated-prompts" not in codes(run)
    assert (run.prefix_group == -1).all()


def test_equal_lengths_leave_the_word_to_the_generator(tmp_path: Path) -> None:
    rows = [one | {"input_tokens": 512} for one in requests(400, output=100)]
    run = diagnose(tmp_path, rows=rows, inference_perf=inference_perf(20, 100))
    assert "do not contradict" in found(run, "repeated-prompts").summary
    assert (run.prefix_group == np.arange(400) % 20).all()


@pytest.mark.parametrize(("real", "shared"), [(0, False), (30, True)])
def test_a_generator_that_the_lengths_contradict(tmp_path: Path, real: int, shared: bool) -> None:
    rows = requests(400, prompts=real, output=100)
    run = diagnose(tmp_path, rows=rows, inference_perf=inference_perf(20, 100))
    assert found(run, "repeats-contradict-generator").severity == "warning"
    assert bool((run.prefix_group >= 0).all()) == shared


def test_without_prefix_caching_repeats_are_said_to_cost_in_full(tmp_path: Path) -> None:
    run = diagnose(tmp_path, ServerOverrides(prefix_caching=False), rows=requests(300, prompts=20))
    assert "computed in full" in found(run, "repeated-prompts").advice


def test_named_prefixes(tmp_path: Path) -> None:
    rows = requests(100)
    for one in rows[:60]:
        one |= {"prefix_group": "system", "prefix_length": 128}
    run = diagnose(tmp_path, rows=rows)
    assert found(run, "named-prefixes").evidence == {"requests": 60, "groups": 1}
    assert run.prompt_tokens[0] == 128 + int(str(rows[0]["input_tokens"]))
    assert run.prompt_tokens[60] == rows[60]["input_tokens"]
    assert (run.prefix_tokens == np.where(run.prefix_group >= 0, 128, 0)).all()
    rows[3]["prefix_length"] = 64
    assert "prefix-length-differs" in codes(diagnose(tmp_path, rows=rows))


def test_a_named_prefix_without_length_is_not_guessed(tmp_path: Path) -> None:
    rows = [one | {"prefix_group": "system"} for one in requests(100)]
    run = diagnose(tmp_path, rows=rows)
    assert found(run, "prefix-length-missing").severity == "warning"
    assert (run.prefix_group == -1).all()


@given(period=st.integers(10, 40), cycles=st.integers(6, 12), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_every_cycle_of_many_lengths_is_found(period: int, cycles: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    lengths = random.permutation(np.arange(100, 100 + 3 * period))[:period]
    prompts = np.tile(lengths, cycles)[: period * cycles - int(random.integers(period))]
    cycle = find_cycle(prompts, np.arange(len(prompts)))
    assert cycle is not None
    assert cycle.period == period
    assert cycle.explained == 1


@given(number=st.integers(20, 600), kinds=st.integers(2, 60), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_random_lengths_are_never_taken_for_repeats(number: int, kinds: int, seed: int) -> None:
    prompts = np.random.default_rng(seed).integers(500, 500 + kinds, number)
    assert find_cycle(prompts, np.arange(number)) is None


# Trap 2: output counts.


def miscounted(number: int = 400) -> list[Row]:
    """Every request made 100 tokens, and the client reports anything from 0 to 100."""
    random = np.random.default_rng(1)
    return [one | {"output_tokens": int(random.integers(0, 101))} for one in requests(number, prompts=20, output=100)]


def test_wrong_output_counts_are_corrected_by_the_generator(tmp_path: Path) -> None:
    run = diagnose(tmp_path, rows=miscounted(), inference_perf=inference_perf(20, 100))
    finding = found(run, "output-count-wrong")
    assert finding.severity == "corrected"
    assert "does not depend" in finding.summary
    assert (run.output_tokens == 100).all()
    assert run.ok.all()


def test_wrong_output_counts_are_corrected_by_a_flag(tmp_path: Path) -> None:
    run = diagnose(tmp_path, ServerOverrides(output_tokens=100), rows=miscounted())
    assert "--output-tokens" in found(run, "output-count-wrong").summary
    assert (run.output_tokens == 100).all()


def test_wrong_output_counts_without_settings_are_only_doubted(tmp_path: Path) -> None:
    rows = [one | {"output_tokens": max(1, int(str(one["output_tokens"])))} for one in miscounted()]
    run = diagnose(tmp_path, rows=rows, inference_perf=inference_perf(20, 100, ignore_eos=False))
    assert "--output-tokens" in found(run, "output-count-doubtful").advice
    assert run.output_tokens.tolist() == [one["output_tokens"] for one in rows]


def test_counts_that_the_times_confirm_stand_against_the_generator(tmp_path: Path) -> None:
    rows = requests(400)
    run = diagnose(tmp_path, rows=rows, inference_perf=inference_perf(20, 100))
    assert found(run, "generator-contradicts-times").severity == "warning"
    assert run.output_tokens.tolist() == [one["output_tokens"] for one in rows]


def test_right_counts_need_no_word(tmp_path: Path) -> None:
    run = diagnose(tmp_path, rows=requests(300, output=100), inference_perf=inference_perf(20, 100))
    assert not codes(run) & {"output-count-wrong", "generator-contradicts-times", "output-count-doubtful"}


def test_zero_outputs_are_estimated_and_not_measured(tmp_path: Path) -> None:
    rows = requests(300)
    true_count = int(str(rows[10]["output_tokens"]))
    rows[10]["output_tokens"] = 0
    run = diagnose(tmp_path, rows=rows)
    assert not run.ok[10]
    assert run.ok.sum() == 299
    assert run.output_tokens[10] == pytest.approx(true_count, rel=0.15)
    assert np.isnan(run.ttft_us[10])
    assert np.isnan(run.e2e_us[10])


def test_no_output_counts_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--output-tokens"):
        diagnose(tmp_path, rows=[one | {"output_tokens": 0} for one in requests(60)])


def test_output_ends_at_the_context_limit(tmp_path: Path) -> None:
    rows = requests(100, output=100)
    rows[5]["input_tokens"] = 4040
    run = diagnose(tmp_path, ServerOverrides(output_tokens=100), rows=rows)
    assert run.output_tokens[5] == 56
    assert found(run, "output-cut-by-context").evidence == {"requests": 1}
    assert found(run, "output-cut-by-context").severity == "warning"  # it contradicts the flag


def test_a_flag_beyond_the_context_is_refused_and_not_cut(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--output-tokens: 4096, expected at most \d+: max_model_len is 4096"):
        diagnose(tmp_path, ServerOverrides(output_tokens=4096), rows=requests(100))


@given(slope=st.floats(0, 2), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_elasticity_recovers_what_the_times_do(slope: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    counts = random.integers(50, 500, 2000)
    decode = 1e6 * (1 + slope * (counts / counts.mean() - 1)) * random.normal(1, 0.05, 2000)
    follows = elasticity(counts, decode)
    assert follows is not None
    # Counts are compared less one, as one token needs no decode step.
    assert follows.value == pytest.approx(slope * (1 - 1 / counts.mean()), abs=6 * follows.error + 1e-3)


# Prompt counts.


def test_the_servers_prompt_count_wins(tmp_path: Path) -> None:
    rows = [one | {"server_input_tokens": int(str(one["input_tokens"])) + 5} for one in requests(100)]
    run = diagnose(tmp_path, rows=rows)
    assert found(run, "prompt-count-differs").evidence["requests"] == 100
    assert run.prompt_tokens.tolist() == [one["server_input_tokens"] for one in rows]


def test_zero_prompts_load_but_are_not_measured(tmp_path: Path) -> None:
    rows = requests(101)
    rows[4]["input_tokens"] = 0
    run = diagnose(tmp_path, rows=rows)
    assert "zero-prompt-tokens" in codes(run)
    assert not run.ok[4]
    assert run.prompt_tokens[4] > 0
    with pytest.raises(InputError, match="input_tokens is 0 in every row"):
        diagnose(tmp_path, rows=[one | {"input_tokens": 0} for one in rows])


# Trap 5: overload, failures, survivors.


def served(rate: float, number: int = 600, slots: int = 8) -> list[Row]:
    """A toy server with `slots` places that takes 1 s a request: capacity is `slots` requests a second."""
    random = np.random.default_rng(2)
    sends = np.cumsum(random.exponential(1e6 / rate, number))
    free = [0.0] * slots
    rows: list[Row] = []
    for i, send in enumerate(sends.tolist()):
        start = max(send, heapq.heappop(free))
        heapq.heappush(free, start + 1e6)
        ttft, e2e = int(start - send + 20_000), int(start - send + 1e6)
        rows.append(row(i, int(send) + 1, ttft, e2e, int(random.integers(200, 900)), 100))
    return rows


def with_slots(slots: int) -> dict[str, Any]:
    head = header()
    head["server"]["max_num_seqs"] = slots
    return {"header": head, "exp_config": {"max_num_batched_tokens": 2048}}


@pytest.mark.parametrize(("rate", "saturated"), [(2.0, False), (4.0, False), (6.5, False), (10.0, True), (16.0, True)])
def test_overload_is_told_from_load(tmp_path: Path, rate: float, saturated: bool) -> None:
    run = diagnose(tmp_path, rows=served(rate), **with_slots(8))
    assert run.saturated == saturated
    assert ("saturated" in codes(run)) == saturated


def test_near_capacity_is_a_warning(tmp_path: Path) -> None:
    finding = found(diagnose(tmp_path, rows=served(6.5), **with_slots(8)), "near-capacity")
    assert finding.severity == "warning"
    assert finding.evidence["batch_slots"] == 8


def test_a_small_kv_pool_bounds_the_batch(tmp_path: Path) -> None:
    run = diagnose(tmp_path, rows=served(6.5), **with_slots(128), kv_cache={"num_gpu_blocks": 400})
    assert found(run, "near-capacity").evidence["batch_slots"] in (9, 10)


def test_failed_requests_load_but_are_not_measured(tmp_path: Path) -> None:
    rows = requests(200, output=100)
    rows[50] |= {"status": "timeout", "error_message": "deadline passed"}
    rows[51] |= {"status": "error", "first_chunk_time_us": 0, "last_chunk_time_us": 0, "output_tokens": 0}
    halfway = int(str(rows[50]["first_chunk_time_us"])) + 50 * 8000
    rows[50]["last_chunk_time_us"] = halfway
    run = diagnose(tmp_path, rows=rows, inference_perf=inference_perf(20, 100))
    finding = found(run, "failed-requests")
    assert (finding.evidence["failed"], finding.evidence["without_chunk"]) == (2, 1)
    assert "deadline passed" in finding.summary
    assert len(run) == 199
    assert 51 not in run.request_id
    assert not run.ok[50]
    assert np.isnan(run.e2e_us[50])
    assert run.output_tokens[50] == pytest.approx(51, abs=3)


def test_survivors_of_a_crowd_are_called_so(tmp_path: Path) -> None:
    rows = served(16.0)
    for one in rows[480:580:2]:
        one |= {"status": "error", "first_chunk_time_us": 0, "last_chunk_time_us": 0}
    finding = found(diagnose(tmp_path, rows=rows, **with_slots(8)), "failed-requests")
    assert finding.evidence["survivor_bias"] is True
    assert "survivors" in finding.summary


def test_the_run_starts_at_its_first_request_that_ran(tmp_path: Path) -> None:
    rows = requests(60)
    rows[0] |= {"status": "error", "first_chunk_time_us": 0, "last_chunk_time_us": 0}
    assert diagnose(tmp_path, rows=rows).arrival_us[0] == 0


def test_a_server_that_had_just_started_is_told_from_a_warm_one(tmp_path: Path) -> None:
    rows = requests(300)
    assert "--warm" in found(diagnose(tmp_path / "warm", rows=rows), "warm-server").advice
    for one in rows[1:4]:
        for column in ("first_chunk_time_us", "last_chunk_time_us"):
            one[column] = int(str(one[column])) + 400_000
    longest = found(diagnose(tmp_path / "cold", rows=rows), "cold-start").evidence["longest_ttft_us"]
    assert isinstance(longest, float)
    assert longest > 400_000
    told = diagnose(tmp_path / "told", ServerOverrides(fresh=False), rows=rows)
    assert not codes(told) & {"cold-start", "warm-server"}
    assert not told.server.fresh


def test_warm_up_and_unstreamed_rows_stay_as_load(tmp_path: Path) -> None:
    rows = requests(100)
    rows[50]["streaming"] = "false"
    run = diagnose(tmp_path, rows=rows, header=header() | {"warm_up_requests": 10})
    assert len(run) == 100
    assert run.ok.sum() == 89
    assert {"warm-up", "not-streamed"} <= codes(run)


def test_requests_the_server_cannot_have_served(tmp_path: Path) -> None:
    run = diagnose(tmp_path, ServerOverrides(max_model_len=600), rows=requests(100))
    assert run.findings[0].code == "longer-than-server-allows"
    assert run.findings[0].severity == "error"
    run = diagnose(tmp_path, ServerOverrides(num_gpu_blocks=10), rows=requests(100))
    assert "num_gpu_blocks" in run.findings[0].summary


# Clocks and chunks.


def test_clocks_of_different_origin_are_harmless(tmp_path: Path) -> None:
    rows = requests(100)
    moved = [one | {"arrival_time_us": one["send_time_us"]} for one in rows]
    for one in moved:
        for column in ("send_time_us", "first_chunk_time_us", "last_chunk_time_us"):
            one[column] = int(str(one[column])) + 1_770_000_000_000_000
    run = diagnose(tmp_path, rows=moved)
    assert "clock-origins-differ" in codes(run)
    plain = diagnose(tmp_path, rows=rows)
    assert (run.arrival_us == plain.arrival_us).all()
    assert (run.e2e_us == plain.e2e_us).all()


def test_a_client_that_falls_behind(tmp_path: Path) -> None:
    rows = [one | {"arrival_time_us": int(str(one["send_time_us"])) - 10_000 * i} for i, one in enumerate(requests(90))]
    assert "late-sends" in codes(diagnose(tmp_path, rows=rows))


@pytest.mark.parametrize(
    ("per_token", "extra", "code"), [(2, 0, "chunks-not-tokens"), (1, 1, "usage-chunk"), (1, 0, None), (0, 0, None)]
)
def test_chunks_against_tokens(tmp_path: Path, per_token: int, extra: int, code: str | None) -> None:
    rows = [one | {"num_chunks": per_token * int(str(one["output_tokens"])) + extra} for one in requests(100)]
    found_codes = codes(diagnose(tmp_path, rows=rows)) & {"chunks-not-tokens", "usage-chunk"}
    assert found_codes == ({code} if code else set())


def test_answers_that_came_in_one_piece(tmp_path: Path) -> None:
    rows = requests(100)
    rows[3]["first_chunk_time_us"] = rows[3]["last_chunk_time_us"]
    assert found(diagnose(tmp_path, rows=rows), "bundled-chunks").evidence == {"requests": 1}


# Advice, documents and what always holds.


def test_the_next_experiment(tmp_path: Path) -> None:
    rows = [one | {"input_tokens": 500 + i % 20} for i, one in enumerate(requests(400, output=100))]
    advice = found(diagnose(tmp_path, rows=rows), "next-experiment").advice
    for words in ("other lengths", "unique prompts", "another request rate"):
        assert words in advice
    assert "few-requests" in codes(diagnose(tmp_path, rows=rows[:20]))


@pytest.mark.parametrize("number", [1, 2, 5])
def test_the_smallest_runs_do_not_break_it(tmp_path: Path, number: int) -> None:
    run = diagnose(tmp_path, rows=requests(number), inference_perf=inference_perf())
    assert len(run) == number
    assert not run.saturated


def test_the_document_is_json(tmp_path: Path) -> None:
    run = diagnose(tmp_path, rows=miscounted(), inference_perf=inference_perf(20, 100))
    document = json.loads(json.dumps(run.to_dict(), allow_nan=False))
    assert document["run"] == "run"
    assert document["requests"] == document["measured"] == 400
    assert document["saturated"] is False
    assert {finding["code"] for finding in document["findings"]} == codes(run)
    assert document["server"]["block_size"] == 16


def test_a_repeated_prompt_whose_length_nobody_reports_is_as_long_as_others(tmp_path: Path) -> None:
    rows = requests(60, 3, 12)
    for one in rows[9::12]:
        one["input_tokens"] = 0
    run = clean(read_raw(RunFolder(rows=rows).write(tmp_path / "a")))
    unknown = np.arange(60) % 12 == 9
    assert found(run, "repeated-prompts").evidence["period"] == 12
    assert run.prompt_tokens[unknown].tolist() == [int(np.median(run.prompt_tokens[~unknown]))] * 5
    assert not run.ok[unknown].any()
    assert len(np.unique(run.prefix_group[unknown])) == 1


@example(seed=241, number=26, prompts=12)
@given(seed=st.integers(0, 2**32 - 1), number=st.integers(5, 150), prompts=st.sampled_from([0, 12]))
@settings(max_examples=30, deadline=None)
def test_what_always_holds(seed: int, number: int, prompts: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    random = np.random.default_rng(seed)
    rows = requests(number, seed, prompts)
    for one in rows:
        if random.random() < 0.1:
            one |= {"status": "error", "output_tokens": int(random.integers(0, 9))}
            if random.random() < 0.5:
                one |= {"first_chunk_time_us": 0, "last_chunk_time_us": 0}
        if random.random() < 0.1:
            one["input_tokens"] = 0
    rows[0] |= requests(number, seed)[0]
    raw = read_raw(RunFolder(rows=rows).write(tmp_path_factory.mktemp("a")))
    run = clean(raw)
    assert (np.diff(run.arrival_us) >= 0).all()
    assert (run.prompt_tokens > 0).all()
    assert (run.output_tokens > 0).all()
    assert (run.prefix_tokens <= run.prompt_tokens).all()
    assert ((run.prefix_group >= 0) == (run.prefix_tokens > 0)).all()
    assert (np.isfinite(run.e2e_us) == run.ok).all()
    assert (np.isfinite(run.ttft_us) == run.ok).all()
    measured = np.isin(raw.request_id, run.request_id[run.ok])
    assert (run.e2e_us[run.ok] == raw.e2e_us[measured]).all()
    # The order of the rows in the file does not matter.
    shuffled = [rows[place] for place in random.permutation(number)]
    again = clean(read_raw(RunFolder(rows=shuffled).write(tmp_path_factory.mktemp("b"))))
    for name in ("request_id", "arrival_us", "prompt_tokens", "output_tokens", "prefix_group", "prefix_tokens"):
        assert (getattr(run, name) == getattr(again, name)).all()


SATURATED = "20260218-160939-codellama-34b-tp2-reasoning"
CROWDED = "20260217-231439-llama-2-7b-tp1-general"


def test_the_traps_of_the_real_runs(shared: Path) -> None:
    for folder in eleven_runs(shared):
        raw = read_raw(folder)
        run = clean(raw)
        assert run.saturated == (folder.name == SATURATED)
        repeats = found(run, "repeated-prompts")
        assert repeats.evidence["period"] == 100
        assert repeats.evidence["unassigned_requests"] == 0
        assert find_cycle(run.prompt_tokens, raw.request_id) is not None
        assert "does not depend" in found(run, "output-count-wrong").summary
        assert raw.generator is not None
        assert (run.output_tokens == raw.generator.output_tokens).all()
        assert not {finding.severity for finding in run.findings} & {"error"}
        for group in range(100):
            assert len(np.unique(run.prompt_tokens[run.prefix_group == group])) == 1


def test_the_run_whose_requests_mostly_failed(shared: Path) -> None:
    """Its client gave most of them up after 300 s: they stay, and what repeats is read off the others."""
    raw = read_raw(shared / "groundtruth" / OVERLOADED)
    run = clean(raw)
    assert run.saturated
    evidence = found(run, "client-deadline").evidence
    assert evidence["given_up"] == int((~raw.ok).sum()) == int(run.late.sum())
    assert run.deadline_us == pytest.approx(300.5e6, abs=0.5e6)
    assert len(run) == len(raw)
    assert found(run, "repeated-prompts").evidence["period"] == 100
    assert (run.prefix_group >= 0).mean() > 0.99
    assert np.abs(run.prompt_tokens[run.late].mean() / run.prompt_tokens[run.ok].mean() - 1) < 0.01
    assert (run.output_tokens == 1448).all()
    assert "does not depend" in found(run, "output-count-wrong").summary
    assert not {finding.severity for finding in run.findings} & {"error"}


def test_the_run_at_the_edge_of_capacity(shared: Path) -> None:
    assert "near-capacity" in codes(clean(read_raw(shared / "groundtruth" / CROWDED)))


def test_examining_is_quick(shared: Path) -> None:
    raw = read_raw(shared / "groundtruth" / CROWDED)
    assert_within(best_s(lambda: clean(raw), 3), 0.3)
