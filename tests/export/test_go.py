"""The Go package says what Python says, and is what a Go programmer expects; BLIS's other backends are left alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commandline import ROOT, Result, fails, ok
from fitted import a_calibration, a_run
from go_tools import go_passes, needs_go, run_go

from roofml.calibration.calibration import Calibration
from roofml.export.go.artifact import read_artifact
from roofml.export.go.golden import golden_text
from roofml.export.go.package import GoPackage
from roofml.export.go.places import in_folder

SERVED = (
    ("meta-llama/Llama-2-7b-hf", "H100", 1),
    ("mistralai/Mixtral-8x7B-v0.1", "H100", 2),
    ("openai/gpt-oss-20b", "H100", 1),
    ("Qwen/Qwen3-Next-80B-A3B-Instruct", "H100", 4),
    ("deepseek-ai/DeepSeek-V4-Flash", "B200", 8),
)
"""Dense, a mixture, windows, recurrent layers; compressed and sparse attention with hyper-connections."""
STUB = ROOT / "tests" / "data" / "blis_stub"

pytestmark = pytest.mark.slow


def fitted(model: str, gpu: str, tp: int) -> Calibration:
    run = a_run()
    server = replace(run.server, model=model, gpu=gpu, tensor_parallel=tp)
    stairs = {8: 0.03, 16: -0.02, 40: 0.05, 48: -0.05} if "Mixtral" in model else {}
    return a_calibration([replace(run, server=server, identity="")], stairs=stairs)


@pytest.fixture(scope="module")
def coeffs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("coeffs")
    paths = [folder / f"{number}.yaml" for number in range(len(SERVED))]
    for path, (model, gpu, tp) in zip(paths, SERVED, strict=True):
        fitted(model, gpu, tp).save(path)
    return paths


@pytest.fixture(scope="module")
def package(coeffs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "package"
    ok("export", "go", *coeffs, "-o", folder)
    return folder


@pytest.fixture
def copy(package: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(package, tmp_path / "copy"))


@needs_go
def test_it_is_formatted_vetted_and_passes_the_tests_that_it_brings(package: Path) -> None:
    assert go_passes(package, "gofmt", "-l", ".") == ""
    go_passes(package, "vet", "./...")
    shown = go_passes(package, "test", "-v", "./...")
    for model, _, _ in SERVED:
        name = model.rpartition("/")[2].lower()
        assert f"--- PASS: TestMoreTokensAndLongerContextsNeverShortenAStep/{name}" in shown
    assert "--- PASS: TestStepTimesAreThoseOfRoofml" in shown
    assert "--- PASS: TestWholeReplaysAreThoseOfRoofml" in shown
    assert "FAIL" not in shown


@needs_go
def test_it_needs_nothing_but_the_standard_library(package: Path) -> None:
    listed = go_passes(package, "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "./...")
    assert listed.split() == ["roofml"]


@needs_go
def test_its_tests_see_a_difference_of_a_hundred_millionth(copy: Path) -> None:
    """One in a golden time, one in a latency, and one in a parameter: each fails the test that is for it."""
    for change, test in (("us", "TestStepTimesAreThoseOfRoofml"), ("e2e_us", "TestWholeReplaysAreThoseOfRoofml")):
        (path, *_) = sorted((copy / "testdata").glob("*.json"))
        held = path.read_text()
        document = json.loads(held)
        if change == "us":
            document["batches"][7]["us"] *= 1 + 1e-8
        else:
            document["runs"][1]["e2e_us"][-1] *= 1 + 1e-8
        path.write_text(json.dumps(document))
        done = run_go(copy, "test", ".")
        assert done.returncode == 1
        assert f"--- FAIL: {test}" in done.stdout
        path.write_text(held)
    (path, *_) = sorted((copy / "artifacts").glob("*.json"))
    document = json.loads(path.read_text())
    document["step"]["weights"] *= 1 + 1e-6
    path.write_text(json.dumps(document))
    assert "--- FAIL: TestStepTimesAreThoseOfRoofml" in run_go(copy, "test", ".").stdout


@needs_go
def test_whole_replays_of_random_runs_are_ours(copy: Path, coeffs: list[Path]) -> None:
    """20 runs, four of each calibration: crowded and alone, chunked and repeated prompts, both kinds of scheduling."""
    for artifact in map(read_artifact, coeffs):
        path = copy / "testdata" / f"golden-{artifact.name}.json"
        assert path.exists()
        path.write_text(golden_text(artifact.name, artifact.calibration, runs=4, seed=2))
    go_passes(copy, "test", "-run", "AreThoseOfRoofml", ".")


def test_the_artifact_is_small_and_says_of_what_it_is(package: Path, coeffs: list[Path]) -> None:
    path = package / "artifacts" / "llama-2-7b-hf-h100-tp1.json"
    document = json.loads(path.read_text())
    assert path.stat().st_size < 20_000
    assert (document["schema"], document["model"], document["gpu"]) == ("roofml-go/1", "llama-2-7b-hf", "H100")
    artifact = read_artifact(coeffs[0])
    assert document["coefficients_sha256"] == artifact.coefficients_sha256
    assert document["step"] == artifact.calibration.parameters.step._asdict()
    assert document["request"] == artifact.calibration.parameters.request._asdict()


def test_the_same_calibrations_make_the_same_bytes(package: Path, coeffs: list[Path], tmp_path: Path) -> None:
    again = tmp_path / "package"
    ok("export", "go", *coeffs, "-o", again)
    files = {path.relative_to(package): path.read_bytes() for path in package.rglob("*") if path.is_file()}
    assert files == {path.relative_to(again): path.read_bytes() for path in again.rglob("*") if path.is_file()}


def test_tables_go_on_past_their_end_as_physics_does(coeffs: list[Path]) -> None:
    """With their last slope, against longer tables of our own; all-reduces may have been measured beyond the end."""
    for path in coeffs:
        deployment = read_artifact(path).calibration.deployment
        end, longer = deployment.budget, deployment.reaching(100_000).tables
        for name in ("gemm", "weights", "expert_weights", "communication", "attention_items"):
            short, long = getattr(deployment.tables, name), getattr(longer, name)
            went_on = short[-1] + (100_000 - end) * (short[-1] - short[-2])
            close = 0.06 if name == "communication" else 1e-9
            assert went_on == pytest.approx(long[100_000], rel=close, abs=1e-9), name


@pytest.fixture(scope="module")
def checkout(coeffs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in for BLIS with our package in it."""
    folder = Path(shutil.copytree(STUB, tmp_path_factory.mktemp("blis") / "checkout"))
    ok("export", "go", *coeffs, "--blis", folder)
    return folder


