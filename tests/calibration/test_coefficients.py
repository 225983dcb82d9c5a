"""The coefficients file: read back to the last bit, refused for anything it should not hold, and read for ever."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitted import MODEL, a_calibration, a_posterior, a_run, measured_again
from ruamel.yaml import YAML

from roofml.calibration.calibrate import load
from roofml.calibration.coefficients import Coefficients, coefficients_text, read_coefficients, write_coefficients
from roofml.engine.replay import replay
from roofml.latency.batch import Batch
from roofml.latency.deployment import deploy
from roofml.latency.parameters import NAMES, PARAMETERS, PRIOR_SD, Parameter, Parameters
from roofml.models.spec import config_path
from roofml.util.errors import InputError
from roofml.util.files import data_folder

Change = Callable[[Any], None]
"""Something done to the file's mapping."""


def made(**changes: Any) -> Coefficients:
    return a_calibration(**changes).coefficients()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "coefficients.yaml"
    write_coefficients(path, made())
    return path


def edit(path: Path, change: Change) -> None:
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
    np.testing.assert_allclose(read.values, a_posterior().values, rtol=5e-6)
    np.testing.assert_allclose(read.covariance, a_posterior().covariance, rtol=5e-4)
    tables = deploy(MODEL, "H100", 1, 2048).tables
    served = replay(a_run(), tables, Parameters.of(read.values))
    np.testing.assert_allclose(
        served.e2e_us, replay(a_run(), tables, Parameters.of(a_posterior().values)).e2e_us, rtol=1e-5
    )


def test_the_file_has_the_sections_scripts_depend_on(file: Path) -> None:
    document = YAML(typ="safe").load(file.read_text())
    sections = ["schema", "model", "gpu", "tensor_parallel", "engine", "physics", "step", "request", "fit"]
    assert list(document) == sections
    assert document["schema"] == "roofml/1"
    assert set(document["model"]) == {"name", "hf_repo", "config_sha256"}
    assert set(document["engine"]) == {"name", "version", "dtype", "kv_dtype"}
    assert document["engine"]["version"] is None
    assert set(document["physics"]) == {"gpu_sheet_sha256", "kernel_tables_sha256"}
    assert list(document["step"])[:3] == ["corrections", "overheads_us", "blend"]
    named = [name for group in document["step"].values() for name in group] + list(document["request"])
    assert named == list(NAMES)
    fit = document["fit"]
    assert {"runs", "requests", "error_pct", "covariance", "not_identified", "valid", "roofml"} <= set(fit)
    assert fit["run_sha256"] == {"made up": a_run().identity}
    assert fit["valid"]["batch"] == [1, 64]
    assert [len(row) for row in fit["covariance"]] == list(range(1, len(NAMES) + 1))


def test_what_a_person_reads_is_one_number_a_line_and_one_line_a_matrix_row(file: Path) -> None:
    text = file.read_text()
    assert re.search(r"^    batch: \[1, 64\]$", text, re.MULTILINE)
    assert "!!" not in text
    assert "&" not in text


@pytest.mark.parametrize("name", ["yes", "1e3", "ünïcode", "a: b", "# no comment", ":fire: [red]x[/]", "- x", "null"])
def test_names_of_runs_survive(tmp_path: Path, name: str) -> None:
    a_calibration([replace(a_run(), name=name)]).save(tmp_path / "c.yaml")
    fit = read_coefficients(tmp_path / "c.yaml").fit
    assert list(fit.error_pct) == list(fit.paces) == list(fit.run_sha256 or ()) == fit.runs == [name]


def put(*path: str | int, value: Any) -> Change:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


