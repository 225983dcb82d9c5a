"""The coefficients file: read back to the last bit, refused for anything it should not hold, honest about its reach."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from roofml.calibration.coefficients import (
    Coefficients,
    coefficients_of,
    coefficients_text,
    read_coefficients,
    write_coefficients,
)
from roofml.calibration.fit import Fit
from roofml.calibration.prior import PACKAGE
from roofml.engine.replay import replay
from roofml.latency.batch import StepSums
from roofml.latency.deployment import deploy
from roofml.latency.parameters import NAMES, PARAMETERS, PRIOR_SD, PRIOR_VALUES, RequestParameters, StepParameters
from roofml.models.spec import load_model
from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.util.errors import InputError

MODEL = "meta-llama/Llama-2-7b-hf"
VALID = {"batch": (1, 64), "context": (100, 2000), "new_tokens": (1, 2048)}


def a_run(requests: int = 30) -> Run:
    counts = np.arange(requests)
    return Run(
        name="made up",
        server=Server(MODEL, 1, 64, 2048, 16, 5000, 4096, gpu="H100"),
        request_id=counts,
        arrival_us=1e5 * counts,
        prompt_tokens=100 + 7 * counts,
        output_tokens=20 + counts % 5,
        prefix_group=np.full(requests, -1),
        prefix_tokens=np.zeros(requests, np.int64),
        ttft_us=np.full(requests, 3e4),
        e2e_us=np.full(requests, 3e5),
        ok=np.ones(requests, np.bool_),
    )


def a_fit(**changes: Any) -> Fit:
    random = np.random.default_rng(0)
    half = random.normal(size=(len(NAMES), len(NAMES)))
    given: dict[str, Any] = {
        "values": PRIOR_VALUES * random.uniform(0.9, 1.0, len(NAMES)),
        "covariance": half @ half.T / 1e3 + np.diag(PRIOR_SD**2) / 9,
        "prior": PACKAGE,
        "requests": 30,
        "rounds": 3,
        "converged": True,
        "misfit": 1.0,
        "paces": {"general": 1.003, "codegen": 0.995},
        "valid": VALID,
    }
    return Fit(**(given | changes))


def made(**changes: Any) -> Coefficients:
    errors = {"made up": {"e2e_mean": 0.123456, "ttft_mean": -1.0, "tpot_mean": 1 / 3}}
    return coefficients_of(a_fit(**changes), load_model(MODEL), "H100", [a_run()], 1.0, errors)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "coefficients.yaml"
    write_coefficients(path, made())
    return path


def edit(path: Path, change: Any) -> None:
    """Apply `change` to the file's mapping."""
    yaml = YAML()
    document = yaml.load(path.read_text())
    change(document)
    with path.open("w") as stream:
        yaml.dump(document, stream)


def test_written_read_and_written_again_is_the_same_file(file: Path) -> None:
    first = file.read_bytes()
    again = file.with_name("again.yaml")
    write_coefficients(again, read_coefficients(file))
    assert again.read_bytes() == first
    assert read_coefficients(again) == made()


def test_two_equal_fits_are_the_same_bytes() -> None:
    assert coefficients_text(made()) == coefficients_text(made())


def test_what_is_read_predicts_what_was_fitted(file: Path) -> None:
    """Six significant digits: far below what any trace can tell, and the same on every machine."""
    read = read_coefficients(file)
    np.testing.assert_allclose(read.values, a_fit().values, rtol=5e-6)
    step, request = read.parameters()
    assert isinstance(step, StepParameters)
    assert isinstance(request, RequestParameters)
    tables = deploy(MODEL, "H100", 1, 2048).tables
    assert np.all(np.isfinite(replay(a_run(), tables, step, request).e2e_us))


def test_the_file_has_the_sections_scripts_depend_on(file: Path) -> None:
    document = YAML(typ="safe").load(file.read_text())
    assert list(document) == ["schema", "model", "gpu", "tensor_parallel", "engine", "step", "request", "fit"]
    assert document["schema"] == "roofml/1"
    assert set(document["model"]) == {"name", "hf_repo", "config_sha256"}
    assert set(document["engine"]) == {"name", "version", "dtype", "kv_dtype"}
    assert document["engine"]["version"] is None
    assert list(document["step"])[:3] == ["corrections", "overheads_us", "blend"]
    named = [name for group in document["step"].values() for name in group] + list(document["request"])
    assert named == list(NAMES)
    fit = document["fit"]
    assert {"runs", "requests", "error_pct", "covariance", "not_identified", "valid", "roofml"} <= set(fit)
    assert fit["valid"]["batch"] == [1, 64]
    assert [len(row) for row in fit["covariance"]] == list(range(1, len(NAMES) + 1))


def test_what_a_person_reads_is_one_number_a_line_and_one_line_a_matrix_row(file: Path) -> None:
    text = file.read_text()
    assert re.search(r"^    batch: \[1, 64\]$", text, re.MULTILINE)
    assert "!!" not in text
    assert "&" not in text


@pytest.mark.parametrize("name", ["yes", "1e3", "ünïcode", "a: b", "# no comment", ":fire: [red]x[/]", "- x", "null"])
def test_names_of_runs_survive(tmp_path: Path, name: str) -> None:
    errors = {name: {"e2e_mean": 1.0, "ttft_mean": 1.0, "tpot_mean": 1.0}}
    one = coefficients_of(a_fit(), load_model(MODEL), "H100", [a_run()], 1.0, errors)
    write_coefficients(tmp_path / "c.yaml", one)
    assert list(read_coefficients(tmp_path / "c.yaml").fit.error_pct) == [name]