@needs_go
def test_in_a_blis_checkout_it_is_a_backend_that_passes_its_own_tests(checkout: Path) -> None:
    assert go_passes(checkout, "gofmt", "-l", ".") == ""
    go_passes(checkout, "vet", "./...")
    shown = go_passes(checkout, "test", "-v", "./sim/latency")
    for test in ("ArePositiveAlsoOfAnEmptyBatch", "TakesDegenerateRequests", "AnswersForItsOwnNameAlone"):
        assert f"{test}\n" in shown
    assert "FAIL" not in shown


@needs_go
@pytest.mark.exhaustive  # half a minute: the detector compiles the standard library anew
@pytest.mark.skipif(shutil.which("gcc") is None, reason="the race detector needs a C compiler")
def test_instances_at_once_do_not_race(checkout: Path) -> None:
    tests = "TestRoofmlOneAndSeveralInstancesAtOnce|TestRoofmlRemembers"
    go_passes(checkout, "test", "-race", "-run", tests, "./sim/latency", CGO_ENABLED="1")


PROGRAM = """package main

import (
	"fmt"

	"github.com/inference-sim/inference-sim/sim"
	_ "github.com/inference-sim/inference-sim/sim/latency"
)

func main() {
	for _, backend := range []string{"", "trained-physics", "nobody's", %s} {
		hardware := sim.ModelHardwareConfig{Model: "llama-2-7b-hf", GPU: "H100", TP: 1, Backend: backend}
		model, err := sim.NewLatencyModelFunc(sim.LatencyCoeffs{BetaCoeffs: make([]float64, 10)}, hardware)
		if err != nil {
			fmt.Println(backend, err)
			continue
		}
		prompt, output := make([]int, 500), make([]int, 300)
		batch := []*sim.Request{{ProgressIndex: 700, NumNewTokens: 1, InputTokens: prompt, OutputTokens: output}}
		fmt.Printf("%%s %%T %%d %%d\\n", backend, model, model.StepTime(batch), model.QueueingTime(batch[0]))
	}
}
"""