def drop(*path: str) -> Change:
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
    ("missing section of a fit", drop("fit"), r"fit: .*required"),
    ("missing digest", drop("physics", "gpu_sheet_sha256"), r"physics\.gpu_sheet_sha256: .*required"),
    ("unknown parameter of the sd", put("fit", "sd", "warp", value=1.0), r"fit\.sd\.warp: unknown parameter"),
    ("a row too few", lambda document: document["fit"]["covariance"].pop(), r"fit\.covariance: .*triangle of 27 rows"),
    ("a row too long", lambda document: document["fit"]["covariance"][3].append(0.0), r"fit\.covariance: .*triangle"),
    ("missing range", drop("fit", "valid", "context"), r"fit\.valid\.context: missing"),
    ("NaN", put("request", "queueing_us", value=float("nan")), r"request\.queueing_us: .*finite"),
    ("infinity", put("step", "blend", "max_weight", value=float("inf")), r"step\.blend\.max_weight: .*finite"),
    ("NaN in the covariance", put("fit", "covariance", 0, 0, value=float("nan")), r"fit\.covariance\.0\.0: .*finite"),
    ("above its bound", put("step", "blend", "max_weight", value=1.5), r"max_weight: 1\.5, expected between 0 and 1"),
    ("below its bound", put("request", "pipeline_delay_us", value=-1.0), r"pipeline_delay_us: -1\.0, expected between"),
    ("a newer schema", put("schema", value="roofml/2"), r"schema: roofml/2 is newer than .* roofml/1: upgrade roofml$"),
    ("another schema", put("schema", value="roofml-global/1"), r"schema: 'roofml-global/1', expected roofml/1"),
    ("no schema", drop("schema"), r"schema: None, expected roofml/1"),
    ("a word for a number", put("step", "corrections", "weights", value="much"), r"corrections\.weights: .*number"),
    ("a list for a mapping", put("step", value=[1, 2]), r"step: "),
    ("no GPU", put("gpu", value=None), r"gpu: .*string"),
    ("no GPUs", put("tensor_parallel", value=0), r"tensor_parallel: .*greater than or equal to 1"),
    ("half a GPU", put("tensor_parallel", value=0.5), r"tensor_parallel: "),
    ("a range of one end", put("fit", "valid", "batch", value=[1]), r"fit\.valid\.batch"),
]


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_file_that_is_not_coefficients_is_refused_by_file_and_field(file: Path, change: Change, message: str) -> None:
    edit(file, change)
    with pytest.raises(InputError) as refused:
        read_coefficients(file)
    text = str(refused.value)
    assert text.startswith(f"{file}: ")
    assert re.search(message, text), text
    assert "\n" not in text


def place_of(parameter: Parameter) -> tuple[str, ...]:
    """Where the file has it."""
    return ("request",) if parameter.group == "request" else ("step", parameter.group)


@pytest.mark.parametrize("parameter", PARAMETERS, ids=NAMES)
def test_every_parameter_is_held_to_its_bounds(file: Path, parameter: Parameter) -> None:
    group = place_of(parameter)
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


def test_parameters_the_data_did_not_tell_are_named() -> None:
    loose = np.diag(np.where(np.array(NAMES) == "weights", PRIOR_SD**2 / 100, PRIOR_SD**2))
    assert made(covariance=loose).fit.not_identified == [name for name in NAMES if name != "weights"]


# A file lives for ever.

OLD = Path(__file__).resolve().parents[1] / "data" / "coefficients-0.1.0"
BATCHES = (
    Batch(prefill=[(16, 560)], decode=[(700, 64)]),
    Batch(decode=[(1500, 8)]),
    Batch(prefill=[(1500, 0)]),
)
PREDICTED: dict[str, tuple[float, float, float]] = {
    "codellama-34b-instruct-hf-h100-tp2": (16474.7039, 14038.4072, 82486.6334),
    "llama-2-70b-hf-h100-tp4": (20205.8827, 16126.2089, 105074.296),
    "llama-2-7b-hf-h100-tp1": (14445.9688, 7924.07244, 31216.8513),
    "mixtral-8x7b-v0.1-h100-tp2": (19761.9623, 16316.6428, 41460.4772),
}
"""What 0.1.0 itself predicted with these files for BATCHES, µs, to nine digits."""


def test_every_file_of_0_1_0_is_here() -> None:
    assert sorted(path.stem for path in OLD.iterdir()) == sorted(PREDICTED)
    for path in OLD.iterdir():
        document = YAML(typ="safe").load(path.read_text())
        assert document["fit"]["roofml"] == "0.1.0"
        assert "physics" not in document
        assert "run_sha256" not in document["fit"]


