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
from roofml.calibration.coefficients import (
    Coefficients,
    coefficients_of,
    coefficients_text,
    read_coefficients,
    write_coefficients,
)
from roofml.engine.replay import replay
from roofml.latency.batch import Batch
from roofml.latency.deployment import deploy
from roofml.latency.parameters import NAMES, PARAMETERS, PRIOR_SD, Parameter, Parameters
from roofml.models.spec import config_path
from roofml.util.errors import InputError
from roofml.util.package_data import data_folder

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


HUGE = 10**299
"""More digits are refused by the YAML reader; a float does not hold twice as many."""


def scaled(*path: str | int, factor: float) -> Change:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] *= factor

    return change


def contradicting(document: Any) -> None:
    """Two parameters more than wholly correlated."""
    rows = document["fit"]["covariance"]
    rows[1][0] = -1.5 * (rows[0][0] * rows[1][1]) ** 0.5


def sure_but_correlated(document: Any) -> None:
    document["fit"]["covariance"][3][3] = 0.0
    document["fit"]["sd"]["decode_attention"] = 0.0


def with_blis(**changes: Any) -> Change:
    section = {"alpha_coeffs": [1.0, 2.0, 3.0], "beta_coeffs": [1.0] * 11, "total_kv_blocks": 100}
    return lambda document: document.update(blis=section | changes)


RUN = "made up"

HOSTILE = [
    ("text for the GPUs", put("tensor_parallel", value="1"), r"tensor_parallel: .*valid integer, found '1'"),
    ("a boolean for the GPUs", put("tensor_parallel", value=True), r"tensor_parallel: .*valid integer, found True"),
    ("too many GPUs", put("tensor_parallel", value=2000), r"tensor_parallel: .*1024"),
    ("text for a number", put("step", "corrections", "weights", value="1.0"), r"corrections\.weights: .*number"),
    ("a boolean for a number", put("step", "corrections", "weights", value=True), r"corrections\.weights: .*number"),
    ("a word for a boolean", put("fit", "converged", value="yes"), r"fit\.converged: .*boolean"),
    ("a number for a name", put("model", "name", value=7), r"model\.name: .*string"),
    ("no name", put("model", "name", value=""), r"model\.name: expected one line"),
    ("blanks for a name", put("gpu", value="  "), r"gpu: expected one line"),
    ("an escape in a name", put("gpu", value="H100\x1b[2J"), r"gpu: expected one line"),
    ("a line break in a name", put("model", "hf_repo", value="a\nb"), r"model\.hf_repo: expected one line"),
    ("another digest", put("model", "config_sha256", value="10c1"), r"model\.config_sha256: expected 64 hex"),
    ("a word for a digest", put("physics", "gpu_sheet_sha256", value="z" * 64), r"gpu_sheet_sha256: expected 64 hex"),
    ("another type", put("engine", "dtype", value="banana"), r"engine\.dtype: 'banana', expected one of bfloat16"),
    ("a negative pace", put("fit", "paces", RUN, value=-1.0), r"paces\.made up: .*greater than or equal to 0\.2"),
    ("a pace of 0", put("fit", "paces", RUN, value=0), r"paces\.made up: .*greater"),
    ("a huge pace", put("fit", "paces", RUN, value=1e9), r"paces\.made up: .*less than or equal to 5"),
    ("a pace of nobody", put("fit", "paces", "nobody", value=1.0), r"fit\.paces\.nobody: is not one of fit\.runs"),
    ("a digest of nobody", put("fit", "run_sha256", "nobody", value="0" * 64), r"run_sha256\.nobody: is not one of"),
    ("errors of nobody", lambda d: d["fit"]["error_pct"].update(nobody=dict(d["fit"]["error_pct"][RUN])), "nobody: is"),
    ("a run's digest", put("fit", "run_sha256", RUN, value="abc"), r"run_sha256\.made up: expected 64 hex"),
    ("no runs", put("fit", "runs", value=[]), r"fit\.runs: .*at least 1"),
    ("a run twice", put("fit", "runs", value=[RUN, RUN]), r"fit\.runs: a run is there twice"),
    ("no requests", put("fit", "requests", value=0), r"fit\.requests: 0, expected at least 1"),
    ("negative requests", put("fit", "requests", value=-1), r"fit\.requests: .*greater than or equal to 0"),
    ("half a request", put("fit", "requests", value=1.5), r"fit\.requests: .*valid integer"),
    ("negative rounds", put("fit", "rounds", value=-1), r"fit\.rounds: .*greater than or equal to 0"),
    ("nothing fitted", put("fit", "train_fraction", value=0), r"fit\.train_fraction: .*greater than 0"),
    ("more than all fitted", put("fit", "train_fraction", value=1.5), r"train_fraction: .*less than or equal to 1"),
    ("an error of infinity", put("fit", "error_pct", RUN, "e2e_mean", value=float("inf")), r"e2e_mean: .*finite"),
    ("misfit of one word", put("fit", "misfit", value="late"), r"fit\.misfit: .*list"),
    ("a negative sd", put("fit", "sd", "weights", value=-0.1), r"fit\.sd\.weights: .*greater than or equal to 0"),
    ("a huge sd", put("fit", "sd", "weights", value=1e6), r"fit\.sd\.weights: 1e\+06, expected at most 6"),
    (
        "an sd that is not the variance's",
        scaled("fit", "sd", "weights", factor=1.1),
        r"fit\.sd\.weights: .* is not the root",
    ),
    ("a negative variance", put("fit", "covariance", 0, 0, value=-1.0), r"fit\.covariance\.0\.0: .*found -1"),
    ("more than correlated", contradicting, r"fit\.covariance: not a covariance: .*negative eigenvalue"),
    ("sure and correlated", sure_but_correlated, r"fit\.covariance\.3: its variance is 0"),
    ("a range backwards", put("fit", "valid", "batch", value=[64, 1]), r"fit\.valid\.batch: 64 to 1, expected"),
    ("a negative range", put("fit", "valid", "context", value=[-5, 10]), r"fit\.valid\.context\.0: .*equal to 0"),
    ("a range of text", put("fit", "valid", "batch", value=["1", "64"]), r"fit\.valid\.batch\.0: .*valid integer"),
    ("a huge range", put("fit", "valid", "batch", value=[1, HUGE]), r"fit\.valid\.batch\.1: .*less than"),
    ("a huge value", put("request", "queueing_us", value=HUGE), r"request\.queueing_us: .*finite number"),
    ("a huge covariance", put("fit", "covariance", 1, 0, value=HUGE), r"fit\.covariance\.1\.0: .*finite number"),
    ("unidentified unknown", put("fit", "not_identified", value=["warp"]), r"not_identified\.warp: unknown parameter"),
    ("two alphas", with_blis(alpha_coeffs=[1.0, 2.0]), r"blis\.alpha_coeffs: .*at least 3"),
    ("twelve betas", with_blis(beta_coeffs=[1.0] * 12), r"blis\.beta_coeffs: .*at most 11"),
    ("a negative beta", with_blis(beta_coeffs=[-1.0] + [1.0] * 10), r"blis\.beta_coeffs\.0: .*equal to 0"),
    ("a beta of 300 digits", with_blis(beta_coeffs=[HUGE] + [1.0] * 10), r"blis\.beta_coeffs\.0: .*finite number"),
    ("no KV blocks", with_blis(total_kv_blocks=0), r"blis\.total_kv_blocks: .*equal to 1"),
    ("a beta of text", with_blis(beta_coeffs=["1.0"] + [1.0] * 10), r"blis\.beta_coeffs\.0: .*valid number"),
    ("an escape in a key", put("sur\x1bprise\n", value=1), r"sur.x1bprise: "),
]
WRONG += HOSTILE


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
def test_a_file_of_0_1_0_says_that_its_tables_are_others_and_predicts_what_one_with_digests_does(
    name: str, tmp_path: Path
) -> None:
    """The tables were mended in between: its predictions moved with them, by a tenth and more, and it says so."""
    old = load(OLD / f"{name}.yaml")
    times = tuple(old.step_time(batch).total_us for batch in BATCHES)
    assert times == pytest.approx(PREDICTED[name], rel=0.15)
    assert any("mended since" in text for text in old.step_time(BATCHES[0]).outside)
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
    for batch in BATCHES:
        low, high = old.step_time(batch).interval_us or (0.0, 0.0)
        assert low < old.step_time(batch).total_us < high


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