@needs_go
def test_every_other_backend_says_what_it_said_before(checkout: Path, tmp_path: Path) -> None:
    before = Path(shutil.copytree(STUB, tmp_path / "before"))
    (before / "main.go").write_text(PROGRAM % '"x"')
    (checkout / "main.go").write_text(PROGRAM % '"x"')
    said = go_passes(before, "run", ".")
    assert go_passes(checkout, "run", ".") == said
    assert "trained-physics latency.constant 12 10" in said
    (checkout / "main.go").write_text(PROGRAM % '"roofml"')
    with_ours = go_passes(checkout, "run", ".")
    (checkout / "main.go").unlink()
    assert with_ours.splitlines()[:3] == said.splitlines()[:3]
    name, kind, step, _ = with_ours.splitlines()[3].split()
    assert (name, kind) == ("roofml", "*latency.roofmlModel")
    assert 3_000 < int(step) < 10_000


@needs_go
def test_in_blis_a_step_takes_what_python_says_in_whole_microseconds(checkout: Path, coeffs: list[Path]) -> None:
    from roofml.latency.batch import Batch

    (checkout / "main.go").write_text(PROGRAM % '"roofml"')
    step = int(go_passes(checkout, "run", ".").splitlines()[3].split()[2])
    (checkout / "main.go").unlink()
    calibration = read_artifact(coeffs[0]).calibration
    assert step == int(calibration.step_time(Batch(decode=[(700, 1)])).total_us)


@needs_go
def test_inside_another_module_it_is_a_package_of_that(coeffs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "go.mod").write_text("module example.com/ours\n\ngo 1.21\n")
    (tmp_path / "internal").mkdir()
    told = ok("export", "go", coeffs[0], "-o", tmp_path / "internal" / ".." / "steps", "--json").document
    assert told["import_path"] == "example.com/ours/steps"
    assert not (tmp_path / "steps" / "go.mod").exists()
    assert go_passes(tmp_path, "list", "./...").split() == ["example.com/ours/steps"]
    go_passes(tmp_path, "vet", "./...")


@needs_go
def test_the_pace_of_one_server_that_the_fit_has_seen(coeffs: list[Path], tmp_path: Path) -> None:
    """`made up` is the run's name, 1.003 its pace (`fitted`)."""
    any_server, this = read_artifact(coeffs[0]), read_artifact(coeffs[0], "made up")
    expected = any_server.calibration.parameters.step.scaled(1.003)
    assert this.calibration.parameters.step == pytest.approx(expected, rel=1e-12)
    assert this.calibration.parameters.request == any_server.calibration.parameters.request
    ok("export", "go", coeffs[0], "-o", tmp_path / "package", "--pace-of", "made up")
    go_passes(tmp_path / "package", "test", "-run", "AreThoseOfRoofml", ".")
    assert "knows no pace of 'x', expected one of made up" in said(
        fails("export", "go", coeffs[0], "--pace-of", "x", "-o", tmp_path)
    )
    assert "expected one COEFFS" in said(fails("export", "go", *coeffs[:2], "--pace-of", "x", "-o", tmp_path))


def said(result: Result) -> str:
    return " ".join(result.err.split())


@needs_go
def test_a_second_export_keeps_the_artifacts_of_the_first(coeffs: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "package"
    for path in coeffs[:2]:
        ok("export", "go", path, "-o", folder)
    names = ["llama-2-7b-hf-h100-tp1", "mixtral-8x7b-v0.1-h100-tp2"]
    assert sorted(path.stem for path in (folder / "artifacts").glob("*")) == names
    go_passes(folder, "test", ".")


def test_golden_times_are_what_the_formula_says(coeffs: list[Path]) -> None:
    artifact = read_artifact(coeffs[0])
    golden = json.loads(golden_text("x", artifact.calibration))
    sizes = [len(batch["requests"]) for batch in golden["batches"]]
    assert max(sizes) > 500
    assert any(request[1] < request[2] for batch in golden["batches"] for request in batch["requests"])
    run = golden["runs"][0]
    assert len(run["ttft_us"]) == len(run["requests"])
    assert np.all(np.array(run["e2e_us"]) >= np.array(run["ttft_us"]))
    computed = np.zeros(len(run["requests"]))
    for step in run["steps"]:
        for number, tokens in step:
            computed[number] += tokens
    assert np.all(computed >= [request["prompt_tokens"] - request["cached_tokens"] for request in run["requests"]])


def test_two_files_of_one_deployment_are_refused(coeffs: list[Path], tmp_path: Path) -> None:
    from roofml.util.errors import InputError

    twice = [read_artifact(coeffs[0])] * 2
    with pytest.raises(InputError, match="llama-2-7b-hf-h100-tp1: given twice"):
        GoPackage(twice, in_folder(tmp_path / "package"))
