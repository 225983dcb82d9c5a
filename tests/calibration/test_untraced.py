"""What measured points say of deployments without a trace: where it counts, and where it does not."""

from __future__ import annotations

import numpy as np
import pytest

from roofml.calibration.prior import PACKAGE
from roofml.calibration.untraced import DECODING, OVERLAPPED, STATIC_FP8, SUSTAINED, WAITING_US, untraced
from roofml.latency.deployment import deploy
from roofml.latency.parameters import BY_NAME, NAMES

MODEL, FP8 = "llama-3.1-8b-instruct", "meta-llama-3.1-8b-instruct-fp8"


def moved(model: str, gpu: str, version: str | None = "0.15.1") -> dict[str, float]:
    """Parameter -> by what factor (corrections) or how many µs (overheads) its mean moves, of those that do."""
    found = untraced(PACKAGE, deploy(model, gpu, 1, engine_version=version)).values
    changes: dict[str, float] = {}
    for name, before, after in zip(NAMES, PACKAGE.values, found, strict=True):
        if after != before:
            correction = BY_NAME[name].group == "corrections"
            changes[name] = float(after / before if correction else after - before)
    return changes


def test_prompts_of_a_server_take_longer_than_kernels_measured_alone() -> None:
    assert moved(MODEL, "H100") == pytest.approx(SUSTAINED)


def test_kernels_of_a_decode_step_overlap_on_blackwell() -> None:
    expected = {**SUSTAINED, **dict.fromkeys(DECODING, OVERLAPPED)}
    assert moved(MODEL, "B200") == pytest.approx(expected)


def test_a_step_waits_for_the_cpu_where_the_engine_does_not_schedule_ahead() -> None:
    assert moved(MODEL, "H100", "0.11.0") == pytest.approx({**SUSTAINED, "per_step_us": WAITING_US})
    assert moved(MODEL, "H100", None) == pytest.approx(SUSTAINED)


def test_weights_of_a_dense_model_in_fp8_are_read_slower() -> None:
    assert moved(FP8, "H100") == pytest.approx({**SUSTAINED, "weights": STATIC_FP8})


@pytest.mark.parametrize("gpu", ["H100", "B200"])
def test_what_is_moved_is_less_sure_and_nothing_is_surer(gpu: str) -> None:
    after = untraced(PACKAGE, deploy(FP8, gpu, 1, engine_version="0.11.0"))
    assert np.all(after.sd >= PACKAGE.sd)
    for name in moved(FP8, gpu, "0.11.0"):
        assert after.sd[NAMES.index(name)] > PACKAGE.sd[NAMES.index(name)]