def put(*path: str | int, value: Any) -> Any:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


def drop(*path: str) -> Any:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        del document[path[-1]]

    return change


WRONG = [
    ("unknown key", put("surprise", value=1), r"surprise: "),
    ("unknown key of a section", put("model", "color", value="red"), r"model\.color: "),
    ("unknown parameter", put("step", "corrections", "warp", value=1.0), r"step\.corrections\.warp: unknown parameter"),
    ("missing section", drop("request"), r"request: .*required"),
    ("missing key", drop("model", "hf_repo"), r"model\.hf_repo: .*required"),
    ("missing parameter", drop("step", "overheads_us", "per_step_us"), r"step\.overheads_us\.per_step_us: missing"),
    ("missing range", drop("fit", "valid", "context"), r"fit\.valid\.context: missing"),
    ("NaN", put("request", "queueing_us", value=float("nan")), r"request\.queueing_us: .*finite"),
    ("infinity", put("step", "blend", "max_weight", value=float("inf")), r"step\.blend\.max_weight: .*finite"),
    ("NaN in the covariance", put("fit", "covariance", 0, 0, value=float("nan")), r"fit\.covariance\.0\.0: .*finite"),
    ("above its bound", put("step", "blend", "max_weight", value=1.5), r"max_weight: 1\.5, expected between 0 and 1"),
    ("below its bound", put("request", "pipeline_delay_us", value=-1.0), r"pipeline_delay_us: -1\.0, expected between"),
    ("another schema", put("schema", value="roofml/2"), r"schema: .*roofml/1"),
    ("a word for a number", put("step", "corrections", "weights", value="much"), r"corrections\.weights: .*number"),
    ("a list for a mapping", put("step", value=[1, 2]), r"step: "),
    ("no GPU", put("gpu", value=None), r"gpu: .*string"),
    ("no GPUs", put("tensor_parallel", value=0), r"tensor_parallel: .*greater than or equal to 1"),
    ("half a GPU", put("tensor_parallel", value=0.5), r"tensor_parallel: "),
    ("a range of one end", put("fit", "valid", "batch", value=[1]), r"fit\.valid\.batch"),
]


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_file_that_is_not_coefficients_is_refused_by_file_and_field(file: Path, change: Any, message: str) -> None:
    edit(file, change)
    with pytest.raises(InputError) as refused:
        read_coefficients(file)
    text = str(refused.value)
    assert text.startswith(f"{file}: ")
    assert re.search(message, text), text
    assert "\n" not in text


@pytest.mark.parametrize("parameter", PARAMETERS, ids=NAMES)
def test_every_parameter_is_held_to_its_bounds(file: Path, parameter: Any) -> None:
    group = ("request",) if parameter.group == "request" else ("step", parameter.group)
    for value in (parameter.lower, parameter.upper):
        edit(file, put(*group, parameter.name, value=value))
        assert read_coefficients(file).values[NAMES.index(parameter.name)] == value
    edit(file, put(*group, parameter.name, value=parameter.upper * 1.01))
    with pytest.raises(InputError, match=parameter.name):
        read_coefficients(file)


def test_a_bomb_of_aliases_is_refused_before_it_goes_off(file: Path) -> None:
    lines = ['a: &a ["x","x","x","x","x","x","x","x","x"]']
    lines += [f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
    file.write_text("\n".join(lines))
    with pytest.raises(InputError, match="line 1: anchors and aliases are not accepted"):
        read_coefficients(file)


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"folder .*nowhere does not exist"):
        write_coefficients(tmp_path / "nowhere" / "c.yaml", made())
    assert list(tmp_path.iterdir()) == []


def test_writing_replaces_and_leaves_nothing_beside(file: Path) -> None:
    file.write_text("old")
    write_coefficients(file, made())
    assert read_coefficients(file) == made()
    assert list(file.parent.iterdir()) == [file]


def decodes(count: int, context: int) -> list[tuple[int, int, int]]:
    return [(1, context, 0)] * count


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (decodes(64, 2000), []),
        (decodes(1, 100), []),
        (decodes(65, 500), ["batch"]),
        (decodes(8, 99), ["mean context"]),
        (decodes(8, 2001), ["mean context"]),
        ([(2049, 0, 2049)], ["new tokens"]),
        ([*decodes(64, 5000), (2000, 0, 2000)], ["batch", "mean context", "new tokens"]),
    ],
)
def test_steps_outside_what_the_fit_saw_are_said(batch: list[tuple[int, int, int]], said: list[str]) -> None:
    warnings = made().outside(StepSums.from_requests([batch]))
    assert len(warnings) == len(said)
    for warning, word in zip(warnings, said, strict=True):
        assert warning.startswith(word)
        assert "the fit has seen" in warning


def test_the_share_outside_is_that_of_steps() -> None:
    steps = StepSums.from_requests([*[decodes(8, 500)] * 3, decodes(100, 500)])
    (warning,) = made().outside(steps)
    assert warning == "batch 8 to 100: the fit has seen 1 to 64 (25 % of steps lie outside)"


def test_a_step_without_decodes_has_no_context_to_judge() -> None:
    assert made().outside(StepSums.from_requests([[(512, 0, 512)]])) == []


def test_parameters_the_data_did_not_tell_are_named() -> None:
    loose = np.diag(np.where(np.array(NAMES) == "weights", PRIOR_SD**2 / 100, PRIOR_SD**2))
    assert made(covariance=loose).fit.not_identified == [name for name in NAMES if name != "weights"]
