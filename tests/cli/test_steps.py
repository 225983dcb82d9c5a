"""Sampled steps on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from commandline import fails, ok
from runfolder import RunFolder
from sampled import columns_of, write_otlp

from roofml.engine.replay import replay
from roofml.latency.deployment import deployment_of
from roofml.latency.parameters import PRIOR_VALUES, Parameters
from roofml.traces.doctor import clean
from roofml.traces.read import read_raw
from roofml.traces.server import ServerOverrides

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run folder, and steps that its server might have written down."""
    folder = RunFolder().write(tmp_path_factory.mktemp("runs") / "quiet")
    run = clean(read_raw(folder, ServerOverrides(gpu="H100")))
    schedule = replay(run, deployment_of([run]).tables, Parameters.of(PRIOR_VALUES)).schedule
    return folder, write_otlp(folder.parent / "quiet.jsonl", columns_of(schedule, 0.2))


def test_evaluate_judges_cycle_times_without_a_fit_with_one_and_with_a_file(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, steps = files
    for flags, given, held_out in (
        ([], "prior", False),
        (["--protocol", "temporal", "--train-fraction", "0.5"], "fit", True),
    ):
        found = ok("evaluate", folder, "--gpu", "H100", "--steps", steps, "--json", *flags).document["steps"]
        assert [(row["parameters"], row["held_out"]) for row in found] == [(given, held_out)]
        assert found[0]["cycles"] > 100
    assert "cycle times of sampled steps" in ok("evaluate", folder, "--gpu", "H100", "--steps", steps).out
    coefficients = tmp_path / "quiet.yaml"
    ok("fit", folder, "--gpu", "H100", "--steps", steps, "--steps-only", "-o", coefficients)
    text = coefficients.read_text()
    assert "requests: 0" in text
    assert "quiet.jsonl" in text
    rows = ok("evaluate", folder, "--coeffs", coefficients, "--steps", steps, "--json").document["steps"]
    # The steps were made with the package's prior, which the fit starts from: single cycles within a few percent.
    assert rows[0]["median_abs_error_pct"] < 3


def test_steps_need_a_run_and_a_protocol_that_has_them(files: tuple[Path, Path], tmp_path: Path) -> None:
    folder, steps = files
    assert "--steps: cycle times are judged" in fails("evaluate", folder, "--protocol", "lowo", "--steps", steps).err
    assert "expected --steps FILE" in fails("fit", folder, "--gpu", "H100", "--steps-only").err
    assert "given twice" in fails("fit", folder, "--gpu", "H100", "--steps", steps, "--steps", steps).err
    output = tmp_path / "never.yaml"
    damaged = tmp_path / "quiet.jsonl"
    damaged.write_text(steps.read_text()[:-30])
    assert "is the file cut" in fails("fit", folder, "--gpu", "H100", "--steps", damaged, "-o", output).err
    assert not output.exists()
