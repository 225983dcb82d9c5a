"""Simulated loads: a recording is its replay to the digit, a queue obeys its laws, and what counts is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fitted import a_calibration, a_run
from hypothesis import given, settings
from hypothesis import strategies as st
from served import served

from roofml.calibration.coefficients import BlisSection
from roofml.calibration.servers import server_for
from roofml.planning.served_load import served_load
from roofml.planning.simulation import RATES, simulate
from roofml.traces.server import ServerOverrides
from roofml.util.errors import InputError
from roofml.workloads.read import of_run
from roofml.workloads.slo import parse_slos
from roofml.workloads.spec import parse_spec

SERVER = a_run().server
CALIBRATION = a_calibration()
QUICK = "input=uniform(100,400),output=40"


@pytest.mark.parametrize("fresh", [True, False])
def test_a_recorded_load_is_the_replay_of_its_run_to_the_digit(fresh: bool) -> None:
    run = served(120, fresh=fresh)
    calibration = a_calibration([run], pace=None)
    replayed = calibration.replay(run)
    simulated = simulate(calibration, of_run(run), run.server)
    assert np.array_equal(simulated.served.replay.ttft_us, replayed.ttft_us)
    assert np.array_equal(simulated.served.replay.e2e_us, replayed.e2e_us)
    assert simulated.metrics["ttft_mean"].value == np.mean(replayed.ttft_us)
    assert simulated.metrics["e2e_p99"].value == np.percentile(replayed.e2e_us, 99)


def test_one_client_sees_a_lone_request() -> None:
    loop = simulate(CALIBRATION, parse_spec("closed:concurrency=1,input=300,output=40,requests=12"), SERVER)
    alone = simulate(CALIBRATION, parse_spec("constant:rate=0.001,input=300,output=40,requests=12"), SERVER)
    for metric in ("ttft_p50", "tpot_p50", "e2e_p50"):
        assert loop.metrics[metric].value == pytest.approx(alone.metrics[metric].value, rel=1e-9)


def test_littles_law_holds_for_a_steady_load() -> None:
    simulated = simulate(CALIBRATION, parse_spec(f"poisson:rate=6,{QUICK},requests=3000"), SERVER)
    in_flight = simulated.timeline.running + simulated.timeline.waiting
    arrived = simulated.served.sent_us
    rate = (len(arrived) - 1) / (arrived[-1] - arrived[0])
    assert np.mean(in_flight) == pytest.approx(rate * simulated.metrics["e2e_mean"].value, rel=0.02)


@pytest.mark.parametrize("think", [0.0, 0.5])
def test_clients_are_where_their_time_says(think: float) -> None:
    """Little's law of a closed loop: clients are throughput times what each spends on an answer and a pause."""
    line = f"closed:concurrency=8,think=exponential({think}),{QUICK}" if think else f"closed:concurrency=8,{QUICK}"
    simulated = simulate(CALIBRATION, parse_spec(line), SERVER)
    per_s, e2e_s = simulated.rates["requests_per_s"].value, simulated.metrics["e2e_mean"].value / 1e6
    assert per_s * (e2e_s + think) == pytest.approx(8, rel=0.03)


@given(rate=st.floats(1, 40), limit_ms=st.integers(1, 3000), seed=st.integers(0, 99))
@settings(max_examples=12)
def test_goodput_is_never_more_than_throughput(rate: float, limit_ms: int, seed: int) -> None:
    run = parse_spec(f"poisson:rate={rate},{QUICK}").load(120, seed).run(SERVER)
    served = served_load(run, CALIBRATION.replay(run), all_count=seed % 2 == 0)
    wanted = [(slo, np.ones(120, np.bool_)) for slo in parse_slos([f"p90 e2e < {limit_ms}ms", "mean tpot < 20ms"])]
    rates = served.rates(wanted)
    assert 0 <= rates["goodput_per_s"] <= rates["requests_per_s"]
    assert served.rates()["goodput_per_s"] == rates["requests_per_s"]


def test_goodput_is_throughput_at_most_and_falls_with_the_limit() -> None:
    load = parse_spec(f"poisson:rate=12,{QUICK},requests=600")
    rates = []
    for limit in ("5s", "300ms", "1ms"):
        simulated = simulate(CALIBRATION, load, SERVER, slos=parse_slos([f"p95 e2e < {limit}", "p95 itl < 1s"]))
        assert simulated.rates["goodput_per_s"].value <= simulated.rates["requests_per_s"].value
        rates.append(simulated.rates["goodput_per_s"].value)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == 0


