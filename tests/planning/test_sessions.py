"""Sessions: a turn follows an answer, its prompt is all that was said, and the cache has it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fitted import a_calibration, a_run

from roofml.planning.sessions import serve
from roofml.planning.simulation import simulate
from roofml.util.errors import InputError
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
    sent, run, replayed = serve(CALIBRATION, load, SERVER)
    end = {}
    for request in range(len(run)):
        key = (int(sent.prefix_group[request]), int(sent.prompt_tokens[request]))
        end[key] = (run.arrival_us[request], run.arrival_us[request] + replayed.e2e_us[request])
    gaps = []
    for request in np.flatnonzero(load.after >= 0):
        before = load.after[request]
        own = end[int(load.prefix_group[request]), int(load.prompt_tokens[request])][0]
        answered = end[int(load.prefix_group[before]), int(load.prompt_tokens[before])][1]
        gaps.append(own - answered - load.pause_us[request])
    assert np.mean(np.abs(gaps)) < 2e-3 * np.mean(replayed.e2e_us)


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
