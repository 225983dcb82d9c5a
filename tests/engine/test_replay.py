"""The replay: conservation, budgets, order, exact latencies of small cases, and equality with a plain scheduler."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_scheduler import Row, simulate
from synthetic import PLENTY, plain_tables, request_parameters, run_of, step_parameters, tables

import roofml
from roofml.engine.replay import Replay, replay, replay_with
from roofml.engine.scheduler import compiled_in
from roofml.latency.batch import StepSums
from roofml.latency.components import ComponentTables
from roofml.latency.formula import step_times
from roofml.latency.parameters import PRIOR_VALUES, Parameters, RequestParameters, StepParameters
from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.util.arrays import Floats
from roofml.util.errors import InputError

NO_DELAYS = RequestParameters(0.0, 0.0, 0.0)
WHOLE = StepParameters(
    per_layer_us=0.0, per_step_us=100.0, mixed_step_us=10.0, per_request_us=4.0,
    growth_16=0.0, growth_32=0.0, growth_48=0.0, growth_64=0.0, growth_128=0.0, growth_256=0.0,
)  # fmt: skip
SYNC = replace(PLENTY, async_scheduling=False)


@cache
def whole_numbers(budget: int = 2048) -> ComponentTables:
    """Tables whose times, with WHOLE, are whole µs: sums of them are exact, and events cannot swap by rounding.

    A step takes 100 + 4 a request + 3 a new token + 2 for 2 tokens of context or of KV written, + 10 with prefill.
    """
    return plain_tables(gemm_us=3.0, kv_token_us=1.0, budget=budget)


NEXT_TO_THE_LOOP = (
    "clients",
    "deadlines",
    "followers",
    "forming",
    "incoming",
    "kv_cache",
    "more_groups",
    "seats",
    "step_time",
    "waiting",
)


def step_us(row: Row) -> float:
    """The time of a step as `whole_numbers` says, computed apart."""
    prefill, decode, requests, _, prefill_context, decode_context, _ = row
    tokens = prefill + decode
    return 100 + 4 * requests + 3 * tokens + tokens + prefill_context + decode_context + 10 * (prefill > 0)


def columns(steps: StepSums) -> list[Row]:
    return [tuple(row) for row in steps.columns().tolist()]


def serve(run: Run, request: RequestParameters = NO_DELAYS) -> Replay:
    return replay(run, whole_numbers(), Parameters(WHOLE, request))


@st.composite
def small_runs(draw: st.DrawFn) -> Run:
    """Up to a dozen requests on a small server, often with few blocks; prefixes shared in part and in whole."""
    n = draw(st.integers(1, 12))
    gaps = draw(st.lists(st.one_of(st.just(0), st.integers(0, 1500)), min_size=n, max_size=n))
    requests = draw(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 20)), min_size=n, max_size=n))
    groups = draw(st.lists(st.integers(-1, 2), min_size=n, max_size=n))
    shares = draw(st.lists(st.integers(0, 40), min_size=n, max_size=n))
    block_size = draw(st.sampled_from([1, 2, 4, 8]))
    least = max(-(-(prompt + output) // block_size) for prompt, output in requests) + 1
    server = Server(
        model="toy",
        tensor_parallel=1,
        max_num_seqs=draw(st.integers(1, 6)),
        max_num_batched_tokens=draw(st.integers(1, 64)),
        block_size=block_size,
        num_gpu_blocks=least + draw(st.one_of(st.integers(0, 3), st.integers(0, 40))),
        max_model_len=100,
        prefix_caching=draw(st.booleans()),
        async_scheduling=draw(st.booleans()),
        engine_version=draw(st.sampled_from([None, "0.33.0"])),
    )
    arrivals = np.cumsum(gaps).astype(float).tolist()
    run = run_of([(at, *request) for at, request in zip(arrivals, requests, strict=True)], server, groups)
    shared = np.where(run.prefix_group >= 0, np.minimum(np.array(shares), run.prompt_tokens), 0)
    return replace(run, prefix_tokens=shared)


# The compiled loop against a plain one.

whole_delays = st.builds(
    RequestParameters,
    queueing_us=st.integers(0, 800).map(float),
    queueing_per_running_us=st.integers(0, 50).map(float),
    pipeline_delay_us=st.integers(0, 100).map(float),
    cold_step_us=st.just(0.0),
    cold_kernel_us=st.just(0.0),
)


@pytest.mark.slow
@settings(max_examples=400)
@given(small_runs(), whole_delays)
def test_the_schedule_is_that_of_a_plain_scheduler(run: Run, delays: RequestParameters) -> None:
    """Everything equal, to the last digit: all times are whole numbers."""
    result = serve(run, delays)
    schedule = result.schedule
    rows, starts, requests = simulate(run, step_us, delays)
    assert columns(schedule.steps) == rows
    assert schedule.step_start_us.tolist() == starts
    assert schedule.step_time_us.tolist() == [step_us(row) for row in rows]
    for name, plain in (("first_step", "first_step"), ("last_step", "last_step"), ("queued_us", "queued")):
        assert getattr(schedule, name).tolist() == [getattr(request, plain) for request in requests], name
    assert schedule.running_at_arrival.tolist() == [request.running_at_arrival for request in requests]
    assert schedule.cached_tokens.tolist() == [request.cached for request in requests]
    assert schedule.preemptions.tolist() == [request.preemptions for request in requests]
    ends = [starts[request.last_step] + step_us(rows[request.last_step]) for request in requests]
    assert result.e2e_us.tolist() == [
        end - request.arrival + delays.pipeline_delay_us for end, request in zip(ends, requests, strict=True)
    ]


def test_the_plain_runs_do_preempt_and_evict() -> None:
    """What the test above would be worth without: few blocks make both happen within these draws."""
    seen: Counter[str] = Counter()

    @settings(max_examples=150, derandomize=True, database=None)
    @given(small_runs())
    def look(run: Run) -> None:
        schedule = serve(run).schedule
        seen["preempted"] += bool(schedule.preemptions.any())
        seen["cached"] += bool(schedule.cached_tokens.any())
        seen["chunked"] += bool((schedule.steps.prefill_context > 0).any())

    look()
    assert min(seen["preempted"], seen["cached"], seen["chunked"]) >= 10, seen


# Conservation and limits.


@given(small_runs())
def test_tokens_are_conserved(run: Run) -> None:
    """Every token but the last is computed once, less those found in the cache; more only after a preemption."""
    schedule = serve(run).schedule
    computed = int((schedule.steps.prefill_tokens + schedule.steps.decode_tokens).sum())
    needed = int((run.prompt_tokens - schedule.cached_tokens + run.output_tokens - 1).sum())
    if schedule.preemptions.any():
        assert computed >= needed
    else:
        assert computed == needed


@given(small_runs())
def test_no_step_exceeds_budget_seats_or_blocks(run: Run) -> None:
    """A step's requests hold at least the blocks of their context and new tokens, shared ones counted once at best."""
    steps, server = serve(run).schedule.steps, run.server
    tokens = steps.prefill_tokens + steps.decode_tokens
    assert tokens.max() <= server.max_num_batched_tokens
    assert steps.requests.max() <= server.max_num_seqs
    assert tokens.min() >= 1
    assert np.all(steps.requests <= tokens)
    if not server.prefix_caching:
        held = steps.prefill_context + steps.decode_context + tokens
        assert held.max() <= (server.num_gpu_blocks - 1) * server.block_size


