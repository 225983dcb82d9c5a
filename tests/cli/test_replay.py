"""`roofml replay`: a run served again with a file of coefficients, and which files it refuses."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from commandline import fails, ok, roofml
from runfolder import RunFolder, exp_config, requests

from roofml.calibration.coefficients import read_coefficients
from roofml.engine.replay import replay as library_replay
from roofml.latency.deployment import deployment_of
from roofml.latency.parameters import Parameters
from roofml.latency.stairs import climbed
from roofml.traces.read import read_run

pytestmark = pytest.mark.slow


def test_replay_compares_and_counts(folder: Path, coeffs: Path) -> None:
    shown = ok("replay", folder, "--coeffs", coeffs).out
    for word in ("e2e_mean", "ttft_p99", "measured", "predicted", "mean batch", "preemptions 0"):
        assert word in shown
    found = ok("replay", folder, "--coeffs", coeffs, "--json").document
    assert found["schedule"]["steps"] > 1000
    assert found["schedule"]["cached_share_of_prompts"] == 0
    assert found["requests"] == 150


def test_what_a_flag_asks_beyond_the_measured_server_is_no_error(folder: Path, coeffs: Path) -> None:
    asked = ("replay", folder, "--coeffs", coeffs, "--max-num-seqs", 2)
    found = ok(*asked, "--json").document
    assert found["what_if"] == ["max_num_seqs 2"]
    assert {metric["error_pct"] for metric in found["metrics"].values()} == {None}
    assert found["metrics"]["e2e_mean"]["predicted_us"] > found["metrics"]["e2e_mean"]["measured_us"] > 0
    shown = ok(*asked)
    assert "what if" in shown.out
    assert "error %" not in shown.out
    assert "served with max_num_seqs 2, and measured without" in shown.err


def test_chunks_of_several_tokens_have_their_latency(folder: Path, coeffs: Path) -> None:
    """A server that sends four tokens at a time makes a client wait four times as long for a chunk."""
    command = ["replay", folder, "--coeffs", coeffs]
    assert "streaming" not in ok(*command, "--json").document
    assert "itl" not in ok(*command).out
    bundled = ok(*command, "--server-arg", "stream_interval=4", "--json").document
    streaming, tpot = bundled["streaming"], bundled["metrics"]["tpot_mean"]["predicted_us"]
    assert streaming["stream_interval"] == 4
    assert 3 * tpot < streaming["itl_mean"]["predicted_us"] < 4.2 * tpot
    assert streaming["itl_p99"]["predicted_us"] >= streaming["itl_mean"]["predicted_us"]
    shown = ok(*command, "--server-arg", "stream_interval=4").out
    assert "itl_mean" in shown
    assert "itl_p99" in shown
    guessed = ok("replay", folder, "--gpu", "H100", "--server-arg", "stream_interval=4", "--json").document[
        "streaming"
    ]["itl_mean"]
    low, high = guessed["interval_90_us"]
    assert low < guessed["predicted_us"] < high


def test_a_warm_server_is_replayed_without_a_cold_start(folder: Path, coeffs: Path) -> None:
    fresh, warm = (
        ok("replay", folder, "--coeffs", coeffs, flag, "--json").document["metrics"]["ttft_p99"]["predicted_us"]
        for flag in ("--fresh", "--warm")
    )
    stall_us = Parameters.of(read_coefficients(coeffs).values).request.cold_step_us
    assert stall_us > 10_000
    assert fresh > warm + 0.7 * stall_us  # a 99th percentile of 150 requests lies between the second and the third


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


def test_replay_does_not_depend_on_what_was_measured(coeffs: Path, tmp_path: Path) -> None:
    """Of two servers that were not fitted: of one that was, the pace is known, by what was measured."""

    def late(seconds: int) -> Path:
        rows = requests(150)
        for row in rows:
            row["last_chunk_time_us"] = int(str(row["last_chunk_time_us"])) + 1_000_000 * seconds
        return RunFolder(rows=rows).write(tmp_path / f"late-{seconds}")

    one, two = (ok("replay", late(n), "--coeffs", coeffs, "--json").document["metrics"] for n in (1, 10))
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
        (["--model", "qwen3-8b"], "model qwen3-8b is not that of .*: llama-2-7b-hf"),
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


OTHERS = {
    "config_sha256": "another config.json of llama-2-7b-hf",
    "gpu_sheet_sha256": "another datasheet of H100",
    "kernel_tables_sha256": "other kernel tables of H100",
}


@pytest.mark.parametrize("digest", OTHERS)
@pytest.mark.parametrize("command", ["replay", "evaluate", "predict"])
def test_another_config_sheet_or_tables_of_the_same_name_are_refused(
    folder: Path, coeffs: Path, tmp_path: Path, command: str, digest: str
) -> None:
    changed = tmp_path / "changed.yaml"
    text, number = re.subn(f"{digest}: .*", f"{digest}: {'f' * 64}", coeffs.read_text())
    assert number == 1
    changed.write_text(text)
    step = ["predict", "llama-2-7b-hf", "--gpu", "H100", "--decode", "700x2"]
    line = step if command == "predict" else [command, folder]
    said = fails(*line, "--coeffs", changed).err
    assert said.startswith(f"roofml: {changed}: was fitted over {OTHERS[digest]} (ffffffffffff, not ")
    assert "refit with `roofml fit`" in said


def test_a_file_that_names_its_runs_alone_is_taken_at_its_word_and_says_so(
    folder: Path, coeffs: Path, tmp_path: Path
) -> None:
    """Files of 0.1.0 have no digest of what was measured, and none of sheet and tables."""
    older = tmp_path / "older.yaml"
    text = re.sub(r"^  run_sha256:\n    quiet: .*\n", "", coeffs.read_text(), count=1, flags=re.MULTILINE)
    text = re.sub(r"^physics:\n(  .*\n)+", "", text, count=1, flags=re.MULTILINE)
    assert "_sha256" not in text.replace("config_sha256", "")
    older.write_text(text)
    with_name, with_digest = (ok("replay", folder, "--coeffs", path, "--json") for path in (older, coeffs))
    assert with_name.document["metrics"] == with_digest.document["metrics"]
    assert f"warning: quiet: its pace is that of a run of this name in {older}" in with_name.err
    assert "its pace" not in with_digest.err


def test_the_library_and_the_command_agree(folder: Path, coeffs: Path) -> None:
    run = read_run(folder, gpu="H100")
    given = read_coefficients(coeffs)
    parameters = Parameters.of(given.values).paced(given.fit.paces[run.name])
    direct = library_replay(run, climbed(deployment_of([run]).tables, given.step.stairs or {}), parameters)
    found = ok("replay", folder, "--coeffs", coeffs, "--json").document
    assert found["metrics"]["ttft_mean"]["predicted_us"] == pytest.approx(float(direct.ttft_us.mean()))


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--num-gpu-blocks", "100000", r"quiet: num_gpu_blocks 100000: they take 390\.6 GiB .* has room for 17003"),
        ("--num-gpu-blocks", "2000000000", r"2000000000"),
        ("--max-model-len", "400000", r"quiet: max_model_len 400000: llama-2-7b-hf has 4096 positions"),
        ("--max-num-seqs", "500000000", r"500000000"),
        ("--max-num-batched-tokens", "500000000", r"500000000"),
        ("--max-num-batched-tokens", "3000000", r"3000000, expected at most 1048576"),
        ("--num-gpu-blocks", "1" + "0" * 400, r"--num-gpu-blocks"),
        ("--block-size", "500000000", r"500000000"),
    ],
)
@pytest.mark.parametrize("with_coefficients", [True, False])
def test_a_server_that_cannot_have_been_is_refused(
    folder: Path, coeffs: Path, flag: str, value: str, message: str, with_coefficients: bool
) -> None:
    given = ["--coeffs", coeffs] if with_coefficients else ["--gpu", "H100"]
    assert re.search(message, fails("replay", folder, *given, flag, value).err)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (r"(paces:\n    quiet:) .*", r"\1 -1.0", "fit.paces.quiet: input should be greater than or equal to 0.2"),
        (r"tensor_parallel: 1", 'tensor_parallel: "1"', "tensor_parallel: input should be a valid integer, found '1'"),
        (r"  requests: ", "  requests: -", "fit.requests: input should be greater than or equal to 0"),
    ],
)
def test_coefficients_that_no_fit_can_have_found_are_not_replayed(
    folder: Path, coeffs: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    changed = tmp_path / "changed.yaml"
    text, count = re.subn(old, new, coeffs.read_text())
    assert count == 1
    changed.write_text(text)
    assert message in fails("replay", folder, "--coeffs", changed).err
