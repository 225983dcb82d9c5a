"""`roofml evaluate`: errors on requests that were held out, and what does not go together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commandline import ok, roofml, saturated_folder
from runfolder import RunFolder, requests

pytestmark = pytest.mark.slow


def test_evaluate_json_is_the_contract(folder: Path) -> None:
    found = ok("evaluate", folder, "--gpu", "H100", "--protocol", "temporal", "--json").document
    assert (found["protocol"], found["train_fraction"]) == ("temporal", 0.6)
    (run,) = found["runs"]
    assert set(run) == {"run", "model", "gpu", "tp", "requests", "saturated", "metrics", "request_e2e_mape_pct"}
    assert (run["run"], run["model"], run["gpu"], run["tp"]) == ("quiet", "meta-llama/Llama-2-7b-hf", "H100", 1)
    assert (run["requests"], run["saturated"]) == (60, False)
    metrics = {"e2e_mean", "ttft_mean", "tpot_mean", "e2e_p99", "ttft_p99", "tpot_p99"}
    assert set(run["metrics"]) == metrics
    assert metrics <= set(found["summary"])


def test_without_coefficients_every_figure_has_an_interval(folder: Path) -> None:
    """No trace of the model is used: physics and other models' fits, and how uncertain they are."""
    found = ok("evaluate", folder, "--gpu", "H100", "--json").document
    assert (found["protocol"], found["train_fraction"], found["runs"][0]["requests"]) == ("zero-shot", 0.0, 150)
    replayed = ok("replay", folder, "--gpu", "H100", "--json").document
    assert replayed["metrics"] == found["runs"][0]["metrics"]
    for metric in replayed["metrics"].values():
        low, high = metric["interval_90_us"]
        assert low < metric["predicted_us"] < high
    step = ok("predict", "qwen3-8b", "--gpu", "H100", "--decode", "700x32", "--json").document
    low, high = step["interval_90_us"]
    assert low < step["step_time_us"] < high
    assert not step["calibrated"]


def test_evaluate_with_coefficients_judges_them_as_they_are(folder: Path, coeffs: Path) -> None:
    found = ok("evaluate", folder, "--coeffs", coeffs, "--json").document
    assert (found["protocol"], found["train_fraction"], found["runs"][0]["requests"]) == ("coeffs", 0.0, 150)
    part = ok("evaluate", folder, "--coeffs", coeffs, "--train-fraction", 0.8, "--json").document
    assert (part["train_fraction"], part["runs"][0]["requests"]) == (0.8, 30)
    replayed = ok("replay", folder, "--coeffs", coeffs, "--json").document
    assert replayed["metrics"] == found["runs"][0]["metrics"]


def test_evaluate_names_its_split(folder: Path, coeffs: Path) -> None:
    shown = ok("evaluate", folder, "--gpu", "H100", "--train-fraction", 0.5).out
    assert "fitted on the first 50% of each run, judged on the rest" in shown
    assert "judged on all requests" in ok("evaluate", folder, "--coeffs", coeffs).out


def test_evaluate_keeps_saturated_runs_apart(folder: Path, tmp_path: Path) -> None:
    full = saturated_folder().write(tmp_path / "full")
    found = ok("evaluate", folder, full, "--gpu", "H100", "--json").document
    assert [(run["run"], run["saturated"]) for run in found["runs"]] == [("quiet", False), ("full", True)]
    alone = ok("evaluate", folder, "--gpu", "H100", "--json").document
    assert found["summary"] == alone["summary"]
    shown = ok("evaluate", folder, full, "--gpu", "H100").out
    assert shown.index("worst") < shown.index("saturated runs") < shown.index(" full ")


def test_load_says_which_runs_it_leaves_out(folder: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = requests(240, output=60)
    sent = np.cumsum(random.exponential(np.repeat([4e5, 1e5], 120))).astype(int)
    for each, now in zip(rows, sent, strict=True):
        later = int(now) - int(str(each["send_time_us"]))
        for name in ("arrival_time_us", "send_time_us", "first_chunk_time_us", "last_chunk_time_us"):
            each[name] = int(str(each[name])) + later
    staged = RunFolder(rows=rows).write(tmp_path / "staged")
    found = ok("evaluate", staged, folder, "--gpu", "H100", "--protocol", "load", "--json").document
    assert (found["protocol"], found["left_out"], [run["run"] for run in found["runs"]]) == (
        "load",
        ["quiet"],
        ["staged"],
    )
    assert abs(found["runs"][0]["requests"] - 120) < 15
    shown = ok("evaluate", staged, folder, "--gpu", "H100", "--protocol", "load").out
    assert "left out, of one stage: quiet" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--protocol", "loo"], "'loo': expected temporal, lomo, lowo, load or zero-shot"),
        (["--protocol", "lomo", "--train-fraction", "0.5"], "protocol lomo leaves out whole runs"),
        (["--protocol", "lomo", "--gpu", "H100"], "lomo: expected runs of at least two models"),
        (["--protocol", "lowo", "--gpu", "H100"], "lowo: expected at least two runs of one model"),
        (["--protocol", "load", "--gpu", "H100"], "load: expected a run of stages with different rates"),
        (["--protocol", "lowo", "--target", "blis"], "--target blis: expected --protocol temporal, not lowo"),
        (["--protocol", "magic"], "'magic'"),
        (["--protocol", "temporal", "--coeffs", "c.yaml"], "--coeffs and --protocol"),
        (["--train-fraction", "0"], "--train-fraction 0"),
        (["--train-fraction", "1"], "--train-fraction 1"),
        (["--train-fraction", "-1"], "--train-fraction -1"),
        (["--train-fraction", "nan"], "--train-fraction nan"),
        (["--gpu", "TPU"], "gpu 'TPU'"),
        ([], "give --gpu"),
    ],
)
def test_evaluate_refuses(folder: Path, flags: list[str], message: str) -> None:
    result = roofml("evaluate", folder, *flags)
    assert (result.status, result.out) == (2, "")
    assert message in result.err