@pytest.mark.parametrize("name", PREDICTED)
def test_a_file_of_0_1_0_predicts_what_it_did_and_what_one_with_digests_does(name: str, tmp_path: Path) -> None:
    old = load(OLD / f"{name}.yaml")
    times = tuple(old.step_time(batch).total_us for batch in BATCHES)
    assert times == pytest.approx(PREDICTED[name], rel=1e-8)
    path = tmp_path / "with_digests.yaml"
    shutil.copy(OLD / f"{name}.yaml", path)
    physics = {
        "gpu_sheet_sha256": old.deployment.gpu.sheet_sha256,
        "kernel_tables_sha256": old.deployment.kernels_sha256,
    }
    edit(path, put("physics", value=physics))
    edit(path, put("fit", "run_sha256", value={run.name: f"{i:064x}" for i, run in enumerate(old.runs)}))
    new = load(path)
    assert tuple(new.step_time(batch).total_us for batch in BATCHES) == times
    assert [run.pace for run in new.runs] == [run.pace for run in old.runs]
    assert new.not_identified == old.not_identified
    assert old.step_time(BATCHES[0]).interval_us is None


@pytest.mark.parametrize("name", PREDICTED)
def test_a_file_of_0_1_0_is_written_again_without_loss(name: str, tmp_path: Path) -> None:
    """What was not in it is added: digests of the physics, and that no run's is known."""
    old = load(OLD / f"{name}.yaml")
    old.save(tmp_path / "again.yaml")
    before, after = (read_coefficients(path) for path in (OLD / f"{name}.yaml", tmp_path / "again.yaml"))
    assert after.physics is not None
    assert after.values.tolist() == before.values.tolist()
    np.testing.assert_allclose(after.covariance, before.covariance, rtol=5e-4)
    assert after.fit.paces == before.fit.paces
    assert after.blis == before.blis
    assert load(tmp_path / "again.yaml").pace_of(replace(a_run(), name=before.fit.runs[0])) == old.runs[0].pace


def without(document: Any, parameter: Parameter) -> None:
    """As a file is that was made before the parameter was."""
    drop(*place_of(parameter), parameter.name)(document)
    index = list(document["fit"]["sd"]).index(parameter.name)
    del document["fit"]["sd"][parameter.name]
    del document["fit"]["covariance"][index]
    for row in document["fit"]["covariance"][index:]:
        del row[index]


@pytest.mark.parametrize("parameter", PARAMETERS, ids=NAMES)
def test_a_parameter_that_a_file_lacks_is_neutral_and_known_without_doubt(file: Path, parameter: Parameter) -> None:
    full, index = read_coefficients(file), NAMES.index(parameter.name)
    edit(file, lambda document: without(document, parameter))
    read, rest = read_coefficients(file), np.arange(len(NAMES)) != index
    assert read.values[index] == parameter.neutral
    assert read.values[rest].tolist() == full.values[rest].tolist()
    assert not read.covariance[index].any()
    assert not read.covariance[:, index].any()
    assert read.covariance[np.ix_(rest, rest)].tolist() == full.covariance[np.ix_(rest, rest)].tolist()


def test_without_long_contexts_they_cost_nothing_besides(file: Path) -> None:
    """And the file can be shown, drawn from, and written again."""
    edit(file, lambda document: without(document, PARAMETERS[NAMES.index("long_context")]))
    calibration = load(file)
    assert calibration.parameters.step.long_context == 0.0
    row = next(row for row in calibration.rows() if row["name"] == "long_context")
    assert (row["low"], row["value"], row["high"]) == (0.0, 0.0, 0.0)
    assert calibration.draws(10)[:, NAMES.index("long_context")].max() < 1e-200
    grouped = load(OLD / "codellama-34b-instruct-hf-h100-tp2.yaml")
    alone = grouped.parameters.step._replace(long_context=0.0)
    path = file.with_name("grouped.yaml")
    shutil.copy(OLD / "codellama-34b-instruct-hf-h100-tp2.yaml", path)
    edit(path, lambda document: without(document, PARAMETERS[NAMES.index("long_context")]))
    assert load(path).parameters.step == alone
    long = Batch(decode=[(1500, 8)])
    assert load(path).step_time(long).total_us < grouped.step_time(long).total_us
    again = file.with_name("again.yaml")
    calibration.save(again)
    assert load(again).values.tolist() == calibration.values.tolist()


