"""Prefill and decode servers: what a client sees, what is sent between them, and that nothing is lost on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fitted import a_calibration, a_run

from roofml.calibration.calibrate import physics
from roofml.engine.incoming import POLL_US
from roofml.latency.deployment import deploy
from roofml.models.kv_size import kept_bytes
from roofml.models.load import load_model
from roofml.planning.candidates import Candidate, Stand
from roofml.planning.disaggregated import Disaggregated, Side
from roofml.planning.plan import Plan, plan
from roofml.planning.simulation import Simulation, simulate_by
from roofml.planning.systems import OneServer, Replicas
from roofml.planning.transfer import LATENCY_US, Link, block_us, link_between, rank_bytes
from roofml.planning.wanted import Wanted, system_of
from roofml.traces.server import ServerOverrides
from roofml.util.errors import InputError, NotSupportedError
from roofml.workloads.slo import parse_slos
from roofml.workloads.spec import parse_spec

SERVER = replace(a_run().server, fresh=False)
CALIBRATION = a_calibration()
CALIBRATION = replace(CALIBRATION, deployment=CALIBRATION.deployment.serving(SERVER))
OURS = CALIBRATION.deployment
AT_ONCE = Link(1e12, "nothing", from_sheet=False, latency_us=0.0)
SLOW = Link(5e3, "slow", from_sheet=False)
BUSY = parse_spec("poisson:rate=12,input=uniform(100,700),output=uniform(2,60),shared_prefix=64,groups=3,requests=160")


def disaggregated(prefill: int = 1, decode: int = 1, link: Link = SLOW, **changes: Any) -> Disaggregated:
    server = replace(SERVER, **changes)
    calibration = replace(CALIBRATION, deployment=OURS.serving(server))
    return Disaggregated(Side(CALIBRATION, SERVER, prefill), Side(calibration, server, decode), link)


@pytest.fixture(scope="module")
def simulated() -> Simulation:
    return simulate_by(disaggregated(2, 2), BUSY, parse_slos(["p95 ttft < 1s"]))


def test_kv_of_a_grouped_query_model_by_hand() -> None:
    """32 layers of 8 heads of 128, keys and values, 2 bytes each; 100 tokens are 7 blocks of 16."""
    whole = deploy("llama-3.1-8b-instruct", "H100", 1)
    assert rank_bytes(whole, whole, np.array([100]))[0] == 100 * 32 * 8 * 128 * 2 * 2
    halves = deploy("llama-3.1-8b-instruct", "H100", 2)
    assert rank_bytes(halves, halves, np.array([100]))[0] == 100 * 32 * 4 * 128 * 2 * 2
    # One prefill rank sends to two decode ranks: its link carries both halves. Of two to one, each carries its half,
    # and the one that receives all of it.
    assert rank_bytes(whole, halves, np.array([100])) == rank_bytes(whole, whole, np.array([100]))
    assert rank_bytes(halves, whole, np.array([100])) == rank_bytes(whole, whole, np.array([100]))
    sent_us = 7 * block_us(Link(50e3, "", from_sheet=False), whole, whole, np.array([100]), 16)[0]
    assert sent_us == pytest.approx(7 * 16 * 131_072 / 50e3)


def test_kv_of_a_latent_model_by_hand() -> None:
    """61 layers of 512 + 64 elements of 2 bytes, the same on every rank: one that sends to four sends it four times."""
    four, eight = (deploy("deepseek-v3", "H200", tp) for tp in (4, 8))
    token = 61 * (512 + 64) * 2
    assert rank_bytes(eight, eight, np.array([1000]))[0] == 1000 * token
    assert rank_bytes(four, eight, np.array([1000]))[0] == 2 * 1000 * token
    assert rank_bytes(eight, four, np.array([1000]))[0] == 1000 * token


@pytest.mark.parametrize("name", ["gpt-oss-20b", "qwen3-next-80b-a3b-instruct", "llama-3.1-8b-instruct"])
def test_windows_keep_their_last_tokens_and_states_are_one(name: str) -> None:
    model = load_model(name)
    ops, per_token = model.mixers(1), model.kv_bytes_per_token(1)
    one, many = kept_bytes(ops, np.array([1, 100_000]))
    assert one == per_token + model.state_bytes(1)
    assert many <= 100_000 * per_token + model.state_bytes(1)
    assert (many == 100_000 * per_token) == (name.startswith("llama"))


def test_idle_and_at_once_a_client_waits_for_the_prompt_and_one_step_more() -> None:
    """And for the decode server's front end, and its looks: one that begins, one that sees, two until it is known."""
    load = parse_spec("constant:rate=1,input=300,output=20").load(12)
    answer = disaggregated(link=AT_ONCE).serve(load)
    alone = CALIBRATION.replay(replace(load, output_tokens=np.ones(12, np.int64)).run(SERVER))
    lone = CALIBRATION.replay(load.run(SERVER))
    step = np.diff(answer.replay.schedule.step_start_us).min()
    more = answer.replay.ttft_us - alone.e2e_us
    request = CALIBRATION.parameters.request
    front = request.queueing_us + request.pipeline_delay_us
    assert (more >= front + step * 0.99).all()
    assert (more <= front + 1.1 * step + 4 * POLL_US).all()
    assert answer.replay.e2e_us - answer.replay.ttft_us == pytest.approx(lone.e2e_us - lone.ttft_us, rel=0.01)


