"""Betas from physics alone: BLIS's form laid over our step times, and what is claimed of it."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from commandline import ROOT, fails, ok

from roofml.blis.deployment import BlisDeployment, hardware_of, validate_coefficients
from roofml.blis.latency import BlisSteps, step_times_us
from roofml.blis.model_view import blis_model
from roofml.calibration.calibrate import physics
from roofml.calibration.calibration import Calibration
from roofml.calibration.prior import PACKAGE
from roofml.export.a_load import load_named
from roofml.export.derive import Derived, derive, derived_export
from roofml.export.matched_batches import load_batches, prefills_of
from roofml.latency.batch import StepSums
from roofml.latency.formula import step_times
from roofml.latency.parameters import PRIOR_VALUES, Parameters
from roofml.models.spec import config_path
from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.util.errors import InputError
from roofml.workloads.load import Load, closed_load, poisson_load


@cache
def deployed(model: str, tp: int) -> tuple[Calibration, BlisDeployment]:
    native = physics(model, "H100", tp, prior=PACKAGE)
    raw = json.loads(config_path(model).read_text("utf-8"))
    return native, BlisDeployment(blis_model(raw, native.deployment.model.name), hardware_of(native.deployment.gpu), tp)


@cache
def derived(model: str, tp: int) -> Derived:
    return derive(*deployed(model, tp), 128)


def served(load: Load, model: str, budget: int = 2048, blocks: int = 8000) -> Run:
    longest = int((load.prompt_tokens + load.output_tokens).max())
    return load.run(Server(model, 1, 128, budget, 16, blocks, longest, gpu="H100", fresh=False))


def a_load(requests: int = 300, rate: float = 20.0) -> Load:
    random = np.random.default_rng(3)
    return poisson_load("made up", rate, random.integers(20, 900, requests), random.integers(10, 120, requests), 1)


@pytest.mark.parametrize(("model", "tp"), [("llama-2-7b-hf", 1), ("codellama-34b-instruct-hf", 2), ("qwen3-8b", 1)])
def test_dense_models_fit_blis_form(model: str, tp: int) -> None:
    """Dense decoding is linear in requests and context up to 1,024 tokens, which BLIS can say. What is left is what it
    cannot: graphs padded to multiples of 8, and grouped heads that cost twice as much beyond (at most a fifth)."""
    found = derived(model, tp)
    validate_coefficients(found.coefficients.alphas, found.coefficients.betas)
    assert found.is_near
    assert found.usual.median_pct < 5
    assert found.usual.worst_pct < 22
    assert found.every.worst_pct >= found.usual.worst_pct


@pytest.mark.parametrize(
    ("model", "tp", "context", "decodes"),
    [
        ("llama-2-7b-hf", 1, 900, 5),
        ("llama-2-7b-hf", 1, 600, 100),
        ("qwen3-8b", 1, 2000, 120),
        ("qwen3-8b", 1, 700, 40),
    ],
)
def test_batches_that_nobody_matched_are_as_near_as_is_claimed(model: str, tp: int, context: int, decodes: int) -> None:
    """Found is at most the worst that is claimed of a batch of that size."""
    native, blis = deployed(model, tp)
    found = derived(model, tp)
    sums = StepSums.from_requests([[(1, context, 0)] * decodes], native.deployment.tables.reaches)
    ours = step_times(native.deployment.tables, sums, native.parameters.step)[0]
    theirs = step_times_us(blis, BlisSteps.from_batches([[(0, 1, context, 1)] * decodes]), found.coefficients.betas)[0]
    claims = [claim for claim in found.by_batch if claim.batch[0] <= decodes <= claim.batch[1]]
    worst = max(claim.worst_pct for claim in claims or found.by_batch)
    assert 100 * abs(theirs / ours - 1) <= worst + 1


def test_a_mixture_is_too_far_on_all_batches_and_refused() -> None:
    """BLIS reads all experts in every step; in small batches they are not all hit."""
    found = derived("qwen3-30b-a3b", 2)
    assert not found.is_near
    assert found.usual.median_pct > derived("qwen3-8b", 1).usual.median_pct
    assert np.all(np.array(found.coefficients.betas) >= 0)
    with pytest.raises(InputError, match=r"BLIS's form is .*expected at most 10 and 35 %: --load LOAD matches the"):
        derived_export("qwen3-30b-a3b", "H100", 2, 128, 2048)
    export, _ = derived_export("qwen3-30b-a3b", "H100", 2, 128, 2048, accept_error=True)
    assert export.warnings[0].startswith("BLIS's form does not fit qwen3-30b-a3b: ")


def test_the_batches_of_a_load_are_met_where_all_batches_are_not() -> None:
    """At one load nearly the same experts are hit in every step."""
    load = poisson_load("even", 20, np.full(600, 300), np.full(600, 100), 1)
    _, found = derived_export("qwen3-30b-a3b", "H100", 2, 128, 2048, load)
    assert found.is_near
    assert found.usual.median_pct < derived("qwen3-30b-a3b", 2).usual.median_pct / 2
    assert found.latencies is not None
    assert abs(found.latencies.ttft_pct) < 1
    assert abs(found.latencies.e2e_pct) < 5


def test_the_pipeline_step_is_in_the_queueing_time() -> None:
    """vLLM's first token leaves a step late; BLIS can only wait before it starts."""
    _, request, _ = Parameters.of(PRIOR_VALUES)
    found = derived("llama-2-7b-hf", 1)
    assert found.coefficients.alphas[0] > request.queueing_us + request.pipeline_delay_us


