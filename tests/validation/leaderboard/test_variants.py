"""Variants: what each holds, frees and shares."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fitted import measured_again

from roofml.calibration.calibration import Calibration
from roofml.calibration.prior import PACKAGE
from roofml.hardware.gpu import load_gpu
from roofml.hardware.kernels import at_datasheet
from roofml.hardware.load_kernels import load_efficiency
from roofml.latency.batch import StepSums
from roofml.latency.components import COMPONENTS, component_tables, components
from roofml.latency.deployment import deploy
from roofml.latency.parameters import NAMES, PRIOR_VALUES
from roofml.models.load import load_model
from roofml.traces.run import Run
from roofml.traces.selection import Selection
from roofml.validation.demo import GPU, MODEL, TP, synthetic_run
from roofml.validation.leaderboard.variants import NINE, REQUEST, VARIANTS, FitCache, hold, learn, prior_of, seen
from roofml.validation.splits import Fold

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def part() -> Selection:
    """The first requests of a made-up run on CodeLlama, whose client counted seven tokens too few."""
    run = synthetic_run(np.random.default_rng(3), deploy(MODEL, GPU, TP, budget=2048), PRIOR_VALUES)
    run = replace(run, name="one", counted_tokens=np.maximum(run.output_tokens - 7, 0))
    return Selection.of(run, np.arange(len(run)) < 500)


def test_a_held_parameter_stays_where_it_is_held(part: Selection) -> None:
    fold = Fold("one", (part,), (), (part,))
    for name in ("max", "global-9"):
        variant = VARIANTS[name]
        found = learn(variant, fold, [], FitCache()).calibration
        for parameter, value in variant.held.items():
            assert found.values[NAMES.index(parameter)] == pytest.approx(value, abs=1e-4)
        for parameter in set(NAMES) - set(variant.free) - set(variant.held):
            index = NAMES.index(parameter)
            assert found.values[index] == pytest.approx(PRIOR_VALUES[index], rel=1e-4, abs=1e-4)


def test_nine_corrections_are_nine() -> None:
    assert len(NINE) == 9
    assert set(NINE) | set(REQUEST) <= set(NAMES)
    sd = prior_of(VARIANTS["per-model-9"]).sd / PACKAGE.sd
    assert [name for name, share in zip(NAMES, sd, strict=True) if share > 0.5] == [
        name for name in NAMES if name in NINE + REQUEST
    ]


def test_a_wide_prior_is_the_package_s_with_less_to_say() -> None:
    wide = prior_of(VARIANTS["wide-prior"])
    assert wide.mean.tolist() == PACKAGE.mean.tolist()
    np.testing.assert_allclose(wide.sd, 10 * PACKAGE.sd)
    assert hold(VARIANTS["roofml"], PACKAGE).covariance.tolist() == PACKAGE.covariance.tolist()


def test_kernels_at_the_datasheet_s_rates_are_never_slower_than_measured_ones() -> None:
    gpu = load_gpu("H100")
    measured = load_efficiency(gpu)
    steps = StepSums.from_requests([[(1, 700, 500)] * n + [(m, 0, 2 * m)] for n in (1, 32, 127) for m in (1, 300)])
    for name, tp in (("llama-2-70b-hf", 4), ("mixtral-8x7b-v0.1", 2)):
        model = load_model(name)
        ideal, real = (
            np.array(components(component_tables(model, gpu, tp, 2048, efficiency), steps))
            for efficiency in (at_datasheet(measured), measured)
        )
        assert np.all(ideal <= real * (1 + 1e-9))
        assert np.all(ideal[COMPONENTS.index("attention_items")] == 0)


def test_what_a_variant_is_blind_to_is_hidden_from_it(part: Selection) -> None:
    run = part.run
    assert seen(VARIANTS["roofml"], run) is run
    assert not seen(VARIANTS["no-prefix-hits"], run).server.prefix_caching
    assert not seen(VARIANTS["no-pipelining"], run).server.async_scheduling
    counted = np.maximum(run.counted_tokens, 1)
    assert seen(VARIANTS["reported-lengths"], run).output_tokens.tolist() == counted.tolist()
    assert counted.tolist() != run.output_tokens.tolist()
    nobody_counted = replace(run, counted_tokens=run.counted_tokens[:0])
    assert seen(VARIANTS["reported-lengths"], nobody_counted).output_tokens.tolist() == run.output_tokens.tolist()


def test_a_model_without_a_training_part_is_predicted_by_the_others(part: Selection) -> None:
    """Nothing of its own is looked at: NaN latencies in its run change nothing."""
    unknown = np.full(len(part.run), np.nan)
    server = replace(part.run.server, model="meta-llama/Llama-2-70b-hf", tensor_parallel=4)
    unseen = measured_again(part.run, name="unseen", server=server, ttft_us=unknown, e2e_us=unknown)
    test = Selection(unseen, part.requests)
    known = FitCache()
    found = learn(VARIANTS["roofml"], Fold("two", (part,), (), (test,)), [], known).calibration
    assert found.deployment.model.name == "llama-2-70b-hf"
    assert len(known.fits) == 1
    assert found.posterior.paces == {}
    assert found.runs == ()


@pytest.mark.exhaustive
def test_a_fit_by_orders_of_a_norm_takes_one_of_them(part: Selection) -> None:
    variant = replace(VARIANTS["p-norm"], norms=(2.0, 8.0), prior="package")
    assert learn(variant, Fold("one", (part,), (), (part,)), [], FitCache()).calibration.deployment.tables.norm in (
        2.0,
        8.0,
    )


def test_fits_are_known_again_by_recording_and_never_by_name(part: Selection) -> None:
    """Two runs of one name are two fits; one recording under two names is one."""
    other = measured_again(part.run, e2e_us=1.02 * part.run.e2e_us)
    server = replace(part.run.server, model="meta-llama/Llama-2-70b-hf", tensor_parallel=4)
    test = Selection(measured_again(part.run, server=server), part.requests)
    known = FitCache()

    def learned(run: Run) -> Calibration:
        fold = Fold("two", (Selection(run, part.requests),), (), (test,))
        return learn(VARIANTS["package-prior"], fold, [], known).calibration

    first, second, renamed = learned(part.run), learned(other), learned(replace(part.run, name="renamed"))
    assert len(known.fits) == 2
    assert first.values.tolist() == renamed.values.tolist()
    assert first.values.tolist() != second.values.tolist()