@given(small_runs())
def test_steps_do_not_overlap_and_every_request_ends_in_one(run: Run) -> None:
    result = serve(run)
    schedule = result.schedule
    assert np.all(schedule.step_start_us[1:] >= (schedule.step_start_us + schedule.step_time_us)[:-1])
    assert np.all(schedule.step_start_us[schedule.first_step] >= run.arrival_us)
    assert np.all(schedule.first_step <= schedule.last_step)
    assert np.all(result.ttft_us <= result.e2e_us)
    served = schedule.last_step - schedule.first_step
    assert np.all(served >= run.output_tokens - 1)  # more where the budget or the blocks did not suffice for everyone
    assert np.all((served > 0) | (run.output_tokens == 1))


@given(small_runs())
def test_first_tokens_come_in_order_of_arrival(run: Run) -> None:
    """First come, first served: until someone is preempted, prompts end in the order in which requests came."""
    schedule = serve(run).schedule
    if not schedule.preemptions.any():
        assert np.all(np.diff(schedule.first_step) >= 0)


@given(small_runs())
def test_without_prefix_caching_nothing_is_found(run: Run) -> None:
    run = replace(run, server=replace(run.server, prefix_caching=False))
    assert not serve(run).schedule.cached_tokens.any()


@given(small_runs())
def test_every_step_takes_the_time_of_the_formula(run: Run) -> None:
    """The compiled loop has no second formula: its step times are those of `step_times` on its own table.

    To 1e-12, for another order of the same operations. A stale cache of compiled code would fail here.
    """
    step, request, _ = parameters = Parameters.of(PRIOR_VALUES)
    schedule = replay(run, tables(), parameters).schedule
    cold = np.array([request.cold_step_us, request.cold_kernel_us]) @ schedule.cold
    np.testing.assert_allclose(schedule.step_time_us, step_times(tables(), schedule.steps, step) + cold, rtol=1e-12)


