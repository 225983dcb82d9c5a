"""`roofml predict`: one step, component by component."""

from __future__ import annotations

from pathlib import Path

import pytest
from commandline import ok, roofml

from roofml.calibration.coefficients import read_coefficients

STEP = ["predict", "llama-2-7b-hf", "--gpu", "H100"]


def test_predict_without_coefficients_says_it_is_not_calibrated() -> None:
    assert "not calibrated" in ok(*STEP, "--decode", "700x32").out
    assert ok(*STEP, "--decode", "700x32", "--json").document["calibrated"] is False


def test_predict_shows_components_and_their_correction(coeffs: Path) -> None:
    line = [*STEP, "--coeffs", coeffs, "--decode", "700x8", "--prefill", "512@0", "--prefill", "100@300"]
    found = ok(*line, "--json").document
    assert found["calibrated"] is True
    given = read_coefficients(coeffs).step
    parts = found["components_us"]
    assert parts["kv_cache"]["corrected"] == pytest.approx(given.corrections["kv_cache"] * parts["kv_cache"]["physics"])
    # More than 256 new tokens: every growth of the weights' time is in.
    weights = given.corrections["weights"] + sum(given.gemm_growth.values())
    assert parts["weights"]["corrected"] == pytest.approx(weights * parts["weights"]["physics"])
    corrected = {name: part["corrected"] for name, part in parts.items()}
    longest = max(corrected["prefill_gemm"] + corrected["decode_gemm"], corrected["weights"])
    everything = sum(corrected.values()) + sum(found["overheads_us"].values()) + given.overheads_us["cpu_floor_us"]
    assert longest < found["step_time_us"] <= everything
    for name in parts:
        assert name in ok(*line).out


def test_predict_is_the_step_of_the_batch() -> None:
    def us(*line: str) -> float:
        return ok(*STEP, *line, "--json").document["step_time_us"]

    assert us("--decode", "700x2", "--decode", "900x1") < us("--decode", "900x3") < us("--decode", "9000x3")
    assert us("--prefill", "512@0") < us("--prefill", "512@1000") < us("--prefill", "5120@1000")
    assert float(ok(*STEP, "--decode", "700x2", "--quiet").out) == pytest.approx(us("--decode", "700x2"), abs=0.1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give --prefill NEW@CTX or --decode CTXxCOUNT"),
        (["--decode", "700"], "expected CTXxCOUNT"),
        (["--decode", "700x0"], "expected CTXxCOUNT"),
        (["--decode", "-1x2"], "expected CTXxCOUNT"),
        (["--prefill", "0@10"], "expected NEW@CTX"),
        (["--prefill", "ten@0"], "expected NEW@CTX"),
        (["--prefill", "999999999@0"], "999999999 new tokens in the step: expected at most"),
        (["--decode", "1x1", "--tp", "64"], "num_attention_heads"),
        (["--decode", "1x1", "--tp", "0"], "tensor parallel size 0"),
    ],
)
def test_predict_refuses(flags: list[str], message: str) -> None:
    result = roofml(*STEP, *flags)
    assert (result.status, result.out) == (2, "")
    assert message in result.err


@pytest.mark.parametrize("flags", [["--gpu", "H200"], ["--gpu", "H100", "--tp", "2"]])
def test_predict_refuses_coefficients_of_another_pair(coeffs: Path, flags: list[str]) -> None:
    result = roofml("predict", "llama-2-7b-hf", "--coeffs", coeffs, "--decode", "1x1", *flags)
    assert (result.status, result.out) == (2, "")
    assert str(coeffs) in result.err
