"""Workloads: a seed is a load, a rate only stretches it, and a recording comes as it was or again."""

from __future__ import annotations

import numpy as np
import pytest
from fitted import a_run
from hypothesis import given
from hypothesis import strategies as st

from roofml.engine.replay import replay_at
from roofml.traces.server import Server
from roofml.util.errors import InputError
from roofml.workloads.read import of_run
from roofml.workloads.spec import parse_spec
from roofml.workloads.workload import Workload

SERVER = Server(
    model="m", tensor_parallel=1, max_num_seqs=64, max_num_batched_tokens=512, block_size=16, num_gpu_blocks=4000,
    max_model_len=4096,
)  # fmt: skip
KINDS = ("poisson:rate=4", "gamma:rate=4,burstiness=0.4", "constant:rate=4", "poisson:rate=stages(2x20,6x20)")
LENGTHS = "input=uniform(100,900),output=exponential(50),shared_prefix=64,groups=3"
COLUMNS = ("prompt_tokens", "output_tokens", "prefix_group", "prefix_tokens")


def workload(kind: str) -> Workload:
    return parse_spec(f"{kind},{LENGTHS}")


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 99), fewer=st.integers(1, 50))
def test_a_seed_is_a_load_and_a_longer_one_begins_as_it_does(kind: str, seed: int, fewer: int) -> None:
    of = workload(kind)
    short, long, other = of.load(fewer, seed), of.load(80, seed), of.load(80, seed + 1)
    for name in (*COLUMNS, "arrival_us"):
        assert np.array_equal(getattr(short, name), getattr(long, name)[:fewer])
    assert not np.array_equal(long.prompt_tokens, other.prompt_tokens)
    assert (np.diff(long.arrival_us) >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
@given(rate=st.floats(0.1, 100), seed=st.integers(0, 9))
def test_another_rate_only_stretches_the_same_load(kind: str, rate: float, seed: int) -> None:
    of = workload(kind)
    usual, other = of.load(60, seed), of.at(rate).load(60, seed)
    for name in COLUMNS:
        assert np.array_equal(getattr(usual, name), getattr(other, name))
    if "stages" not in kind:
        assert other.arrival_us == pytest.approx(usual.arrival_us * (of.level / rate))


def test_lengths_and_rates_are_those_that_were_asked_for() -> None:
    load = parse_spec("gamma:rate=8,burstiness=4,input=lognormal(1024,0.5),output=uniform(1,3)").load(20_000, 3)
    assert 1e6 * 20_000 / load.arrival_us[-1] == pytest.approx(8, rel=0.02)  # the gaps' sd is half their mean
    assert load.prompt_tokens.mean() == pytest.approx(1024, rel=0.02)
    assert np.log(load.prompt_tokens).std() == pytest.approx(0.5, rel=0.03)
    assert [np.mean(load.output_tokens == length) for length in (1, 2, 3)] == pytest.approx([1 / 3] * 3, abs=0.02)


def test_clients_who_think_have_as_many_requests_under_way_as_time_allows() -> None:
    load = parse_spec("closed:concurrency=4,think=exponential(0.5),input=50,output=20").load(60, 1)
    served = replay_at(load.run(SERVER), 1000.0)
    sent = served.schedule.arrival_us
    done = sent + served.e2e_us
    assert (np.diff(sent) >= 0).all()
    for i in range(len(sent)):
        assert np.sum((sent <= sent[i]) & (done > sent[i])) <= 4
    # Requests that follow an answer come a pause after one: each after another, in whatever order they end.
    follows = np.sort(sent[4:])
    possible = np.sort(done)[: len(follows)]
    assert (follows >= possible - 1e-6).all()
    assert sent[-1] > replay_at(parse_spec("closed:concurrency=4,input=50,output=20").load(60, 1).run(SERVER), 1000.0)\
        .schedule.arrival_us[-1]  # fmt: skip


def test_a_constant_pause_lies_between_an_answer_and_the_next_request() -> None:
    load = parse_spec("closed:concurrency=1,think=2,input=50,output=20").load(5, 0)
    served = replay_at(load.run(SERVER), 1000.0)
    sent = served.schedule.arrival_us
    assert sent[1:] - (sent + served.e2e_us)[:-1] == pytest.approx(2e6)


def test_a_recording_comes_as_it_was_and_again_with_prompts_of_its_own() -> None:
    from dataclasses import replace

    run = a_run(20)
    run = replace(run, prefix_group=np.arange(20) % 3 - 1, prefix_tokens=np.minimum(run.prompt_tokens, 64))
    of = of_run(run)
    once, twice = of.load(), of.load(40)
    assert np.array_equal(once.arrival_us, run.arrival_us)
    assert np.array_equal(twice.arrival_us[:20], run.arrival_us)
    assert (np.diff(twice.arrival_us) > 0).all()
    assert np.array_equal(twice.prompt_tokens, np.tile(run.prompt_tokens, 2))
    first, second = twice.prefix_group[:20], twice.prefix_group[20:]
    assert not set(first[first >= 0]) & set(second[second >= 0])
    faster = of.at(2 * of.level).load()
    assert faster.arrival_us == pytest.approx(run.arrival_us / 2)


def test_requests_that_came_at_once_have_no_rate() -> None:
    from dataclasses import replace

    of = of_run(replace(a_run(5), arrival_us=np.zeros(5)))
    assert len(of.load(12)) == 12
    with pytest.raises(InputError, match="cannot be stretched"):
        of.at(3.0)