# Small cases, exactly.


def test_a_lone_request_without_async_scheduling() -> None:
    """Prompt of 8 and 3 tokens: queue 50, then a prefill step, two decode steps and the pipeline's 7."""
    result = serve(run_of([(1000.0, 8, 3)], SYNC), RequestParameters(50.0, 9.0, 7.0))
    prefill = 100 + 4 + 3 * 8 + 8 + 10
    assert result.ttft_us[0] == 50 + prefill + 7
    first, second = 100 + 4 + 3 + 1 + 8, 100 + 4 + 3 + 1 + 9
    assert result.e2e_us[0] == 50 + prefill + first + second + 7
    assert columns(result.schedule.steps) == [(8, 0, 1, 36, 0, 0, 0), (0, 1, 1, 0, 0, 8, 0), (0, 1, 1, 0, 0, 9, 0)]


@given(st.integers(1, 300), st.integers(1, 30), st.booleans(), request_parameters, step_parameters)
def test_a_lone_request_takes_the_sum_of_its_steps(
    prompt: int, output: int, ahead: bool, request: RequestParameters, step: StepParameters
) -> None:
    """With async scheduling too: alone, it never waits. To 1e-12 of sums that are taken in another order."""
    server = replace(PLENTY, async_scheduling=ahead)
    result = replay(run_of([(0.0, prompt, output)], server), tables(), Parameters(step, request))
    batches = [[(prompt, 0, prompt)]] + [[(1, prompt + i, prompt)] for i in range(output - 1)]
    times = step_times(tables(), StepSums.from_requests(batches), step)
    outside = request.queueing_us + request.pipeline_delay_us
    assert result.ttft_us[0] == pytest.approx(outside + times[0], rel=1e-12)
    assert result.e2e_us[0] == pytest.approx(outside + times.sum(), rel=1e-12)


@given(st.integers(1, 300), st.integers(1, 30))
def test_a_windowed_model_is_served_with_the_sums_of_its_window(prompt: int, output: int) -> None:
    """A lone request's steps, also beyond the window, are those that are written down by hand."""
    reaches = np.array([[16, 0, 1, 0]])
    windowed = whole_numbers()._replace(kv_token=0.0, reaches=reaches, near=np.array([[0.0, 0.0, 1.0, 0.0]]))
    result = replay(run_of([(0.0, prompt, output)], SYNC), windowed, Parameters(WHOLE, NO_DELAYS))
    batches = [[(prompt, 0, prompt)]] + [[(1, prompt + i, prompt)] for i in range(output - 1)]
    steps = StepSums.from_requests(batches, reaches)
    assert np.array_equal(result.schedule.steps.columns(), steps.columns())
    assert result.e2e_us[0] == step_times(windowed, steps, WHOLE).sum()


def test_async_scheduling_lets_a_request_join_one_step_later() -> None:
    """It arrives while step 3 of the other runs: sync it is in step 4, async step 4 has been formed already."""
    first = run_of([(0.0, 8, 50)], SYNC)
    step_3 = serve(first).schedule.step_start_us[3] + 1
    two = [(0.0, 8, 50), (float(step_3), 8, 5)]
    assert serve(run_of(two, SYNC)).schedule.first_step.tolist() == [0, 4]
    assert serve(run_of(two, PLENTY)).schedule.first_step.tolist() == [0, 5]