def test_every_token_is_made_and_every_prompt_computed_once(simulated: Simulation) -> None:
    run, replayed = simulated.served.run, simulated.served.replay
    assert replayed.completed.all()
    assert replayed.schedule.steps.decode_tokens.sum() == run.output_tokens.sum()
    assert replayed.schedule.steps.prefill_tokens.sum() == 0  # decode servers compute no prompt
    system = simulated.system
    assert isinstance(system, Disaggregated)
    prompts = system.serve(BUSY.load()).prompts
    assert prompts is not None
    steps, cached = prompts[1].schedule.steps, prompts[1].schedule.cached_tokens
    assert steps.prefill_tokens.sum() + cached.sum() == run.prompt_tokens.sum()
    assert steps.decode_tokens.sum() == 0


def test_a_transfer_begins_after_its_prompt_and_ends_before_the_first_token(simulated: Simulation) -> None:
    replayed = simulated.served.replay
    begin, end = replayed.schedule.transfer_us
    first_token = replayed.schedule.arrival_us + replayed.ttft_us
    assert (begin > replayed.schedule.queued_us).all()
    assert (end - begin >= LATENCY_US).all()
    assert (first_token > end).all()


def test_the_same_again_to_the_digit(simulated: Simulation) -> None:
    again = simulate_by(disaggregated(2, 2), BUSY, parse_slos(["p95 ttft < 1s"]))
    assert again.to_dict() == simulated.to_dict()


def test_what_is_printed_has_both_sides_and_the_link(simulated: Simulation) -> None:
    said = simulated.to_dict()
    assert said["system"]["prefill"]["replicas"] == said["system"]["decode"]["replicas"] == 2
    assert said["system"]["gpus"] == 4
    assert said["system"]["link_gb_per_s"] == 5.0
    assert len(said["prompt_timeline"]["running"]) == len(said["timeline"]["running"])
    assert said["goodput_per_s"] <= said["requests_per_s"]
    tokens = np.ceil(BUSY.load().prompt_tokens / 16) * 16
    assert said["schedule"]["kv_bytes_per_request"] == np.mean(tokens) * load_model(SERVER.model).kv_bytes_per_token(1)
    assert "2 prefill and 2 decode servers" in str(simulated)
    for name, metric in simulated.metrics.items():
        assert metric.interval_90 is not None, name
        assert metric.interval_90[0] < metric.value < metric.interval_90[1]


def test_a_slow_link_and_few_blocks_cost_time_and_are_said() -> None:
    fast, slow = (simulate_by(disaggregated(link=link), BUSY) for link in (AT_ONCE, Link(8e2, "", from_sheet=False)))
    assert slow.metrics["ttft_mean"].value > fast.metrics["ttft_mean"].value
    assert any("the link of a prefill server is busy" in text for text in slow.warnings)
    few = simulate_by(disaggregated(num_gpu_blocks=60), BUSY)
    assert few.metrics["ttft_mean"].value > fast.metrics["ttft_mean"].value
    sheet = disaggregated(9, link=link_between(OURS, OURS))
    assert sheet.link.bytes_per_us == 0.7 * 450e3
    told = sheet.warnings(sheet.serve(BUSY.load()), BUSY.load().run(SERVER))
    assert any("10 GPUs are more than a node" in text for text in told)


def test_one_replica_is_the_server_to_the_digit_and_two_are_faster() -> None:
    load = parse_spec("poisson:rate=20,input=uniform(100,700),output=30,requests=150")
    one, same, two = (
        simulate_by(system, load, parse_slos(["p95 ttft < 1s"]))
        for system in (
            OneServer(CALIBRATION, SERVER),
            Replicas(CALIBRATION, SERVER, 1),
            Replicas(CALIBRATION, SERVER, 2),
        )
    )
    assert same.metrics == one.metrics
    assert same.rates == one.rates
    for metric in ("ttft_mean", "tpot_mean", "e2e_p99"):
        assert two.metrics[metric].value < one.metrics[metric].value
        assert two.metrics[metric].interval_90 is not None
    assert two.timeline.mean_kv_use < one.timeline.mean_kv_use
    assert two.facts["mean_batch"] < min(one.facts["mean_batch"], two.facts["largest_batch"])  # of one of them
    assert two.to_dict()["system"] == {"replicas": 2, "router": "least loaded", "gpus": 2}
    assert "2 replicas" in str(two)
    assert "system" not in one.to_dict()


