"""What `import roofml` offers: fourteen names, each imported when it is first used, and an example that runs."""

from __future__ import annotations

import doctest
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from runfolder import RunFolder, exp_config, header, requests

import roofml

NAMES = {
    "read_run": "roofml.traces.read",
    "Run": "roofml.traces.run",
    "Selection": "roofml.traces.selection",
    "Batch": "roofml.latency.batch",
    "load_model": "roofml.models.load",
    "load_gpu": "roofml.hardware.gpu",
    "physics": "roofml.calibration.calibrate",
    "fit": "roofml.calibration.calibrate",
    "load": "roofml.calibration.calibrate",
    "Calibration": "roofml.calibration.calibration",
    "evaluate": "roofml.validation.evaluation",
    "simulate": "roofml.planning.asked",
    "plan": "roofml.planning.asked",
    "InputError": "roofml.util.errors",
}


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there_and_is_that_of_its_room(name: str) -> None:
    assert getattr(roofml, name) is getattr(import_module(NAMES[name]), name)


def test_there_are_fourteen_and_they_are_listed() -> None:
    assert sorted(roofml.__all__) == sorted(NAMES)
    assert set(NAMES) | {"__version__"} <= set(dir(roofml))


def test_no_other_name_is_there() -> None:
    with pytest.raises(AttributeError, match=r"module 'roofml' has no attribute 'Diagnosis'"):
        getattr(roofml, "Diagnosis")  # noqa: B009  # a checker of types refuses the plain form
    with pytest.raises(ImportError):
        exec("from roofml import Diagnosis")


def test_a_name_is_imported_when_it_is_used_and_not_before() -> None:
    code = """
import sys
import roofml
dir(roofml)
assert "numpy" not in sys.modules
from roofml.util.errors import InputError
assert "numpy" not in sys.modules
from roofml.latency.batch import Batch
assert "numpy" in sys.modules
assert "jax" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def served_folder(place: Path, seed: int) -> Path:
    """A run folder of a server of CodeLlama 34B that takes as long as physics says."""
    name, tp = "codellama/CodeLlama-34b-Instruct-hf", 2
    head, settings, rows = header(), exp_config(), requests(150, seed, rate=2.0)
    head["server"] |= {"model": name, "tensor_parallel": tp}
    settings |= {"model": name, "tensor_parallelism": tp}
    for one in rows:
        one["model"] = name
    folder = RunFolder(rows=rows, header=head, exp_config=settings)
    served = roofml.physics(name, "H100", tp).replay(roofml.read_run(folder.write(place), gpu="H100"))
    for one, ttft, e2e in zip(rows, served.ttft_us.tolist(), served.e2e_us.tolist(), strict=True):
        sent = int(str(one["send_time_us"]))
        one |= {"first_chunk_time_us": sent + round(ttft), "last_chunk_time_us": sent + round(e2e)}
    return folder.write(place)


def test_the_example_of_the_package_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [served_folder(tmp_path / f"run-{seed}", seed) for seed in (1, 2)]
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(roofml, extraglobs={"paths": paths}, optionflags=flags)
    assert result.attempted >= 5
    assert result.failed == 0
