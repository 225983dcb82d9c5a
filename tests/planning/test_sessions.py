"""Sessions: a turn follows an answer, its prompt is all that was said, and the cache has it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fitted import a_calibration, a_run

from roofml.planning.candidates import Candidate
from roofml.planning.capacity import capacity
from roofml.planning.plan import Option, Plan
from roofml.planning.sessions import serve
from roofml.planning.simulation import simulate
from roofml.planning.trials import DEEP, Trials, targets_of
from roofml.util.errors import InputError
from roofml.workloads.slo import parse_slos
from roofml.workloads.spec import parse_spec

SERVER = replace(a_run().server, fresh=False, num_gpu_blocks=20_000)
CALIBRATION = a_calibration()
CALIBRATION = replace(CALIBRATION, allow_oversize=True, deployment=CALIBRATION.deployment.serving(SERVER))
LINE = "poisson:rate=4,input=uniform(50,200),output=40,turns=4,think=exponential(2)"


def test_a_prompt_is_all_that_was_said_before_it() -> None:
    load = parse_spec(LINE).load(300, 1)
    assert (np.diff(load.arrival_us) >= 0).all()
    follows = np.flatnonzero(load.after >= 0)
    assert len(follows) > 100
    before = load.after[follows]
    assert (before < follows).all()
    assert np.array_equal(load.prefix_group[follows], load.prefix_group[before])
    added = load.prompt_tokens[follows] - load.prompt_tokens[before] - load.output_tokens[before]
    assert (added >= 50).all()
    assert (added <= 200).all()


def test_a_turn_is_sent_a_pause_after_the_answer() -> None:
    load = parse_spec(LINE).load(200, 1)
    served = serve(CALIBRATION, load, SERVER)
    sent, run, replayed = served.load, served.run, served.replay
    end = {}
    for request in range(len(run)):
        key = (int(sent.prefix_group[request]), int(sent.prompt_tokens[request]))
        end[key] = (run.arrival_us[request], run.arrival_us[request] + replayed.e2e_us[request])
    for request in np.flatnonzero(load.after >= 0):
        before = load.after[request]
        own = end[int(load.prefix_group[request]), int(load.prompt_tokens[request])][0]
        answered = end[int(load.prefix_group[before]), int(load.prompt_tokens[before])][1]
        assert own == pytest.approx(answered + load.pause_us[request], abs=1e-5)  # of some 1e8 µs, by rounding


def test_what_was_sent_is_served_the_same_when_it_is_a_recording() -> None:
    served = serve(CALIBRATION, parse_spec(LINE.replace("rate=4", "rate=300")).load(2000, 1), SERVER)
    replayed, again = served.replay, CALIBRATION.replay(served.run)
    assert not len(served.load.after)
    assert np.array_equal(again.e2e_us, replayed.e2e_us)
    assert np.array_equal(again.ttft_us, replayed.ttft_us)
    assert np.array_equal(again.schedule.step_start_us, replayed.schedule.step_start_us)
    assert again.schedule.steps.requests.max() > 50


def test_the_past_is_found_in_the_cache_answers_too() -> None:
    simulated = simulate(CALIBRATION, parse_spec(f"{LINE},requests=300"), SERVER)
    load = simulated.served.run
    found = simulated.served.replay.schedule.cached_tokens
    later = found > 0
    assert later.mean() > 0.5
    # All of the last turn, question and answer, but for what fills no block.
    assert simulated.facts["cached_share_of_prompts"] > 0.5
    assert (found <= load.prompt_tokens).all()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("turns=0", "turns '0': expected requests from 1 to 1000"),
        ("think=2", "think '2': expected turns beside it"),
        ("turns=3,think=-1", "think '-1': expected seconds"),
        ("turns=3,shared_prefix=64", "shared_prefix 64 beside turns"),
    ],
)
def test_what_a_session_cannot_be_is_refused(more: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_spec(f"poisson:rate=1,input=100,output=9,{more}")


def test_sessions_without_end_have_been_going_on() -> None:
    """From its first minute on a load has its rate, as many turns of each place, and long prompts."""
    workload = parse_spec("poisson:rate=10,input=100,output=50,turns=8,think=30")
    load = workload.load(6000, 1, answer_s=1.0)
    minutes = np.histogram(load.arrival_us / 60e6, np.arange(11))[0]
    assert minutes == pytest.approx(np.full(10, 600), rel=0.3)
    early, late = load.arrival_us < 60e6, load.arrival_us > 300e6
    assert load.prompt_tokens[early].mean() == pytest.approx(load.prompt_tokens[late].mean(), rel=0.1)
    benchmark = workload.of(6000).load(seed=1)  # of so many requests, as a client sends them
    assert np.sum(benchmark.arrival_us < 60e6) < 200
    assert benchmark.prompt_tokens[benchmark.arrival_us < 30e6].max() == 100


def test_no_two_sessions_share_a_prompt_and_each_goes_on_where_it_was() -> None:
    load = parse_spec(f"{LINE}").load(500, 3, answer_s=2.0)
    for group in np.unique(load.prefix_group):
        prompts = load.prompt_tokens[load.prefix_group == group]
        assert (np.diff(prompts) > 0).all()
    first = np.flatnonzero(load.after < 0)
    assert len(np.unique(load.prefix_group[first])) == len(first)


def test_a_plan_of_sessions_holds_what_is_answered_and_says_how_many_they_are() -> None:
    workload = parse_spec("poisson:rate=1,input=uniform(50,200),output=40,turns=3,think=1")
    targets = targets_of(workload, parse_slos(["p95 ttft < 30s"]))
    trials = Trials(CALIBRATION, workload, SERVER, targets)
    full = trials.flood()
    quiet, over = trials.at(0.5 * full), trials.at(1.5 * full)
    assert not quiet.too_many
    assert over.too_many
    assert quiet.requests_per_s == pytest.approx(0.5 * full, rel=0.12)
    assert over.requests_per_s < 1.2 * full
    held = capacity(trials)
    option = Option(Candidate("m", "H100", 1), SERVER, held)
    (told,) = (each["sessions"] for each in Plan(workload, targets, [option], None).to_dict()["candidates"])
    assert told["per_s"] == pytest.approx(held.level.value / 3)
    assert told["under_way"] == pytest.approx(told["per_s"] * (3 * held.at_knee.e2e_us / 1e6 + 2))


@pytest.mark.slow
@pytest.mark.parametrize(("blocks", "stays"), [(8_000, True), (100_000, False)])
def test_a_server_whose_cache_holds_no_session_after_an_overload_stays_overloaded_and_a_plan_says_so(
    blocks: int, stays: bool
) -> None:
    server = replace(SERVER, num_gpu_blocks=blocks)
    workload = parse_spec("poisson:rate=1,input=uniform(300,600),output=60,turns=5,think=0")
    targets = targets_of(workload, parse_slos(["p95 ttft < 2s"]))
    held = capacity(Trials(CALIBRATION, workload, server, targets))
    assert held.stays_overloaded == stays
    option = Option(Candidate("m", "H100", 1), server, held)
    planned = Plan(workload, targets, [option], None)
    assert ("after an overload it answers only" in " ".join(str(planned).split())) == stays
    assert planned.to_dict()["candidates"][0]["rate_after_overload"] == held.after_overload

    def answered_late_per_s(level: float, answer_s: float) -> float:
        """In the middle of a load some ten times as long as the plan's, by another seed."""
        served = serve(CALIBRATION, workload.at(level).load(12_000, 5, answer_s), server)
        end, done = served.run.arrival_us[-1], served.run.arrival_us + served.replay.e2e_us
        return float(((done > 0.4 * end) & (done <= 0.8 * end)).sum() / (0.4 * end / 1e6))

    level, after = held.level.value, held.after_overload
    assert after is not None
    crowd_s = DEEP * server.max_num_seqs / level
    assert answered_late_per_s(level, 0.0) == pytest.approx(level, rel=0.1)
    assert answered_late_per_s(level, crowd_s) == pytest.approx(after if stays else level, rel=0.1)
    if stays:  # fewer come, and it comes out of it
        assert answered_late_per_s(0.8 * after, crowd_s) == pytest.approx(0.8 * after, rel=0.1)


def test_a_load_that_ends_before_its_pauses_is_called_too_short() -> None:
    workload = parse_spec("poisson:rate=1,input=9,output=9,turns=3,think=3000")
    assert workload.at(50).fewest == 8 * 50 * 2000
    (told,) = workload.at(50).too_short(1200)
    assert "1200 requests at 50 a second come in 24 s, with pauses of 2e+03 s on average" in told
    assert workload.at(50).of(1200).too_short(1200) == parse_spec(LINE).too_short(1200) == []