def a_plan(**asked: Any) -> Plan:
    stand = Stand(ServerOverrides(num_gpu_blocks=SERVER.num_gpu_blocks, max_num_seqs=64), a_calibration())
    workload = parse_spec("poisson:rate=1,input=900,output=30")
    slos = parse_slos(["mean ttft < 400ms", "mean tpot < 10ms"])
    return plan(workload, slos, stand, [Candidate(SERVER.model, "H100", 1)], prices={"H100": 2.0}, **asked)


def test_a_plan_says_how_few_of_both_kinds_hold_the_rate() -> None:
    planned = a_plan(rate=25.0, disaggregated=True)
    both = planned.options[0].both_kinds
    assert both is not None
    said = planned.to_dict()["candidates"][0]["disaggregated"]
    assert said["gpus"] == both.prefill + both.decode == said["prefill_replicas"] + said["decode_replicas"]
    assert said["cost_per_hour"] == 2.0 * both.servers
    assert f"{both.prefill} prefill and {both.decode} decode servers are enough" in " ".join(str(planned).split())
    first, then = (Side(CALIBRATION, SERVER, servers) for servers in (both.prefill, both.decode))
    system = Disaggregated(first, then, both.link)
    held = simulate_by(system, parse_spec("poisson:rate=25,input=900,output=30,requests=600"))
    assert held.metrics["ttft_mean"].value < 1.1 * 400e3
    assert held.metrics["tpot_mean"].value < 1.1 * 10e3
    for wrong, text in (
        ({"disaggregated": True}, "expected --rate"),
        ({"link_gb_per_s": 9.0}, "--link: expected --dis"),
    ):
        with pytest.raises(InputError, match=text):
            a_plan(**wrong)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("closed:concurrency=4,input=100,output=9,requests=20", "clients that wait for answers, beside prefill"),
        ("poisson:rate=4,input=100,output=9,turns=3,requests=20", "sessions that wait for answers, beside prefill"),
    ],
)
def test_loads_whose_requests_wait_for_answers_are_refused(line: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        simulate_by(disaggregated(), parse_spec(line))


def test_clients_that_give_up_are_refused() -> None:
    with pytest.raises(InputError, match="clients that give up"):
        disaggregated().serve(replace(BUSY.load(), deadline_us=1e6))


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Wanted(prefill_replicas=1), "--decode-replicas missing"),
        (Wanted(decode_replicas=1), "--prefill-replicas missing"),
        (Wanted(1, 1, 1), "--replicas beside --prefill-replicas"),
        (Wanted(link_gb_per_s=5.0), "--link: expected --prefill-replicas"),
        (Wanted(router="least loaded"), "--router: expected --replicas"),
        (Wanted(2, router="dice"), "router 'dice': expected one of round robin"),
        (Wanted(0), "0 replicas: expected 1 to 1000"),
        (Wanted(None, 0, 1), "0 prefill replicas"),
        (Wanted(None, 1, 1001), "1001 decode replicas"),
        *((Wanted(None, 1, 1, None, link), "--link .*: expected GB/s above 0") for link in (0.0, -1.0, np.inf, 1e9)),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(wanted: Wanted, said: str) -> None:
    with pytest.raises(InputError, match=said):
        system_of(wanted, CALIBRATION, SERVER)


def test_prefill_servers_of_another_kind() -> None:
    other = physics(SERVER.model, gpu="H200", tp=2)
    with pytest.raises(InputError, match="prefill on H200 and decode on H100 are not of one node"):
        system_of(Wanted(None, 1, 1), CALIBRATION, SERVER, other)
    system = system_of(Wanted(None, 1, 2, "round-robin", 40.0), CALIBRATION, SERVER, other, ServerOverrides())
    assert isinstance(system, Disaggregated)
    assert (system.gpus, system.prefill.server.gpu, system.router) == (4, "H200", "round robin")
    with pytest.raises(InputError, match="another prefill server: expected --prefill-replicas"):
        system_of(Wanted(2), CALIBRATION, SERVER, other)
    with pytest.raises(InputError, match="expected one model"):
        link_between(deploy("llama-3.1-8b-instruct", "H100", 1), OURS)
    with pytest.raises(InputError, match="KV cache of prefill and decode servers"):
        link_between(deploy(SERVER.model, "H100", 1, kv_dtype="fp8"), OURS)
    staged = replace(OURS, parallel=replace(OURS.parallel, pp=2))
    with pytest.raises(NotSupportedError, match="pipeline stages"):
        link_between(staged, OURS)
