"""Betas from physics alone: BLIS's form laid over our step times."""

from __future__ import annotations

import json

import numpy as np
import pytest

from roofml.blis.deployment import BlisDeployment, hardware_of, validate_coefficients
from roofml.blis.model_view import blis_model
from roofml.calibration.calibrate import physics
from roofml.calibration.prior import PACKAGE
from roofml.export.derive import Derived, derive
from roofml.latency.parameters import PRIOR_VALUES, Parameters
from roofml.models.spec import config_path


def derived(model: str, tp: int) -> Derived:
    native = physics(model, "H100", tp, prior=PACKAGE)
    raw = json.loads(config_path(model).read_text("utf-8"))
    blis = BlisDeployment(blis_model(raw, native.deployment.model.name), hardware_of(native.deployment.gpu), tp)
    return derive(native, blis, 128)


@pytest.mark.parametrize(("model", "tp"), [("llama-2-7b-hf", 1), ("codellama-34b-instruct-hf", 2), ("qwen3-8b", 1)])
def test_dense_models_fit_blis_form(model: str, tp: int) -> None:
    """Dense decoding is linear in requests and context up to 1,024 tokens, which BLIS can say. What is left is what it
    cannot: graphs padded to multiples of 8, and grouped heads that cost twice as much beyond (at most a fifth)."""
    found = derived(model, tp)
    validate_coefficients(found.coefficients.alphas, found.coefficients.betas)
    assert found.median_error_pct < 4.5
    assert found.worst_usual_error_pct < 22
    assert found.worst_error_pct >= found.worst_usual_error_pct


def test_a_mixture_is_further_away_and_says_so() -> None:
    """BLIS reads all experts in every step; in small batches they are not all hit."""
    found = derived("qwen3-30b-a3b", 2)
    assert found.median_error_pct > derived("qwen3-8b", 1).median_error_pct
    assert np.all(np.array(found.coefficients.betas) >= 0)


def test_the_pipeline_step_is_in_the_queueing_time() -> None:
    """vLLM's first token leaves a step late; BLIS can only wait before it starts."""
    _, request, _ = Parameters.of(PRIOR_VALUES)
    found = derived("llama-2-7b-hf", 1)
    assert found.coefficients.alphas[0] > request.queueing_us + request.pipeline_delay_us