@pytest.mark.parametrize("budget", [256, 700, 2048])
def test_the_prompts_of_a_replays_steps_are_found_again(budget: int) -> None:
    """Chunks too: of all steps together every prompt's own tokens are computed once, in the pairs that BLIS counts."""
    native, _ = deployed("llama-2-7b-hf", 1)
    run = served(a_load(), "llama-2-7b-hf", budget)
    replay = native.replay(run)
    prefills, known = prefills_of(run, replay)
    assert known.all()
    np.testing.assert_array_equal(prefills[:, 0], replay.schedule.steps.prefill_tokens)
    whole = replay.schedule.steps.prefill_tokens == 0
    assert np.all(prefills[whole, 1] == 0)
    least = (1.5 * run.prompt_tokens**2).sum()  # each prompt in one step
    assert least * (0.5 if budget < 1000 else 1 - 1e-9) <= prefills[:, 1].sum() <= least * 1.000001


def test_steps_whose_prompts_are_not_known_are_left_out() -> None:
    """A preempted request computes its prompt again: what such a step holds does not add up."""
    native, _ = deployed("llama-2-7b-hf", 1)
    run = served(a_load(200, 100.0), "llama-2-7b-hf", blocks=420)
    replay = native.replay(run)
    assert replay.schedule.preemptions.sum() > 0
    _, known = prefills_of(run, replay)
    assert 0.5 < known.mean() < 1
    batches = load_batches(native, run)
    assert len(batches.times_us) == known.sum()
    assert np.all(batches.times_us > 0)


def test_a_closed_load_is_matched_too() -> None:
    load = closed_load("loop", 32, np.full(300, 200), np.full(300, 60))
    _, found = derived_export("llama-2-7b-hf", "H100", 1, 128, 2048, load)
    assert found.is_near
    assert found.usual.batch[1] <= 32
    assert found.latencies is not None
    assert abs(found.latencies.ttft_pct) < 1


def test_a_load_is_a_run_or_a_workload_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    run = load_named(str(ROOT / "sample_run"))
    assert len(run) == 800
    twice = load_named(str(ROOT / "sample_run"), 40.0)
    assert (len(twice) - 1) / (twice.arrival_us[-1] - twice.arrival_us[0]) * 1e6 == pytest.approx(40)
    lines = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
        f"2023-11-16 18:15:{second:02d}.0000000,{100 + second},{20}\n" for second in range(30)
    )
    path = tmp_path_factory.mktemp("load") / "azure.csv"
    path.write_text(lines)
    assert load_named(str(path)).prompt_tokens.tolist() == list(range(100, 130))
    with pytest.raises(InputError, match="no such file"):
        load_named("nowhere")


def test_what_is_claimed_stands_in_the_file_and_in_the_json(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("derived")
    arguments = ("export", "blis", "--derive", "llama-2-7b-hf", "--gpu", "H100", "--max-num-seqs", "64")
    document = ok(*arguments, "--into", folder / "out", "--json").document
    claims = document["exports"][0]["derived"]
    assert claims["within_bounds"]
    text = (folder / "out" / "defaults.yaml").read_text()
    assert f"{claims['usual']['median_pct']:.1f} % (median)" in text
    assert "not fitted to any trace" in text
    assert "hf_repo" not in text  # no repository is called llama-2-7b-hf
    assert len(claims["by_batch"]) >= 2
    assert "expected --derive MODEL" in fails("export", "blis", "x.yaml", "--accept-error").err


def test_the_load_that_was_matched_is_said_by_name() -> None:
    native, blis = deployed("llama-2-7b-hf", 1)
    found = derive(native, blis, 128, served(a_load(), "llama-2-7b-hf"))
    assert "the batches of made up" in found.lines()[1]
    assert "replayed as BLIS does, that load comes to E2E" in found.lines()[3]
    assert replace(found, latencies=None).lines()[:3] == found.lines()[:3]