def test_async_scheduling_keeps_a_seat_until_the_last_step_has_ended() -> None:
    """One seat: the second request starts in the step after the first's last one, async as sync, but with a gap.

    Async, the step that would follow is formed while the last one runs, finds the seat taken, and stays empty.
    """
    rows = [(0.0, 8, 2), (0.0, 8, 2)]
    for server in (SYNC, PLENTY):
        schedule = serve(run_of(rows, replace(server, max_num_seqs=1))).schedule
        assert schedule.first_step.tolist() == [0, 2]
        assert schedule.last_step.tolist() == [1, 3]


def test_a_prompt_beyond_the_budget_is_computed_in_chunks() -> None:
    """25 tokens at 10 a step; the decoding request is served first and leaves 9."""
    server = replace(SYNC, max_num_batched_tokens=10)
    result = serve(run_of([(0.0, 4, 9), (1.0, 25, 1)], server))
    steps = result.schedule.steps
    assert steps.prefill_tokens.tolist()[:4] == [4, 9, 9, 7]
    assert steps.decode_tokens.tolist()[:4] == [0, 1, 1, 1]
    assert steps.prefill_context.tolist()[:4] == [0, 0, 9, 18]
    assert steps.prefill_pairs.tolist()[1:3] == [sum(range(1, 10)), sum(range(10, 19))]
    assert result.schedule.first_step[1] == 3


@pytest.mark.parametrize(
    ("prompt", "cached"), [(100, 96), (97, 96), (96, 80), (17, 16), (16, 0), (5, 0)]
)  # blocks of 16; the last token is always computed, so a prompt of whole blocks computes its last block
def test_a_repeated_prompt_costs_its_last_block(prompt: int, cached: int) -> None:
    result = serve(run_of([(0.0, prompt, 3), (50_000.0, prompt, 3)], SYNC, [7, 7]))
    assert result.schedule.cached_tokens.tolist() == [0, cached]
    assert result.schedule.steps.prefill_tokens[result.schedule.first_step].tolist() == [prompt, prompt - cached]
    assert result.schedule.steps.prefill_context[result.schedule.first_step[1]] == cached


def test_the_same_prompt_in_one_step_is_computed_once() -> None:
    """Blocks are known from the moment they are scheduled: the second of two finds those of the first."""
    schedule = serve(run_of([(0.0, 40, 2), (0.0, 40, 2)], PLENTY, [0, 0])).schedule
    assert schedule.cached_tokens.tolist() == [0, 32]
    assert schedule.steps.prefill_tokens[0] == 40 + 8


def test_the_prompt_used_longest_ago_is_evicted_first() -> None:
    """Room for two prompts of two blocks and an answer: A, B, A again, then C takes B's place."""
    server = replace(SYNC, num_gpu_blocks=1 + 6)
    a, b, c = (33, 1, 0), (33, 1, 1), (33, 1, 2)
    order = [a, b, a, c, a, b]
    rows = [(1e5 * i, prompt, output) for i, (prompt, output, _) in enumerate(order)]
    schedule = serve(run_of(rows, server, [group for *_, group in order])).schedule
    assert schedule.cached_tokens.tolist() == [0, 0, 32, 0, 32, 0]


def test_the_last_admitted_is_preempted_and_computed_again() -> None:
    """Blocks of 4, 6 usable: two requests of 8 + 8 tokens, 4 blocks each. The second gives way, and starts over."""
    server = replace(SYNC, block_size=4, num_gpu_blocks=1 + 6, prefix_caching=False)
    result = serve(run_of([(0.0, 8, 8), (0.0, 8, 8)], server))
    schedule, steps = result.schedule, result.schedule.steps
    assert schedule.preemptions.tolist() == [0, 1]
    assert schedule.last_step[0] == 7
    # Tokens 8-11 of both fill the third blocks; for its 13th token the first takes one from the second.
    assert steps.requests.tolist() == [2] * 5 + [1] * 3 + [1] * 3
    # Of 8 + 5 tokens nothing is left: 13 are computed at once, as prefill, then two more tokens.
    assert steps.prefill_tokens.tolist() == [16] + [0] * 7 + [13, 0, 0]
    assert schedule.last_step[1] == 10


