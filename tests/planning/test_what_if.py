"""What if: a calibration on another deployment keeps what it may, and is less sure there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fitted import MODEL, a_calibration

from roofml.calibration.other_models import read_other_models
from roofml.calibration.untraced import untraced
from roofml.latency.batch import Batch
from roofml.latency.deployment import deploy
from roofml.latency.doubts import total_sd
from roofml.latency.parameters import NAMES
from roofml.planning.what_if import HOST, carried, kept_through
from roofml.util.errors import InputError

CALIBRATION = a_calibration()
OTHERS = read_other_models()
STEP = Batch(decode=[(700, 16)])


def moved(model: str = MODEL, gpu: str = "H100", tp: int = 1, **given: Any):
    return carried(CALIBRATION, deploy(model, gpu, tp, **given), OTHERS)


def test_where_nothing_differs_it_is_the_calibration_itself() -> None:
    same = moved()
    assert same.calibration is CALIBRATION
    assert (same.changed, same.said) == ((), [])


@pytest.mark.parametrize(
    ("given", "changed", "gone"),
    [
        ({"tp": 2}, ("tensor parallel size",), {"communication"}),
        ({"precision": "fp8"}, ("precision",), {"weights", "decode_gemm"}),
        ({"gpu": "H200"}, ("GPU",), {"weights", "communication", "kv_cache"}),
        ({"model": "codellama-34b-instruct-hf", "tp": 2}, ("model", "tensor parallel size"), {"weights"}),
        ({"engine_version": "0.31.0"}, ("version",), set()),
    ],
)
def test_what_belongs_to_the_kernels_is_exchanged_and_the_host_stays(
    given: dict[str, Any], changed: tuple[str, ...], gone: set[str]
) -> None:
    found = moved(**given)
    assert found.changed == changed
    assert set(HOST) <= set(found.kept)
    assert not gone & set(found.kept)
    (sentence,) = found.said
    assert f"another {', '.join(changed)}" in sentence


def test_kept_values_come_near_the_fit_and_the_others_stay_where_other_models_put_them() -> None:
    found = moved(tp=2)
    deployment = found.calibration.deployment
    prior = untraced(OTHERS.prior(deployment), deployment)
    place = NAMES.index("per_step_us")
    fit, before, after = CALIBRATION.values[place], prior.values[place], found.calibration.values[place]
    assert abs(after - fit) < abs(before - fit)
    assert found.calibration.posterior.prior.sd[place] < prior.sd[place]


def test_it_is_less_sure_than_the_fit_and_surer_than_physics() -> None:
    deployment = deploy(MODEL, "H100", 2)
    found = carried(CALIBRATION, deployment, OTHERS).calibration
    assert not found.fitted
    assert total_sd(found.open_doubts) > total_sd(deployment.doubts)
    interval = found.step_time(STEP).interval_us
    assert interval is not None
    assert interval[0] < found.step_time(STEP).total_us < interval[1]
    assert (np.diag(found.posterior.prior.covariance) > 0).all()


def test_more_that_differs_keeps_no_more() -> None:
    assert set(kept_through(("GPU", "precision"))) <= set(kept_through(("precision",)))
    assert set(kept_through(("precision", "tensor parallel size"))) <= set(kept_through(("precision",)))


def test_another_engine_is_refused() -> None:
    with pytest.raises(InputError, match="expected the same engine"):
        carried(CALIBRATION, deploy(MODEL, "H100", 1, engine="sglang"), OTHERS)
    assert replace(CALIBRATION, runs=()).fitted is False
