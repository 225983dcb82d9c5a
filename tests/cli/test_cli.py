"""The command line: what every command promises, and what each of them prints and writes."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer.main
from commandline import ok, roofml, saturated_folder
from ruamel.yaml import YAML
from runfolder import RunFolder, exp_config, header, requests

from roofml import __version__
from roofml.calibration.coefficients import read_coefficients
from roofml.cli.main import app
from roofml.engine.replay import replay as library_replay
from roofml.latency.parameters import NAMES

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("jax", "jaxlib", "numba", "numpy", "scipy", "pandas", "ruamel", "huggingface_hub", "matplotlib")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return RunFolder(rows=requests(150)).write(tmp_path_factory.mktemp("runs") / "quiet")


@pytest.fixture(scope="module")
def coeffs(folder: Path) -> Path:
    path = folder.parent / "coefficients.yaml"
    ok("fit", folder, "--gpu", "H100", "-o", path, "--quiet")
    return path


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


def commands() -> dict[str, Any]:
    """Every command that does something, by its full name."""
    found: dict[str, Any] = {}

    def walk(name: str, group: Any) -> None:
        for child, command in group.commands.items():
            if hasattr(command, "commands"):
                walk(f"{name}{child} ", command)
            else:
                found[f"{name}{child}"] = command

    walk("", typer.main.get_command(app))
    return found


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=ROOT
    )


# What every command promises


def test_the_commands_of_the_contract_are_there() -> None:
    contract = {"pull", "inspect", "doctor", "fit", "predict", "replay", "evaluate", "export blis", "demo"}
    assert contract <= set(commands())


@pytest.mark.parametrize("name", commands())
def test_every_command_and_option_has_help(name: str) -> None:
    command = commands()[name]
    assert command.help
    for parameter in command.params:
        assert parameter.help, f"{name}: {parameter.name}"
    assert {"--json", "--quiet"} <= {flag for parameter in command.params for flag in parameter.opts}
    shown = ok(*name.split(), "--help").out
    assert f"Usage: roofml {name}" in shown


@pytest.mark.parametrize("name", commands())
def test_every_command_stands_in_the_docs(name: str) -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")]
    assert any(f"roofml {name}" in page.read_text("utf-8") for page in pages)


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
from roofml.cli.main import run
assert run(["--help"]) == 0
assert run(["fit", "--help"]) == 0
print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)
"""
    assert python(code).stderr == "[]\n"


def test_jax_waits_for_a_fit(folder: Path, coeffs: Path) -> None:
    code = """
import sys
from roofml.cli.main import run
folder, coeffs = sys.argv[1:]
assert run(["doctor", folder]) == run(["replay", folder, "--coeffs", coeffs, "--quiet"]) == 0
print("jax" in sys.modules, "numba" in sys.modules)
"""
    assert python(code, folder, coeffs).stdout.endswith("False True\n")


def test_help_is_quick() -> None:
    """0.15 s where nothing else runs. The issue asks for 0.5 s; the best of three, for machines that are busy."""

    def once() -> float:
        start = time.perf_counter()
        assert "Usage" in python("from roofml.cli.main import main; main()", "--help").stdout
        return time.perf_counter() - start

    assert min(once() for _ in range(3)) < 0.5


def test_version() -> None:
    assert ok("--version").out == f"roofml {__version__}\n"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nonsense",
        "fit",
        "fit --bogus x",
        "fit x --train-fraction much",
        "fit x --target vidur",
        "replay",
        "predict llama-2-7b-hf",
        "doctor x --tp two",
        "demo --seed -1",
        "export",
    ],
)
def test_bad_usage_exits_with_2_and_says_why_on_stderr(line: str) -> None:
    result = roofml(*line.split())
    assert result.status == 2
    assert result.out == ""
    assert "Usage: roofml" in result.err


