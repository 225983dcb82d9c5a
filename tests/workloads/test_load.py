"""Loads: what is drawn is what was asked for, and a closed loop never has more requests in flight than clients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roofml.engine.replay import replay_at
from roofml.traces.server import Server
from roofml.workloads.lengths import constant, uniform
from roofml.workloads.load import closed_load, poisson_load

SERVER = Server(
    model="m", tensor_parallel=1, max_num_seqs=64, max_num_batched_tokens=512, block_size=16, num_gpu_blocks=4000,
    max_model_len=4096,
)  # fmt: skip


@given(low=st.integers(1, 2000), more=st.integers(0, 3000), requests=st.integers(1, 400), seed=st.integers(0, 99))
def test_uniform_lengths_stay_in_their_range_and_have_its_mean(low: int, more: int, requests: int, seed: int) -> None:
    drawn = uniform(low, low + more, requests, seed)
    assert len(drawn) == requests
    assert drawn.min() >= low
    assert drawn.max() <= low + more
    # One draw from each of `requests` parts: the mean is off by less than a part.
    assert abs(float(drawn.mean()) - (low + more / 2)) <= 1 + more / requests


@settings(deadline=None, max_examples=30)
@given(clients=st.integers(1, 20), requests=st.integers(1, 60), seed=st.integers(0, 9))
def test_a_closed_loop_has_as_many_requests_in_flight_as_clients(clients: int, requests: int, seed: int) -> None:
    load = closed_load("closed", clients, uniform(1, 300, requests, seed), uniform(1, 40, requests, seed + 1))
    served = replay_at(load.run(SERVER), 1000.0)
    sent = served.schedule.arrival_us
    done = sent + served.e2e_us
    assert np.all(np.diff(sent) >= 0)
    assert np.all(sent[: load.clients] == 0)
    for i in range(load.clients, requests):
        # The next is sent the moment one is answered, so as many are under way as there are clients.
        assert sent[i] in done
        assert np.sum((sent[:i] <= sent[i]) & (done[:i] > sent[i])) <= clients - 1


def test_one_client_waits_for_every_answer() -> None:
    load = closed_load("one", 1, constant(100, 5), constant(10, 5))
    served = replay_at(load.run(SERVER), 1000.0)
    assert served.schedule.arrival_us[1:] == pytest.approx((served.schedule.arrival_us + served.e2e_us)[:-1])


def test_a_client_that_gives_up_sends_its_next_request() -> None:
    from dataclasses import replace

    load = closed_load("impatient", 2, constant(10, 6), constant(400, 6))
    run = replace(load.run(SERVER), deadline_us=100_000.0)
    served = replay_at(run, 1000.0)
    assert not served.completed.any()
    assert served.schedule.arrival_us == pytest.approx([0, 0, 1e5, 1e5, 2e5, 2e5], rel=0.05)


def test_a_poisson_load_has_its_rate() -> None:
    load = poisson_load("open", 8.0, constant(100, 4000), constant(10, 4000), seed=0)
    assert 1e6 * 4000 / float(load.arrival_us[-1]) == pytest.approx(8.0, rel=0.05)  # 3 standard deviations
    assert load.arrival_us[0] == 0