def test_a_preempted_request_finds_its_own_blocks_again() -> None:
    """With prefix caching: of its 13 tokens three blocks of 4 are still there, less the one the first took."""
    server = replace(SYNC, block_size=4, num_gpu_blocks=1 + 6)
    schedule = serve(run_of([(0.0, 8, 8), (0.0, 8, 8)], server)).schedule
    assert schedule.preemptions.tolist() == [0, 1]
    assert schedule.steps.prefill_tokens.tolist() == [16] + [0] * 7 + [5, 0, 0]
    assert schedule.steps.prefill_context[8] == 8


def test_a_request_in_its_last_step_gives_its_blocks_like_any_other() -> None:
    """Async, 6 blocks of 4: the second's step 4, its last, is in flight when the first needs a block for step 5.

    vLLM preempts the last running request whatever it is doing. Nothing of it is left to compute, and nobody waits.
    """
    server = replace(PLENTY, block_size=4, num_gpu_blocks=1 + 6, prefix_caching=False)
    schedule = serve(run_of([(0.0, 8, 9), (0.0, 8, 5)], server)).schedule
    assert schedule.preemptions.tolist() == [0, 1]
    assert schedule.last_step.tolist() == [8, 4]
    assert schedule.steps.length == 9


def test_queueing_grows_with_running_requests() -> None:
    rows = [(0.0, 8, 100), (0.0, 8, 100), (3000.0, 8, 2)]
    schedule = serve(run_of(rows, PLENTY), RequestParameters(500.0, 30.0, 0.0)).schedule
    assert schedule.running_at_arrival.tolist() == [0, 0, 2]
    assert schedule.queued_us.tolist() == [500.0, 500.0, 3560.0]


# Scaling and determinism.


def assert_same(a: Replay, b: Replay) -> None:
    def arrays(value: Any) -> list[Any]:
        return [value.ttft_us, value.e2e_us, value.schedule.steps.columns()] + [
            array for name, array in vars(value.schedule).items() if name != "steps"
        ]

    assert [array.tobytes() for array in arrays(a)] == [array.tobytes() for array in arrays(b)]


@given(small_runs())
def test_the_same_run_gives_the_same_bytes(run: Run) -> None:
    parameters = Parameters.of(PRIOR_VALUES)
    assert_same(replay(run, tables(), parameters), replay(run, tables(), parameters))


@pytest.mark.slow
@given(small_runs(), whole_delays, st.sampled_from([2.0, 0.5, 1024.0]))
def test_everything_scales_with_time(run: Run, delays: RequestParameters, factor: float) -> None:
    """All times by a power of two: all latencies by it, exactly, and the same schedule."""
    at = whole_numbers()
    longer: list[Any] = [value if value is None or isinstance(value, int) else factor * value for value in at]
    slow = ComponentTables(*longer)._replace(layers=at.layers, verified=1.0, per_verified=1.0)
    overheads = {name: factor * getattr(WHOLE, name) for name in ("per_step_us", "mixed_step_us", "per_request_us")}
    later = replace(run, arrival_us=factor * run.arrival_us)
    before = serve(run, delays)
    parameters = Parameters(WHOLE._replace(**overheads), RequestParameters(*(factor * d for d in delays)))
    after = replay(later, slow, parameters)
    assert after.e2e_us.tolist() == (factor * before.e2e_us).tolist()
    assert after.ttft_us.tolist() == (factor * before.ttft_us).tolist()
    assert columns(after.schedule.steps) == columns(before.schedule.steps)