def test_a_failure_of_ours_is_one_line_and_exit_1(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("roofml.traces.read_run", breaks)
    result = roofml("doctor", folder)
    assert (result.status, result.out) == (1, "")
    assert result.err == "roofml: RuntimeError: first line second line (ROOFML_TRACEBACK=1 shows where)\n"
    monkeypatch.setenv("ROOFML_TRACEBACK", "1")
    with pytest.raises(RuntimeError):
        roofml("doctor", folder)


def test_an_interrupt_is_no_traceback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("roofml.traces.read_run", interrupted)
    result = roofml("doctor", folder)
    assert result.status not in (0, 2)
    assert result.out == ""
    assert "Traceback" not in result.err


def test_a_reader_that_has_gone_is_no_traceback(folder: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    code = "from roofml.cli.main import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code, "doctor", str(folder)], stdout=write, stderr=subprocess.PIPE, check=False, cwd=ROOT
    )
    os.close(write)
    assert (ended.returncode, ended.stderr) == (1, b"")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
@pytest.mark.parametrize(("flag", "shown"), [(None, True), ("--quiet", False), ("--json", False)])
def test_progress_is_for_terminals(folder: Path, coeffs: Path, flag: str | None, shown: bool) -> None:
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "roofml.cli.main", "replay", str(folder), "--coeffs", str(coeffs)]
    environment = {**os.environ, "TERM": "xterm"}
    ended = subprocess.run(
        command + ([flag] if flag else []), stdout=subprocess.PIPE, stderr=theirs, check=True, env=environment, cwd=ROOT
    )
    os.write(theirs, b"the end")
    text = b""
    while not text.endswith(b"the end"):
        text += os.read(ours, 65536)
    os.close(ours)
    os.close(theirs)
    assert (b"replaying" in text) == shown
    assert b"replaying" not in ended.stdout
    assert b"\x1b" not in ended.stdout


def lines_of(folder: Path, coeffs: Path, demo_folder: Path) -> dict[str, list[object]]:
    given = ["--coeffs", coeffs]
    return {
        "doctor": ["doctor", folder],
        "fit": ["fit", folder, "--gpu", "H100"],
        "fit -o": ["fit", folder, "--gpu", "H100", "-o", coeffs.with_name("again.yaml")],
        "evaluate": ["evaluate", folder, "--gpu", "H100"],
        "evaluate --coeffs": ["evaluate", folder, *given],
        "replay": ["replay", folder, *given],
        "predict": ["predict", "llama-2-7b-hf", "--gpu", "H100", "--decode", "700x8"],
        "inspect": ["inspect", "llama-2-7b-hf", "--gpu", "H100"],
        "demo": ["demo", "-o", demo_folder / "demo.yaml"],
    }


LINES = list(lines_of(Path(), Path("coeffs"), Path()))


@pytest.mark.parametrize("which", LINES)
def test_json_is_one_document_and_nothing_else(folder: Path, coeffs: Path, demo_folder: Path, which: str) -> None:
    result = ok(*lines_of(folder, coeffs, demo_folder)[which], "--json")
    assert isinstance(result.document, dict)
    assert all(line.startswith("warning: ") for line in result.err.splitlines())


@pytest.mark.parametrize("which", LINES)
def test_quiet_says_nothing_on_stderr_but_warnings(folder: Path, coeffs: Path, demo_folder: Path, which: str) -> None:
    result = ok(*lines_of(folder, coeffs, demo_folder)[which], "--quiet")
    assert all(line.startswith("warning: ") for line in result.err.splitlines())
    if which in ("fit -o", "demo"):
        assert result.out == "", "the result is the file"


@pytest.mark.parametrize("name", ["[red]x[bold] :fire:", "ünï cödé 漢字", "a'b\"c", "-- -x", "[bold"])
def test_odd_names_of_folders_are_shown_as_they_are(tmp_path: Path, coeffs: Path, name: str) -> None:
    odd = RunFolder(rows=requests(60)).write(tmp_path / name)
    for line in (["doctor"], ["evaluate", "--gpu", "H100"], ["replay", "--coeffs", coeffs]):
        assert name in ok(*line, odd).out
    assert read_yaml(ok("fit", odd, "--gpu", "H100").out)["fit"]["runs"] == [name]


# doctor


def read_yaml(text: str) -> Any:
    return YAML(typ="safe").load(text)