@pytest.mark.parametrize("digits", [301, 400, 5000])
@pytest.mark.parametrize("field", ["blis.beta_coeffs", "fit.valid", "fit.requests"])
def test_numbers_of_hundreds_of_digits_are_refused(file: Path, field: str, digits: int) -> None:
    huge = "9" * digits
    changed = {
        "blis.beta_coeffs": file.read_text() + f"blis:\n  alpha_coeffs: [1, 1, 1]\n  beta_coeffs: [{huge}]\n",
        "fit.valid": file.read_text().replace("batch: [1, 64]", f"batch: [1, {huge}]"),
        "fit.requests": file.read_text().replace("requests: 30", f"requests: {huge}"),
    }
    file.write_text(changed[field])
    with pytest.raises(InputError, match=rf"line \d+: a number of {digits} digits"):
        read_coefficients(file)


@pytest.mark.parametrize(
    "path", sorted(data_folder("coeffs").glob("*-h100-*.yaml")) + sorted(OLD.iterdir()), ids=lambda path: path.name
)
def test_every_file_that_was_ever_shipped_is_read_and_written_as_it_is(path: Path, tmp_path: Path) -> None:
    read = read_coefficients(path)
    write_coefficients(tmp_path / "again.yaml", read)
    assert (tmp_path / "again.yaml").read_bytes() == path.read_bytes()


def test_a_fit_that_is_written_although_it_does_not_describe_its_runs_says_so_for_ever(file: Path) -> None:
    edit(file, put("fit", "misfit", value=["made up: mean E2E is 40 % too long"]))
    assert read_coefficients(file).fit.misfit == ["made up: mean E2E is 40 % too long"]


def test_what_is_written_is_held_to_the_same_rules() -> None:
    document = made().model_dump(by_alias=True)
    assert coefficients_of(document, "a fit") == made()
    document["fit"]["paces"] = {RUN: 100.0}
    with pytest.raises(InputError, match=r"^a fit: fit\.paces\.made up: .*less than or equal to 5, found 100\.0$"):
        coefficients_of(document, "a fit")


def test_rounding_to_four_digits_is_no_contradiction(file: Path) -> None:
    """Two parameters of which only the sum is known: rounded up, their correlation is a little above 1."""

    def change(document: Any) -> None:
        rows = document["fit"]["covariance"]
        rows[0][0], rows[1][0], rows[1][1] = 1.0, 1.0004, 1.0
        for row in rows[2:]:
            row[0] = row[1] = 0.0
        document["fit"]["sd"] |= {"prefill_gemm": 1.0, "decode_gemm": 1.0}

    edit(file, change)
    assert read_coefficients(file).covariance[0, 1] == 1.0004
