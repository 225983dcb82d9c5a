"""`vllm bench serve`: what its file says, and its traps."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clients import SERVER, Served, vllm_bench, write

from roofml.traces.aggregate_run import AggregateRun, RefusedRun
from roofml.traces.read import AnyRun, Reading, read_all, read_run
from roofml.traces.run import Run
from roofml.traces.server import ServerOverrides
from roofml.util.errors import InputError


def diagnosed(path: Path) -> Reading:
    return read_all([path], strict=False, complete=False)


def one(path: Path) -> AnyRun:
    (run,) = diagnosed(path).every
    return run


def codes(run: AnyRun) -> set[str]:
    return {finding.code for finding in run.findings}


def test_a_detailed_file_is_its_requests(tmp_path: Path) -> None:
    served = Served()
    run = read_run(write(tmp_path / "bench.json", vllm_bench(served)), **SERVER)
    assert np.allclose(run.arrival_us, 1e6 * (served.start - served.start[0]))
    assert np.allclose(run.e2e_us[1:], 1e6 * served.e2e[1:])
    assert np.allclose(run.ttft_us[1:], 1e6 * served.ttft[1:])
    assert run.prompt_tokens.tolist() == served.prompt.tolist()
    assert run.output_tokens.tolist() == served.output.tolist()
    assert (run.name, run.clients) == ("bench", 0)


def test_the_first_prompt_was_sent_before_and_is_not_measured(tmp_path: Path) -> None:
    served = Served()
    run = one(write(tmp_path / "bench.json", vllm_bench(served)))
    assert isinstance(run, Run)
    assert run.ok.tolist() == [False] + [True] * (len(served) - 1)
    assert "first-prompt-cached" in codes(run)
    assert run.means["mean_ttft_us"] == pytest.approx(1e6 * served.ttft.mean())  # of all, as the client has it
    assert not run.server.fresh


def test_a_failure_is_no_latency_of_zero(tmp_path: Path) -> None:
    served = Served()
    served.output[7] = 0
    served.ttft[7] = 0.0
    itls, errors = served.itls, [""] * len(served)
    itls[7], errors[7] = [], "boom"
    document = vllm_bench(served, itls=itls, errors=errors, completed=59, failed=1, mean_ttft_ms=None)
    run = one(write(tmp_path / "bench.json", document))
    assert isinstance(run, Run)
    assert not run.ok[run.request_id == 7].any()
    assert np.nanmin(run.ttft_us) > 1e4
    assert (run.to_dict()["requests"], run.to_dict()["completed"]) == (60, 59)
    assert "failed-requests" in codes(run)


def test_all_failed_is_refused_and_has_no_means(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("mean_ttft_ms", "mean_tpot_ms", "mean_e2el_ms", "median_ttft_ms"), 0.0)
    document = {key: value for key, value in vllm_bench(Served()).items() if not isinstance(value, list)}
    run = one(write(tmp_path / "bench.json", document | nothing | {"completed": 0, "failed": 60}))
    assert isinstance(run, RefusedRun)
    told = run.to_dict()
    assert told["refused"].startswith("all 60 requests failed")
    assert (told["requests"], told["completed"], told["mean_ttft_us"]) == (60, 0, None)


def aggregate(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in vllm_bench(Served(), **changes).items() if not isinstance(value, list)}


def test_aggregates_alone_are_a_run_of_means(tmp_path: Path) -> None:
    run = one(write(tmp_path / "bench.json", aggregate(max_concurrency=4, request_rate="inf")))
    assert isinstance(run, AggregateRun)
    assert run.load.max_concurrency == 4
    assert run.load.requests_per_s == math.inf
    assert len(run.prompt_tokens) == 60
    assert run.prompt_tokens.mean() == pytest.approx(Served().prompt.mean(), abs=0.02)
    assert "means-alone" in codes(run)
    with pytest.raises(InputError, match="means alone"):
        read_run(tmp_path / "bench.json", **SERVER)


def test_a_server_slower_than_its_load_is_saturated(tmp_path: Path) -> None:
    run = one(write(tmp_path / "bench.json", aggregate(request_rate=50.0)))
    assert isinstance(run, AggregateRun)
    assert run.saturated
    assert "saturated" in codes(run)


def test_appended_runs_are_told_apart(tmp_path: Path) -> None:
    lines = [aggregate(request_rate=rate) for rate in (8.0, 9.0)]
    (tmp_path / "bench.json").write_text("\n".join(map(json.dumps, lines)) + "\n")
    runs = diagnosed(tmp_path / "bench.json").every
    assert [run.name for run in runs] == ["bench", "bench#2"]
    assert [run.load.requests_per_s for run in runs if isinstance(run, AggregateRun)] == [8.0, 9.0]


def test_a_sweep_says_what_it_swept(tmp_path: Path) -> None:
    runs = diagnosed(write(tmp_path / "summary.json", [aggregate() | {"max_num_seqs": size} for size in (8, 16)])).every
    assert [run.server.max_num_seqs for run in runs if isinstance(run, AggregateRun)] == [8, 16]


def test_the_same_prompts_again_are_cache_hits(tmp_path: Path) -> None:
    first, second = Served(), Served()
    second.ttft = second.ttft / 5
    both = [vllm_bench(first), vllm_bench(second)]
    (tmp_path / "bench.json").write_text("\n".join(map(json.dumps, both)))
    runs = diagnosed(tmp_path / "bench.json").every
    assert "warm-cache" not in codes(runs[0])
    assert "warm-cache" in codes(runs[1])
    assert runs[1].overview is not None
    assert "cache" in str(runs[1].overview.unfit)


def closed(served: Served, clients: int) -> Served:
    """The same requests by clients that wait for their answers."""
    free = [5000.0] * clients
    for row in range(len(served)):
        client = int(np.argmin(free))
        served.start[row] = free[client]
        free[client] += served.e2e[row]
    return served


def test_without_times_of_sending_a_closed_loop_is_rebuilt(tmp_path: Path) -> None:
    served = closed(Served(), 4)
    document = vllm_bench(served, start_times=None, request_rate="inf", max_concurrency=4)
    run = one(write(tmp_path / "bench.json", document))
    assert isinstance(run, Run)
    assert run.clients == 4
    assert np.allclose(run.arrival_us, 1e6 * (served.start - served.start[0]))
    assert "sends-rebuilt" in codes(run)


def test_a_closed_loop_that_took_another_time_is_not_rebuilt(tmp_path: Path) -> None:
    document = vllm_bench(closed(Served(), 4), start_times=None, request_rate="inf", max_concurrency=4, duration=1.0)
    run = one(write(tmp_path / "bench.json", document))
    assert isinstance(run, AggregateRun)


def test_without_times_of_sending_an_open_load_is_judged_by_its_means(tmp_path: Path) -> None:
    served = Served()
    run = one(write(tmp_path / "bench.json", vllm_bench(served, start_times=None)))
    assert isinstance(run, AggregateRun)
    assert run.measured["e2e_mean"] == pytest.approx(1e6 * served.e2e.mean())
    assert run.prompt_tokens.tolist() == served.prompt.tolist()


def test_lists_that_were_cut_leave_the_header_its_means(tmp_path: Path) -> None:
    served = Served()
    document = vllm_bench(served)
    document |= {key: value[:20] for key, value in document.items() if isinstance(value, list)}
    run = one(write(tmp_path / "bench.json", document))
    assert isinstance(run, Run)
    told = run.to_dict()
    assert (told["requests"], told["completed"]) == (60, 60)
    assert told["mean_ttft_us"] == pytest.approx(1e6 * served.ttft.mean())
    assert "20 of 60" in told["unfit"]
    assert "requests-missing" in codes(run)


def test_a_chunk_for_the_role_is_no_token(tmp_path: Path) -> None:
    served = Served()
    itls = [[1e-5, *gaps] for gaps in served.itls]
    run = one(write(tmp_path / "bench.json", vllm_bench(served, itls=itls, endpoint_type="openai-chat")))
    assert {"role-chunk", "chat-template-uncounted"} <= codes(run)
    assert "usage-chunk" not in codes(run)


def test_several_tokens_in_a_chunk_are_told(tmp_path: Path) -> None:
    served = Served()
    itls = [[2 * gap for gap in gaps[::2]] for gaps in served.itls]
    run = one(write(tmp_path / "bench.json", vllm_bench(served, itls=itls)))
    assert "bundled-chunks" in codes(run)
    assert "several tokens" in run.to_dict()["unfit"]
    told = ServerOverrides(settings={"stream_interval": 2})
    (streamed,) = read_all([tmp_path / "bench.json"], told, strict=False, complete=False).every
    assert streamed.to_dict()["unfit"] is None
    means = aggregate() | {"mean_itl_ms": 20.0}
    assert "bundled-chunks" in codes(one(write(tmp_path / "means.json", means)))


def test_speculation_is_refused(tmp_path: Path) -> None:
    run = one(write(tmp_path / "bench.json", vllm_bench(Served(), spec_decode_acceptance_rate=0.7)))
    assert isinstance(run, RefusedRun)
    assert "speculative decoding is not modelled" in run.reason


def test_latencies_are_taken_where_there_are_some(tmp_path: Path) -> None:
    served = Served()
    document = vllm_bench(served, itls=None, latencies=served.e2e.tolist(), queue_times=[0.1] * len(served))
    run = one(write(tmp_path / "bench.json", document))
    assert isinstance(run, Run)
    assert np.allclose(run.e2e_us[1:], 1e6 * served.e2e[1:])
    assert "client-queue" in codes(run)


def test_first_tokens_alone_are_judged_by_their_means(tmp_path: Path) -> None:
    run = one(write(tmp_path / "bench.json", vllm_bench(Served(), itls=None)))
    assert isinstance(run, AggregateRun)
    assert "no-token-times" in codes(run)


def test_requests_in_another_order_are_sorted(tmp_path: Path) -> None:
    served = Served()
    served.start[[3, 9]] = served.start[[9, 3]]
    run = one(write(tmp_path / "bench.json", vllm_bench(served)))
    assert isinstance(run, Run)
    assert (np.diff(run.arrival_us) >= 0).all()
    assert "rows-reordered" in codes(run)


def test_flags_complete_what_the_client_does_not_know(tmp_path: Path) -> None:
    path = write(tmp_path / "bench.json", vllm_bench(Served()))
    run = read_all([path], ServerOverrides(**SERVER)).runs[0]
    assert run.server.missing == ()
    assert run.server.said_by["model"] == "bench.json"
    assert run.server.said_by["gpu"] == "--gpu"