def test_doctor_says_what_it_found(folder: Path, tmp_path: Path) -> None:
    shown = ok("doctor", folder).out
    assert "quiet" in shown
    assert "150 requests, 150 to measure" in shown
    narrow = RunFolder(rows=requests(300, output=100)).write(tmp_path / "narrow")
    assert re.search(r"^ +info  The run covers .*\n +To pin more coefficients down", ok("doctor", narrow).out, re.M)


def test_doctor_json_is_a_list_of_diagnoses(folder: Path, tmp_path: Path) -> None:
    full = saturated_folder().write(tmp_path / "full")
    runs = ok("doctor", folder, full, "--json").document["runs"]
    assert [(run["run"], run["saturated"], run["tp"]) for run in runs] == [("quiet", False, 1), ("full", True, 1)]
    assert {"code", "severity", "summary", "evidence", "advice"} == set(runs[1]["findings"][0])


def test_doctor_shows_a_run_that_fit_refuses(tmp_path: Path) -> None:
    head, settings = header(), exp_config() | {"max_model_len": 700}
    head["server"]["max_model_len"] = 700
    short = RunFolder(rows=requests(60), header=head, exp_config=settings).write(tmp_path / "short")
    assert "error" in ok("doctor", short).out
    result = roofml("fit", short, "--gpu", "H100", "-o", tmp_path / "c.yaml")
    assert result.status == 2
    assert re.fullmatch(r"roofml: .*short: longer-than-server-allows: .*\n", result.err)
    assert not (tmp_path / "c.yaml").exists()


def test_flags_overrule_and_complete_the_folder(tmp_path: Path) -> None:
    bare = RunFolder(rows=requests(60), kv_cache=None).write(tmp_path / "bare")
    result = roofml("doctor", bare)
    assert result.status == 2
    assert "give --num-gpu-blocks" in result.err
    flags = ["--num-gpu-blocks", 5000, "--tp", 2, "--no-prefix-caching", "--no-async-scheduling", "--warm"]
    flags += ["--gpu", "H200"]
    (run,) = ok("doctor", bare, *flags, "--json").document["runs"]
    said = {"num_gpu_blocks": 5000, "tensor_parallel": 2, "prefix_caching": False, "async_scheduling": False}
    said["fresh"] = False
    assert run["server"].items() >= (said | {"gpu": "H200"}).items()
    assert "flag-overrules-file" in {finding["code"] for finding in run["findings"]}


@pytest.mark.parametrize("command", ["doctor", "fit", "evaluate"])
def test_a_run_given_twice_is_refused(folder: Path, command: str) -> None:
    result = roofml(command, folder, folder / ".." / "quiet")
    assert (result.status, result.out) == (2, "")
    assert "given twice" in result.err


# fit


def test_fit_writes_the_same_bytes_every_time_here_and_to_stdout(folder: Path, coeffs: Path) -> None:
    again = ok("fit", folder, "--gpu", "H100", "--quiet").out
    assert again == coeffs.read_text()
    assert read_coefficients(coeffs).fit.runs == ["quiet"]


def test_fit_is_the_same_in_another_process(folder: Path, coeffs: Path) -> None:
    code = "from roofml.cli.main import main; main()"
    assert python(code, "fit", folder, "--gpu", "H100", "--quiet").stdout == coeffs.read_text()


def test_fit_shows_every_parameter_and_says_where_it_wrote(folder: Path, tmp_path: Path) -> None:
    shown = ok("fit", folder, "--gpu", "H100", "-o", tmp_path / "c.yaml").out
    for name in NAMES:
        assert re.search(rf"^ {name} .* (data|prior) $", shown, re.MULTILINE), name
    assert "95 % interval" in shown
    assert "in sample" in shown
    assert f"written: {tmp_path / 'c.yaml'}" in shown


