"""`roofml design`, and `roofml fit` of what the benchmark made of it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from commandline import fails, ok
from forward_files import written

from roofml.calibration.calibrate import uncalibrated
from roofml.calibration.forwards.cases import Case
from roofml.latency.deployment import deploy
from roofml.traces.forwards import TimedRequest
from roofml.validation.synthetic_forwards import timed

MODEL = ("meta-llama/Meta-Llama-3.1-8B-Instruct", "--gpu", "H100")
FLAGS = ("--model", MODEL[0], "--gpu", "H100", "--tp", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Batches that were designed, timed on a made-up GPU, and fitted."""
    folder = tmp_path_factory.mktemp("design")
    shapes = folder / "shapes.json"
    ok("design", *MODEL, "--cases", "15", "-o", shapes, "--quiet")
    prior = uncalibrated(deploy(MODEL[0], "H100", 1, engine_version="0.33.0"))
    cases = [
        Case(
            each["name"],
            tuple(
                (TimedRequest(r["query_len"], r["kv_len"] - r["query_len"], chunked=r["chunked"]), r["count"])
                for r in each["requests"]
            ),
        )
        for each in json.loads(shapes.read_text())["cases"]
    ]
    written(folder / "out.json", timed(prior.deployment, prior.draws(1)[0], cases, 3))
    ok("fit", folder / "out.json", *FLAGS, "-o", folder / "found.yaml")
    return folder


def test_the_commands_are_ready_to_be_pasted(tmp_path: Path) -> None:
    shapes = tmp_path / "my shapes.json"
    document = ok("design", *MODEL, "--cases", "3", "-o", shapes, "--json").document
    assert document["commands"]["benchmark"][:3] == ["vllm", "bench", "forward"]
    assert document["cases"] == json.loads(shapes.read_text())["cases"]
    assert document["interval_90_pct"]["before"] > document["interval_90_pct"]["after"]
    line = ok("design", *MODEL, "--cases", "3", "-o", shapes, "--quiet").out
    words = shlex.split(line)
    assert words[words.index("--shapes") + 1] == str(shapes)
    assert words[words.index("--kv-len-jitter") + 1] == "0"


def test_several_gpus_are_started_by_torchrun() -> None:
    words = shlex.split(ok("design", MODEL[0], "--gpu", "H100", "--tp", "2", "--cases", "2", "--quiet").out)
    assert words[:2] == ["torchrun", "--nproc-per-node=2"]
    assert words[words.index("--tensor-parallel-size") + 1] == "2"


def test_what_is_printed_says_what_it_buys_and_what_stays_open() -> None:
    shown = " ".join(ok("design", *MODEL, "--cases", "2").out.split())
    assert "2 batches to time" in shown
    assert "90 % interval of step times" in shown
    assert "no exact batch tells of the sampler" in shown
    assert "minutes on the GPU" in shown


def test_a_fit_of_batches_predicts_with_an_interval(folder: Path) -> None:
    step = ok("predict", *MODEL, "--coeffs", folder / "found.yaml", "--decode", "1000x16", "--json").document
    assert step["calibrated"]
    low, high = step["interval_90_us"]
    assert low < step["step_time_us"] < high
    document = ok("fit", folder / "out.json", *FLAGS, "--json").document
    assert document["coefficients"]["fit"]["forwards"] == ["out"]
    assert document["coefficients"]["fit"]["requests"] == 0
    (told,) = document["forwards"]
    assert len(told["error_pct"]) == 15


def test_a_design_after_the_fit_narrows_less(folder: Path) -> None:
    first = ok("design", *MODEL, "--cases", "5", "--json").document
    after = ok("design", *MODEL, "--coeffs", folder / "found.yaml", "--cases", "5", "--json").document
    assert after["interval_90_pct"]["before"] < first["interval_90_pct"]["before"]
    assert after["stop"] in (True, False)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("no/such-model-anywhere", "--gpu", "H100"), "no/such-model-anywhere"),
        (("llama-3.1-8b-instruct", "--gpu", "H9000"), "H9000"),
        (("llama-2-70b-hf", "--gpu", "L4"), "does not fit"),
        (("llama-3.1-8b-instruct", "--gpu", "H100", "--max-model-len", "999999999"), "positions"),
        (("llama-3.1-8b-instruct", "--gpu", "H100", "--kv-dtype", "int3"), "kv"),
        (("llama-3.1-8b-instruct", "--gpu", "H100", "--for", "/no/such/load"), "no such file"),
        (("llama-3.1-8b-instruct", "--gpu", "H100", "-o", "/no/such/folder/s.json"), "/no/such/folder"),
    ],
)
def test_bad_input_is_refused_in_one_line(words: tuple[str, ...], why: str) -> None:
    assert why in fails("design", *words).err


def test_a_file_says_the_type_of_its_cache_itself(folder: Path) -> None:
    assert "--kv-dtype" in fails("design", *MODEL, "--coeffs", folder / "found.yaml", "--kv-dtype", "fp8").err


def test_the_benchmark_of_blis_needs_requests(folder: Path) -> None:
    assert "--target blis" in fails("fit", folder / "out.json", *FLAGS, "--target", "blis").err
