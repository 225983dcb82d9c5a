"""`roofml predict`: one step, component by component."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commandline import fails, ok, roofml

from roofml.calibration.coefficients import read_coefficients
from roofml.models.spec import config_path
from roofml.util.package_data import data_folder

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

    assert us("--decode", "700x2", "--decode", "900x1") < us("--decode", "900x3") < us("--decode", "4000x3")
    assert us("--prefill", "512@0") < us("--prefill", "512@1000") < us("--prefill", "3000@1000")
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


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["llama-2-70b-hf", "--decode", "700x8"], "minimum tensor parallel size: 2"),
        (["llama-2-7b-hf", "--decode", "9000x1"], "a request of 9001 tokens, context and new ones: llama-2-7b-hf has"),
        (["llama-2-7b-hf", "--prefill", "5000@0"], "llama-2-7b-hf has 4096 positions"),
        (["llama-2-7b-hf", "--decode", "4000x64"], "its KV cache takes 125.5 GiB of each GPU"),
        (["llama-2-7b-hf", "--decode", "4000x99999"], "no tensor parallel size up to 1024 is enough"),
        (["llama-2-7b-hf", "--decode", "1x99999"] + 11 * ["--decode", "1x99999"], "new tokens in the step: expected"),
        (["llama-2-7b-hf", "--decode", "\u0661x1"], "expected CTXxCOUNT"),
    ],
)
def test_predict_refuses_what_cannot_be_on_the_gpu(line: list[str], message: str) -> None:
    assert message in fails("predict", *line, "--gpu", "H100").err


def test_predict_warns_of_what_vllm_would_not_do_by_default() -> None:
    said = ok(*STEP, "--decode", "2000x62", "--quiet")
    assert "warning: the step's KV cache takes 61.0 GiB of each GPU" in said.err
    assert said.err.count("KV cache") == 1
    assert ok(*STEP, "--decode", "2000x50", "--quiet").err == ""


def other_config(folder: Path) -> Path:
    """Another config of the same name."""
    folder = folder / "llama-2-7b-hf"
    folder.mkdir()
    config = json.loads(config_path("llama-2-7b-hf").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 30}))
    return folder


def other_sheet(folder: Path, name: str = "H100") -> Path:
    """Another sheet of the same name, or of one like it."""
    sheet = folder / "H100.yaml"
    text = (data_folder("hardware") / "H100.yaml").read_text()
    sheet.write_text(text.replace("name: H100", f"name: {name}").replace("sm_count: 132", "sm_count: 131"))
    return sheet


def test_predict_other_config_same_name(coeffs: Path, tmp_path: Path) -> None:
    said = fails("predict", other_config(tmp_path), "--gpu", "H100", "--coeffs", coeffs, "--decode", "700x2").err
    assert f"{coeffs}: was fitted over another config.json of llama-2-7b-hf" in said


@pytest.mark.parametrize("name", ["H100", "h100", "H100."])
def test_predict_other_datasheet_same_name(coeffs: Path, tmp_path: Path, name: str) -> None:
    sheet = other_sheet(tmp_path, name)
    said = fails("predict", "llama-2-7b-hf", "--gpu", sheet, "--coeffs", coeffs, "--decode", "700x2").err
    assert "this sheet's numbers are not those of hardware/H100.yaml" in said


@pytest.mark.parametrize("command", ["replay", "evaluate"])
def test_replay_and_evaluate_other_config_same_name(folder: Path, coeffs: Path, tmp_path: Path, command: str) -> None:
    said = fails(command, folder, "--model", other_config(tmp_path), "--coeffs", coeffs).err
    assert "was fitted over another config.json of llama-2-7b-hf" in said


@pytest.mark.parametrize("command", ["replay", "evaluate"])
def test_replay_and_evaluate_other_datasheet_same_name(
    folder: Path, coeffs: Path, tmp_path: Path, command: str
) -> None:
    said = fails(command, folder, "--gpu", other_sheet(tmp_path), "--coeffs", coeffs).err
    assert "this sheet's numbers are not those of hardware/H100.yaml" in said