def test_fit_json_holds_the_yaml_and_the_intervals(folder: Path, coeffs: Path) -> None:
    output = coeffs.with_name("for-json.yaml")
    found = ok("fit", folder, "--gpu", "H100", "-o", output, "--json").document
    assert found["coefficients"] == read_yaml(coeffs.read_text())
    assert found["output"] == str(output)
    assert found["converged"] is read_coefficients(coeffs).fit.converged
    assert [row["name"] for row in found["parameters"]] == list(NAMES)
    for row in found["parameters"]:
        assert {"name", "group", "value", "low", "high", "prior", "identified"} <= set(row)
        assert row["low"] <= row["value"] <= row["high"]
    assert [run["run"] for run in found["runs"]] == ["quiet"]


def test_fit_takes_the_first_share_of_requests(folder: Path) -> None:
    found = ok("fit", folder, "--gpu", "H100", "--train-fraction", 0.6, "--json").document
    assert found["coefficients"]["fit"]["requests"] == 90
    assert found["coefficients"]["fit"]["train_fraction"] == 0.6
    assert found["runs"][0]["requests"] == 90, "in sample: the errors are of the requests fitted"


def test_fit_leaves_saturated_runs_out_and_says_so(folder: Path, tmp_path: Path) -> None:
    full = saturated_folder().write(tmp_path / "full")
    result = ok("fit", folder, full, "--gpu", "H100", "--json")
    assert result.document["coefficients"]["fit"]["runs"] == ["quiet"]
    assert "full: saturated, left out of the fit" in result.err


def test_fit_refuses_runs_of_two_sizes(folder: Path, tmp_path: Path) -> None:
    head, settings = header(), exp_config() | {"tensor_parallelism": 2}
    head["server"]["tensor_parallel"] = 2
    other = RunFolder(rows=requests(60), header=head, exp_config=settings).write(tmp_path / "other")
    result = roofml("fit", folder, other, "--gpu", "H100")
    assert (result.status, result.out) == (2, "")
    assert re.fullmatch(r"roofml: other: tensor_parallel 2 differs from 1 of quiet: .*\n", result.err)


# replay


def test_replay_compares_and_counts(folder: Path, coeffs: Path) -> None:
    shown = ok("replay", folder, "--coeffs", coeffs).out
    for word in ("e2e_mean", "ttft_p99", "measured", "predicted", "mean batch", "preemptions 0"):
        assert word in shown
    found = ok("replay", folder, "--coeffs", coeffs, "--json").document
    assert found["schedule"]["steps"] > 1000
    assert found["schedule"]["cached_share_of_prompts"] == 0
    assert found["requests"] == 150


def test_a_warm_server_is_replayed_without_a_cold_start(folder: Path, coeffs: Path) -> None:
    fresh, warm = (
        ok("replay", folder, "--coeffs", coeffs, flag, "--json").document["metrics"]["ttft_p99"]["predicted_us"]
        for flag in ("--fresh", "--warm")
    )
    assert fresh > warm + 50_000


def test_replay_writes_every_request(folder: Path, coeffs: Path, tmp_path: Path) -> None:
    output = tmp_path / "requests.csv"
    found = ok("replay", folder, "--coeffs", coeffs, "-o", output, "--json").document
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = "request_id arrival_us ttft_us e2e_us first_step last_step cached_tokens preemptions"
    assert list(rows[0]) == names.split()
    assert [int(row["request_id"]) for row in rows] == list(range(150))
    mean = sum(float(row["e2e_us"]) for row in rows) / len(rows)
    assert mean == pytest.approx(found["metrics"]["e2e_mean"]["predicted_us"], rel=1e-9)
    assert all(int(row["first_step"]) <= int(row["last_step"]) for row in rows)


def test_replay_does_not_depend_on_what_was_measured(folder: Path, coeffs: Path, tmp_path: Path) -> None:
    rows = requests(150)
    for row in rows:
        row["last_chunk_time_us"] = int(str(row["last_chunk_time_us"])) + 10_000_000
    slow = RunFolder(rows=rows).write(tmp_path / folder.name)  # its name says whose pace it is
    one, two = (ok("replay", run, "--coeffs", coeffs, "--json").document["metrics"] for run in (folder, slow))
    assert one["e2e_mean"]["predicted_us"] == two["e2e_mean"]["predicted_us"]
    assert one["e2e_mean"]["measured_us"] < two["e2e_mean"]["measured_us"]


