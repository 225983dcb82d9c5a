"""Cold start: what is paid once, when, and by whom; and that a fit finds what it costs."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_scheduler import Row, simulate
from synthetic import PLENTY, plain_tables, run_of

from roofml.calibration.fit import fit_parameters
from roofml.engine.cold_start import EVENTS, kernel_variant
from roofml.engine.replay import replay, replay_with
from roofml.latency.components import ComponentTables
from roofml.latency.deployment import Deployment, deploy
from roofml.latency.parameters import NAMES, PRIOR_VALUES, Parameters, RequestParameters, StepParameters
from roofml.traces.run import Run
from roofml.traces.selection import Selection
from roofml.validation.demo import synthetic_run

STEP = StepParameters(per_layer_us=100.0)
COLD = RequestParameters(cold_step_us=1_000.0, cold_kernel_us=10_000.0)
E, K = 8, 2
"""Experts of a layer, and those a token visits, as in Mixtral."""


@cache
def hundred_us(experts: int = 0) -> ComponentTables:
    """Tables of a model whose every step takes 100 µs."""
    return plain_tables(experts=experts, experts_per_token=K if experts else 0)


def stalls(run: Run, experts: int = 0) -> list[tuple[float, float]]:
    """Start and excess over 100 µs of every step that took longer."""
    schedule = replay(run, hundred_us(experts), Parameters(STEP, COLD)).schedule
    excess = schedule.step_time_us - 100.0
    return [(float(s), float(e)) for s, e in zip(schedule.step_start_us, excess, strict=True) if e > 1e-9]


def one_after_another(prompts: list[int]) -> Run:
    """Prompts that come one by one, far apart, each to a server that decodes nothing else."""
    return run_of([(1e6 * i, prompt, 2) for i, prompt in enumerate(prompts)], PLENTY)


def test_a_dense_model_pays_in_its_first_mixed_step_and_never_again() -> None:
    rows = [(0.0, 8, 20), (450.0, 8, 20), (950.0, 8, 20)]
    schedule = replay(run_of(rows, PLENTY), hundred_us(), Parameters(STEP, COLD)).schedule
    mixed = np.flatnonzero((schedule.steps.prefill_tokens > 0) & (schedule.steps.decode_tokens > 0))
    assert len(mixed) == 2
    assert schedule.cold.sum(axis=0).nonzero()[0].tolist() == [mixed[0]]
    assert schedule.step_time_us[mixed].tolist() == pytest.approx([1_100.0, 100.0])


def test_alone_requests_meet_no_cold_step() -> None:
    assert stalls(one_after_another([8, 600, 700])) == []


def test_a_warm_server_pays_nothing() -> None:
    run = run_of([(0.0, 8, 20), (450.0, 700, 20), (950.0, 601, 20)], PLENTY)
    assert stalls(run, E)
    assert stalls(replace(run, server=replace(PLENTY, fresh=False)), E) == []


def test_each_variant_of_the_kernel_is_compiled_once() -> None:
    # 600 = 0, 604 = 4 modulo 8, the rest neither; 800 has other tiles; up to 256 tokens graphs were captured.
    prompts = [256, 600, 601, 604, 605, 608, 612, 100, 800, 801]
    stalled = [start // 1e6 for start, _ in stalls(one_after_another(prompts), E)]
    assert stalled == [prompts.index(prompt) for prompt in (600, 601, 604, 800, 801)]


def test_the_step_that_profiled_memory_has_compiled_its_variant() -> None:
    assert stalls(one_after_another([2048, 2040, 1960]), E) == []
    assert len(stalls(one_after_another([2048, 2047]), E)) == 1


@pytest.mark.parametrize(("experts", "per_token"), [(8, 2), (128, 8), (64, 6), (16, 1)])
def test_variants_are_few_and_those_of_one_tile_differ_by_alignment_alone(experts: int, per_token: int) -> None:
    found = [kernel_variant(tokens, experts, per_token) for tokens in range(257, 8193)]
    assert 0 <= min(found) <= max(found) < EVENTS - 1
    tiles = [variant // 4 for variant in found]
    assert tiles == sorted(tiles), "tiles grow with tokens"
    aligned = {variant for variant, tokens in zip(found, range(257, 8193), strict=True) if tokens % 16 == 0}
    assert len(aligned) == len(set(tiles)), "multiples of 16 tokens are all alike"


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 900), st.integers(1, 6)), min_size=1, max_size=12))
def test_the_schedule_is_that_of_a_plain_scheduler_with_a_plain_list_of_what_was_met(
    requests: list[tuple[int, int, int]],
) -> None:
    at = np.cumsum([gap for gap, _, _ in requests]).tolist()
    run = run_of([(float(a), p, o) for a, (_, p, o) in zip(at, requests, strict=True)], PLENTY)
    met: list[object] = [_variant(256), _variant(2048)]

    def plain(row: Row) -> float:
        prefill, decode, *_ = row
        time = 100.0
        if prefill and decode and "mixed" not in met:
            met.append("mixed")
            time += 1_000
        if prefill + decode > 256 and _variant(prefill + decode) not in met:
            met.append(_variant(prefill + decode))
            time += 10_000
        return time

    _, starts, _ = simulate(run, plain, COLD)
    served = replay(run, hundred_us(E), Parameters(STEP, COLD))
    assert served.schedule.step_start_us.tolist() == pytest.approx(starts)


def _variant(tokens: float) -> tuple[int, bool, bool]:
    """Tiles of the nearest tuned number of tokens, the smaller of two as near, and what of the arguments is aligned."""
    tuned = min((256, 512, 1024, 1536, 2048, 3072, 4096), key=lambda m: (abs(m - tokens), m))
    return tuned, tokens * K % 16 == 0, (tokens * K + E * 63) % 16 == 0


def seen(run: Run, late_us: dict[int, float], experts: int = E) -> list[tuple[float, float]]:
    """Start in s and excess over 100 µs of steps that stalled, where first tokens came so much late, by request."""
    on_time = replay(run, hundred_us(experts), Parameters(STEP, RequestParameters())).ttft_us
    for request, us in late_us.items():
        on_time[request] += us
    schedule = replay(run, hundred_us(experts), Parameters(STEP, COLD), seen_ttft_us=on_time).schedule
    excess = schedule.step_time_us - 100.0
    assert schedule.cold[1].sum() == (excess > 1e-6).sum()
    return [(float(s) / 1e6, float(e)) for s, e in zip(schedule.step_start_us, excess, strict=True) if e > 1e-6]


def test_where_first_tokens_were_measured_the_late_ones_say_when_a_kernel_was_compiled_and_for_how_long() -> None:
    run = one_after_another([600, 601, 604, 100])
    assert len(stalls(run, E)) == 3, "the rule says others"
    assert seen(run, {}) == []
    assert seen(run, {1: 400_000.0, 3: 700_000.0}) == [(1.0, pytest.approx(400_000.0)), (3.0, pytest.approx(700_000.0))]
    assert seen(run, {1: float("nan")}) == [], "nobody knows"
    assert seen(run, {1: 150_000.0}) == [], "a request waits as long for other reasons"
    assert seen(run, {1: 2e7}) == [], "no kernel takes so long"
    assert seen(run, {1: 400_000.0}, experts=0) == [], "and a dense model has none"


def test_no_more_stalls_are_seen_than_there_are_kernels() -> None:
    # Five tiles up to 2048 tokens, of three alignments each; of two of them graph capture and profiling had one.
    run = one_after_another([600] * 40)
    assert len(seen(run, dict.fromkeys(range(40), 500_000.0))) == 3 * 5 - 2


def test_a_function_of_ones_own_is_served_without_a_cold_kernel() -> None:
    run = one_after_another([600, 601])
    served = replay_with(run, lambda steps: 0 * steps.requests + 100.0, COLD)
    assert served.schedule.step_time_us.tolist() == [100.0] * served.schedule.steps.length


@cache
def where() -> Deployment:
    return deploy("mistralai/Mixtral-8x7B-v0.1", "H100", 2, 2048)


@pytest.mark.slow
@pytest.mark.parametrize("kernel_us", [4e5, 1.5e6])
def test_a_fit_finds_what_a_kernel_costs(kernel_us: float) -> None:
    truth = PRIOR_VALUES.copy()
    truth[NAMES.index("cold_kernel_us")] = kernel_us
    run = synthetic_run(np.random.default_rng(3), where(), truth)
    found = fit_parameters([Selection.between(run)], where().tables)
    assert replay(run, where().tables, Parameters.of(found.values)).schedule.cold[1].sum() >= 4
    # First tokens scatter by a tenth, and what stalls add is trusted to 15 % (COLD_DISCREPANCY).
    assert found.values[NAMES.index("cold_kernel_us")] == pytest.approx(kernel_us, rel=0.2)
    warm = replace(run, server=replace(run.server, fresh=False))
    again = fit_parameters([Selection.between(warm)], where().tables)
    assert again.values[NAMES.index("cold_kernel_us")] == pytest.approx(1e6)