def test_a_queue_that_grows_is_said_and_meets_no_slo() -> None:
    slos = parse_slos(["p50 tpot < 99s"])
    simulated = simulate(CALIBRATION, parse_spec(f"poisson:rate=500,{QUICK}"), SERVER, slos=slos)
    assert simulated.served.grows
    assert not any(simulated.met.values())
    assert any("queue grows" in text for text in simulated.warnings)
    assert simulated.rates["requests_per_s"].value < 400
    quiet = simulate(CALIBRATION, parse_spec(f"poisson:rate=5,{QUICK}"), SERVER, slos=slos)
    assert not quiet.served.grows
    assert all(quiet.met.values())
    assert quiet.rates["requests_per_s"].value == pytest.approx(5, rel=0.15)


def test_of_a_load_without_end_the_ends_do_not_count() -> None:
    run = parse_spec(f"poisson:rate=8,{QUICK}").load(1000, 0).run(SERVER)
    replayed = CALIBRATION.replay(run)
    steady, all_of_it = (served_load(run, replayed, all_count=every) for every in (False, True))
    assert all_of_it.judged.all()
    places = np.flatnonzero(steady.judged)
    assert 90 < places[0] < 400
    assert places[-1] < 999


def test_more_requests_than_wanted_make_no_figure_surer_than_it_says() -> None:
    simulated = simulate(CALIBRATION, parse_spec(f"poisson:rate=8,{QUICK}"), SERVER)
    again = simulate(CALIBRATION, parse_spec(f"poisson:rate=8,{QUICK}"), SERVER, seed=100)
    for metric in ("ttft_mean", "e2e_mean"):
        ends = simulated.metrics[metric].interval_90
        assert ends is not None
        assert ends[0] < simulated.metrics[metric].value < ends[1]
        assert again.metrics[metric].value == pytest.approx(simulated.metrics[metric].value, rel=0.1)


def test_the_document_has_what_the_table_has() -> None:
    simulated = simulate(CALIBRATION, parse_spec(f"poisson:rate=8,{QUICK},requests=200"), SERVER)
    document = simulated.to_dict()
    assert set(RATES) <= set(document)
    assert document["metrics"]["ttft_p95"]["predicted_us"] == simulated.metrics["ttft_p95"].value
    assert len(document["timeline"]["running"]) == len(document["timeline"]["end_s"])
    assert "mean TTFT" in repr(simulated)


def test_a_server_is_the_recorded_one_or_as_the_user_says_or_vllms_default() -> None:
    assert server_for(CALIBRATION, ServerOverrides(), SERVER) == SERVER
    default = server_for(CALIBRATION, ServerOverrides())
    assert (default.max_num_batched_tokens, default.max_num_seqs, default.fresh) == (8192, 1024, False)
    assert 5000 < default.num_gpu_blocks < 10_000  # 80 GB less 13.5 GB of weights, half a MB a token
    said = server_for(CALIBRATION, ServerOverrides(max_num_seqs=7, num_gpu_blocks=99, fresh=True))
    assert (said.max_num_seqs, said.num_gpu_blocks, said.fresh) == (7, 99, True)
    other = replace(SERVER, tensor_parallel=2)
    assert server_for(CALIBRATION, ServerOverrides(), other).tensor_parallel == 1


def test_limits_in_the_coefficients_stand_below_the_users_and_above_vllms() -> None:
    section = BlisSection(alpha_coeffs=[0.0] * 3, beta_coeffs=[0.0] * 10, total_kv_blocks=4321, max_num_seqs=77)
    calibration = replace(CALIBRATION, blis=section)
    found = server_for(calibration, ServerOverrides())
    assert (found.num_gpu_blocks, found.block_size, found.max_num_seqs) == (4321, 16, 77)
    assert found.max_num_batched_tokens == 8192
    assert server_for(calibration, ServerOverrides(max_num_seqs=5)).max_num_seqs == 5
    coarse = server_for(calibration, ServerOverrides(block_size=32))
    assert coarse == server_for(CALIBRATION, ServerOverrides(block_size=32, max_num_seqs=77))


def test_a_request_that_can_never_run_is_refused() -> None:
    with pytest.raises(InputError, match="exceed max_model_len"):
        simulate(CALIBRATION, parse_spec("poisson:rate=1,input=9000,output=2"), SERVER)