def test_outside_of_what_the_fit_saw_is_a_warning(folder: Path, coeffs: Path, tmp_path: Path) -> None:
    narrow = tmp_path / "narrow.yaml"
    narrow.write_text(re.sub(r"batch: \[\d+, \d+\]", "batch: [1, 2]", coeffs.read_text()))
    for line in (["replay", folder], ["evaluate", folder]):
        result = ok(*line, "--coeffs", narrow, "--quiet")
        assert re.search(r"^warning: .*batch 1 to \d+: the fit has seen 1 to 2", result.err, re.MULTILINE)
    predict = ["predict", "llama-2-7b-hf", "--gpu", "H100", "--coeffs", narrow, "--decode", "500x3"]
    assert "warning: batch 3 to 3: the fit has seen 1 to 2 (100 % of steps lie outside)" in ok(*predict).err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gpu", "H200"], "GPU H200 is not that of .*: H100"),
        (["--tp", "2"], "tensor parallel size 2 is not that of .*: 1"),
        (["--model", "llama-2-70b-hf"], "model llama-2-70b-hf is not that of .*: llama-2-7b-hf"),
    ],
)
@pytest.mark.parametrize("command", ["replay", "evaluate"])
def test_coefficients_of_another_pair_are_refused(
    folder: Path, coeffs: Path, command: str, flags: list[str], message: str
) -> None:
    result = roofml(command, folder, "--coeffs", coeffs, *flags, "--quiet")
    assert (result.status, result.out) == (2, "")
    assert re.search(message, result.err)


@pytest.mark.parametrize("command", ["replay", "evaluate"])
def test_a_run_that_says_another_gpu_is_refused(tmp_path: Path, coeffs: Path, command: str) -> None:
    other = RunFolder(rows=requests(60), exp_config=exp_config() | {"gpu": "A100-SXM"}).write(tmp_path / "other")
    result = roofml(command, other, "--coeffs", coeffs)
    assert (result.status, result.out) == (2, "")
    assert re.search("GPU A100-SXM is not that of .*: H100", result.err)


def test_another_config_of_the_same_name_is_a_warning(folder: Path, coeffs: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed.yaml"
    changed.write_text(re.sub("config_sha256: .*", f"config_sha256: {'f' * 64}", coeffs.read_text()))
    assert "was fitted with another config.json" in ok("replay", folder, "--coeffs", changed, "--quiet").err


# evaluate


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


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--protocol", "loo"], "'loo': expected temporal, lomo, lowo or zero-shot"),
        (["--protocol", "lomo", "--train-fraction", "0.5"], "protocol lomo leaves out whole runs"),
        (["--protocol", "lomo", "--gpu", "H100"], "lomo: expected runs of at least two models"),
        (["--protocol", "lowo", "--gpu", "H100"], "lowo: expected at least two runs of one model"),
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


# predict

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


# demo


def test_demo_needs_nothing_and_writes_its_file_here(demo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo_folder)
    shown = ok("demo").out
    assert "inside their interval" in shown
    assert "next: roofml fit" in shown
    assert read_coefficients(Path("roofml-demo.yaml")).fit.runs == ["demo"]
    found = ok("demo", "--json").document
    assert [row["name"] for row in found["parameters"]] == list(NAMES)
    assert any(row["identified"] for row in found["parameters"])
    assert all(row["inside"] == (row["low"] <= row["truth"] <= row["high"]) for row in found["parameters"])


def test_the_library_and_the_command_agree(folder: Path, coeffs: Path) -> None:
    from roofml.latency.deployment import deployment_of
    from roofml.traces.doctor import clean
    from roofml.traces.read import read_raw
    from roofml.traces.server import ServerOverrides

    run = clean(read_raw(folder, ServerOverrides(gpu="H100")))
    given = read_coefficients(coeffs)
    step, request = given.parameters()
    direct = library_replay(run, deployment_of([run]).tables, step.scaled(given.fit.paces[run.name]), request)
    found = ok("replay", folder, "--coeffs", coeffs, "--json").document
    assert found["metrics"]["ttft_mean"]["predicted_us"] == pytest.approx(float(direct.ttft_us.mean()))