def test_a_group_that_a_file_lacks_is_neutral(file: Path) -> None:
    def before_growth(document: Any) -> None:
        for parameter in PARAMETERS:
            if parameter.group == "gemm_growth":
                without(document, parameter)
        del document["step"]["gemm_growth"]

    edit(file, before_growth)
    step = load(file).parameters.step
    assert {name for name, value in step._asdict().items() if value == 0} >= {
        parameter.name for parameter in PARAMETERS if parameter.group == "gemm_growth"
    }


# What the numbers were fitted over is known by what it is.


def test_another_config_of_the_same_name_is_refused(file: Path) -> None:
    folder = file.parent / "llama-2-7b-hf"
    folder.mkdir()
    config = json.loads(config_path(MODEL).read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2048}))
    with pytest.raises(InputError, match=r"fitted over another config\.json of llama-2-7b-hf \(.*refit with"):
        load(file, model=str(folder))
    shutil.copy(config_path(MODEL), folder / "config.json")
    assert load(file, model=str(folder)).values.tolist() == load(file).values.tolist()


def test_another_sheet_of_the_same_name_is_refused(file: Path) -> None:
    sheet = file.with_name("H100.yaml")
    shutil.copy(data_folder("hardware") / "H100.yaml", sheet)
    assert load(file, gpu=str(sheet)).values.tolist() == load(file).values.tolist()
    edit(sheet, lambda document: document.update(sm_count=document["sm_count"] - 1))
    with pytest.raises(InputError, match=r"H100: this sheet's numbers are not those of hardware/H100\.yaml"):
        load(file, gpu=str(sheet))
    edit(file, put("physics", "gpu_sheet_sha256", value="0" * 64))
    with pytest.raises(InputError, match=r"fitted over another datasheet of H100 \(000000000000, not"):
        load(file)


def test_other_kernel_tables_of_the_same_name_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = file.parent / "bench_data" / "h100"
    shutil.copytree(data_folder("bench_data") / "h100", tables)
    monkeypatch.setattr("roofml.hardware.read_kernels.data_folder", lambda name: file.parent / name)
    assert load(file).values.tolist() == read_coefficients(file).values.tolist()
    text = (tables / "allreduce.csv").read_text()
    (tables / "allreduce.csv").write_text(f"# measured again\n{text}")
    with pytest.raises(InputError, match=r"fitted over .*kernel tables of H100 \("):
        load(file)


def test_a_file_of_0_1_0_is_not_asked_for_what_it_does_not_say(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the config's digest alone."""
    tables = file.parent / "bench_data" / "h100"
    shutil.copytree(data_folder("bench_data") / "h100", tables)
    monkeypatch.setattr("roofml.hardware.read_kernels.data_folder", lambda name: file.parent / name)
    text = (tables / "allreduce.csv").read_text()
    (tables / "allreduce.csv").write_text(f"# measured again\n{text}")
    path = file.with_name("old.yaml")
    shutil.copy(OLD / "llama-2-7b-hf-h100-tp1.yaml", path)
    load(path)
    edit(path, put("model", "config_sha256", value="0" * 64))
    with pytest.raises(InputError, match=r"another config\.json of llama-2-7b-hf"):
        load(path)


def test_runs_of_one_name_are_apart_in_the_file(tmp_path: Path) -> None:
    runs = [replace(a_run(), name="a/run"), measured_again(a_run(31), name="b/run")]
    a_calibration(runs).save(tmp_path / "c.yaml")
    assert read_coefficients(tmp_path / "c.yaml").fit.run_sha256 == {run.name: run.identity for run in runs}
    assert [run.identity for run in load(tmp_path / "c.yaml").runs] == [run.identity for run in runs]