def test_compiled_code_is_known_by_every_file_it_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba's cache looks at scheduler.py alone. What else the loop compiles in must be in the digest it is kept under.

    That is every file with compiled code that it imports, itself or through others, and what a step's sums are.
    """
    folder = Path(roofml.__file__).parents[1]
    found, queue = {"roofml.latency.batch"}, ["roofml.engine.scheduler", "roofml.latency.batch"]
    while queue:
        text = (folder / f"{queue.pop().replace('.', '/')}.py").read_text()
        for name in re.findall(r"^from (roofml\.[\w.]+) import", text, re.MULTILINE):
            path = folder / f"{name.replace('.', '/')}.py"
            if name == "roofml.util.jit_cache":  # it compiles others and nothing of its own
                continue
            if name not in found and path.is_file() and re.search("numba|jit_cache", path.read_text()):
                found.add(name)
                queue.append(name)
    compiled = {name.rpartition(".")[2] for name in found}
    before = compiled_in().dtype
    read = Path.read_bytes
    digested: set[str] = set()
    for name in compiled:
        monkeypatch.setattr(Path, "read_bytes", lambda path, name=name: read(path) + b"#" * (path.stem == name))
        if compiled_in().dtype != before:
            digested.add(name)
    below = {"batch", "components", "formula", "launches", "pauses", "reach"}
    assert digested == compiled == {"cold_start", *below, *NEXT_TO_THE_LOOP}


def test_the_progress_counts_finished_requests() -> None:
    progress = np.zeros(1, np.int64)
    replay(run_of([(0.0, 8, 3)] * 5), whole_numbers(), Parameters(WHOLE, NO_DELAYS), progress)
    assert progress[0] == 5


def test_a_long_run_grows_its_columns() -> None:
    """More steps than the 1024 the columns begin with."""
    schedule = serve(run_of([(0.0, 8, 3000)], PLENTY)).schedule
    assert schedule.steps.length == 3000
    assert schedule.steps.decode_context.tolist() == [0.0, *range(8, 8 + 2999)]


# What is refused.


@pytest.mark.parametrize(
    ("rows", "server", "message"),
    [
        ([], PLENTY, "synthetic: no requests to replay"),
        ([(0.0, 5, 5), (0.0, 0, 5)], PLENTY, "synthetic: request 101: expected at least one prompt and output token"),
        ([(0.0, 5, 5), (0.0, 5, 0)], PLENTY, "synthetic: request 101: expected at least one prompt and output token"),
        (
            [(0.0, 5, 5), (0.0, 4000, 97)],
            PLENTY,
            "synthetic: request 101: 4097 tokens exceed max_model_len 4096",
        ),
        (
            [(0.0, 5, 5), (0.0, 150, 11)],
            replace(PLENTY, num_gpu_blocks=11),
            "synthetic: request 101: 161 tokens do not fit in 11 KV blocks of 16",
        ),
    ],
)
def test_requests_that_can_never_run_are_refused_by_id(
    rows: list[tuple[float, int, int]], server: Server, message: str
) -> None:
    run = run_of(rows or [(0.0, 1, 1)], server)
    if not rows:
        run = run.take(np.zeros(1, np.bool_))
    with pytest.raises(InputError) as error:
        serve(run)
    assert str(error.value) == message


def test_a_request_that_just_fits_is_served() -> None:
    assert serve(run_of([(0.0, 150, 10)], replace(PLENTY, num_gpu_blocks=11))).e2e_us[0] > 0


def test_tables_shorter_than_the_budget_are_refused() -> None:
    """The compiled loop would read past their end."""
    with pytest.raises(ValueError, match="tables of 100 tokens for a budget of 2048"):
        replay(run_of([(0.0, 8, 3)]), whole_numbers(100), Parameters(WHOLE, NO_DELAYS))


def test_our_own_formula_as_a_python_function_serves_the_same() -> None:
    """Every latency and step, to the last bit: the scheduler is one, only where a time comes from differs."""
    run = run_of([(3e3 * i, 20 + 13 * i % 200, 5 + i % 40) for i in range(80)], groups=[i % 7 for i in range(80)])
    at, (step, request, _) = tables(), Parameters.of(PRIOR_VALUES)
    ours = replay(run, at, Parameters(step, request))
    theirs = replay_with(run, lambda steps: step_times(at, steps, step), request)
    assert theirs.e2e_us == pytest.approx(ours.e2e_us, rel=1e-12)  # NumPy and LLVM may fuse differently
    assert columns(theirs.schedule.steps) == columns(ours.schedule.steps)


def test_what_a_function_raises_comes_out_and_times_must_be_positive() -> None:
    run = run_of([(0.0, 20, 5)])

    def broken(steps: StepSums) -> Floats:
        raise LookupError("no such batch")

    with pytest.raises(LookupError, match="no such batch"):
        replay_with(run, broken, RequestParameters())
    with pytest.raises(ValueError, match="expected a positive time, found 0 µs"):
        replay_with(run, lambda steps: 0 * steps.requests, RequestParameters())
