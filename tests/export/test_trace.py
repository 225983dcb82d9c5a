"""A run as a trace that BLIS reproduces: read back as BLIS reads it, replayed as BLIS does."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Callable
from dataclasses import replace as with_changes
from pathlib import Path

import numpy as np
import pytest
from as_blis_reads import requests_of
from commandline import ROOT, fails, ok
from fitted import a_run
from hypothesis import given
from hypothesis import strategies as st

from roofml.blis.deployment import blis_deployment_of
from roofml.blis.replay import for_blis, replay
from roofml.export.replay_line import export_trace
from roofml.export.trace import trace_files, trace_texts, warm_up, write_trace
from roofml.traces.read import read_run
from roofml.traces.run import Run
from roofml.traces.tracev2 import COLUMNS
from roofml.util.errors import InputError

ALPHAS, BETAS = (9000, 400, 3), (1.4, 0, 1.3, 1, 12, 2, 90, 0, 0, 1.8, 1)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def check_same_replay(run: Run, table: Path) -> None:
    """BLIS does with the rows what it does with the run, request by request."""
    read = requests_of(table, run)
    assert len(read) == len(run)
    deployment = blis_deployment_of(run)
    direct, again = (replay(one, deployment, ALPHAS, BETAS) for one in (for_blis(run), read))
    np.testing.assert_array_equal(again.ttft_us, direct.ttft_us)
    np.testing.assert_array_equal(again.e2e_us, direct.e2e_us)


@given(
    st.lists(st.tuples(st.integers(-1, 3), st.integers(1, 400), st.integers(0, 400), st.integers(1, 30)), min_size=1),
    st.integers(1, 200_000),
)
def test_whatever_prompts_share_blis_serves_the_same_requests(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[int, int, int, int]], gap: int
) -> None:
    group, prompt, shared, output = (np.array(column) for column in zip(*drawn, strict=True))
    size = len(drawn)
    run = with_changes(
        a_run(),
        request_id=np.arange(size),
        arrival_us=np.arange(size) * float(gap),
        prompt_tokens=prompt,
        output_tokens=output,
        prefix_group=group,
        prefix_tokens=np.where(group >= 0, np.minimum(shared, prompt), 0),
        ttft_us=np.full(size, 1e4),
        e2e_us=np.full(size, 1e6),
        ok=np.ones(size, np.bool_),
        counted_tokens=np.zeros(0, np.int64),
    )
    check_same_replay(run, write_trace(run, tmp_path_factory.mktemp("trace")).replay)


def test_the_27_columns_stand_in_their_order_and_no_row_names_a_model(tmp_path: Path) -> None:
    """BLIS drops a request whose model is not, letter for letter, its --model; one without is of that model."""
    files = write_trace(a_run(), tmp_path)
    for path in (files.replay, files.judge):
        assert tuple(path.read_text().splitlines()[0].split(",")) == COLUMNS
        assert {row["model"] for row in rows_of(path)} == {""}


def test_a_server_without_a_prefix_cache_has_no_groups(tmp_path: Path) -> None:
    run = a_run()
    plain = with_changes(
        run,
        prefix_group=np.zeros(len(run), np.int64),
        prefix_tokens=run.prompt_tokens,
        server=with_changes(run.server, prefix_caching=False),
    )
    rows = rows_of(write_trace(plain, tmp_path).replay)
    assert {row["prefix_group"] for row in rows} == {""}
    assert [int(row["input_tokens"]) for row in rows] == plain.prompt_tokens.tolist()


def test_what_was_not_measured_first_is_warm_up(tmp_path: Path) -> None:
    """`blis calibrate` leaves out ids below the header's number, and nothing else."""
    run = a_run()
    ok = np.ones(len(run), np.bool_)
    ok[:3] = False
    assert warm_up(with_changes(run, ok=ok)) == int(run.request_id[3])
    ok[7] = False
    some = with_changes(run, ok=ok)
    files = write_trace(some, tmp_path)
    assert f"warm_up_requests: {int(run.request_id[3])}\n" in files.header.read_text()
    assert len(rows_of(files.judge)) == int(ok.sum())
    assert warm_up(with_changes(run, ok=np.ones(len(run), np.bool_))) == 0


def test_deadlines_are_absolute_and_only_where_the_client_had_one(tmp_path: Path) -> None:
    run = a_run()
    assert {row["deadline_us"] for row in rows_of(write_trace(run, tmp_path).replay)} == {"0"}
    (tmp_path / "late").mkdir()
    late = np.arange(len(run)) == 5
    hasty = with_changes(run, deadline_us=30e6, late=late, ok=run.ok & ~late)
    rows = rows_of(write_trace(hasty, tmp_path / "late").replay)
    for row in rows:
        assert int(row["deadline_us"]) == int(row["send_time_us"]) + 30_000_000
    assert rows[5]["status"] == "timeout"
    assert rows[5]["last_chunk_time_us"] == rows[5]["deadline_us"]


def test_a_trace_read_again_is_the_run(tmp_path: Path) -> None:
    """Every latency, and the deadline too, is found again by our own reader."""
    run = a_run()
    write_trace(run, tmp_path)
    again = read_run(tmp_path, max_num_batched_tokens=2048, num_gpu_blocks=run.server.num_gpu_blocks)
    np.testing.assert_allclose(again.e2e_us, run.e2e_us[run.ok], atol=1.01)


def test_the_printed_line_is_one_command_and_names_the_files(tmp_path: Path) -> None:
    told = ok("export", "trace", ROOT / "sample_run", "-o", tmp_path / "a b").out.splitlines()
    replayed, judged = shlex.split(told[2]), shlex.split(told[3])
    assert replayed[:2] == ["blis", "replay"]
    flags = dict(zip(replayed[2::2], replayed[3::2], strict=True))
    assert Path(flags["--trace-data"]).is_file()
    assert Path(flags["--trace-header"]).is_file()
    assert int(flags["--horizon"]) > 1e12
    assert (flags["--max-num-seqs"], flags["--tp"], flags["--hardware"]) == ("128", "1", "H100")
    assert judged[:2] == ["blis", "calibrate"]
    assert judged[judged.index("--sim-results") + 1] == flags["--results-path"]
    run = read_run(ROOT / "sample_run")
    check_same_replay(run, Path(flags["--trace-data"]))


def test_json_is_one_document(tmp_path: Path) -> None:
    document = ok("export", "trace", ROOT / "sample_run", "-o", tmp_path, "--json").document
    assert document["requests"] == 800
    assert document["measured_requests"] == 799
    assert document["warm_up_requests"] == 1
    assert document["replay"][:2] == ["blis", "replay"]


def test_another_trace_is_not_written_over(tmp_path: Path) -> None:
    run = a_run()
    first = export_trace(run, tmp_path)
    held = first.files.replay.read_bytes()
    assert export_trace(run, tmp_path).replay == first.replay  # the same again is no other
    other = with_changes(run, e2e_us=run.e2e_us + 1000)
    with pytest.raises(InputError, match="holds another trace: give another folder, or say --replace"):
        export_trace(other, tmp_path)
    assert first.files.replay.read_bytes() == held
    export_trace(other, tmp_path, replace=True)
    assert first.files.replay.read_bytes() != held


def test_coefficients_of_another_deployment_are_refused(coefficients: Callable[..., Path], tmp_path: Path) -> None:
    """BLIS would take them, and be wrong without a word."""
    said = fails("export", "trace", ROOT / "sample_run", "-o", "out", "--coeffs", coefficients()).err
    assert "is of another deployment than the coefficients (model: meta-llama/Llama-3.1-8B-Instruct in the run" in said
    assert not (tmp_path / "out").exists()


def test_a_folder_of_the_deployment_is_named_in_the_line(coefficients: Callable[..., Path], tmp_path: Path) -> None:
    ok("export", "blis", coefficients(), "--into", "out")
    exported = export_trace(a_run(), Path("out"))
    assert exported.replay[-2:] == ["--defaults-filepath", "out/defaults.yaml"]
    other = with_changes(a_run(), server=with_changes(a_run().server, tensor_parallel=2))
    with pytest.raises(InputError, match=r"out/defaults\.yaml: is of llama-2-7b-hf on H100 with TP 1, and the run of"):
        export_trace(other, Path("out"))


def test_what_blis_cannot_hold_is_said(tmp_path: Path) -> None:
    run = a_run()
    half = np.where(np.arange(len(run)) % 2, run.prompt_tokens, 16)
    shared = with_changes(
        run, prefix_group=np.zeros(len(run), np.int64), prefix_tokens=np.minimum(half, run.prompt_tokens)
    )
    (warning,) = export_trace(shared, tmp_path / "a").warnings
    assert "of the tokens that prompts share: a group has one length" in warning
    short = with_changes(run, server=with_changes(run.server, max_model_len=64))
    assert any("longer than max_model_len 64" in text for text in export_trace(short, tmp_path / "b").warnings)
    loop = export_trace(with_changes(run, clients=4), tmp_path / "c")
    assert any("4 clients in a closed loop" in text for text in loop.remarks)


def test_a_recorded_run_is_reproduced(shared: Path, tmp_path: Path) -> None:
    """Of the trace as it was recorded BLIS completes none: its model column is the repository's name."""
    folder = next(path for path in (shared / "groundtruth").iterdir() if "codellama-34b-tp2-codegen" in path.name)
    run = read_run(folder, gpu="H100")
    recorded = requests_of(folder / "trace.csv", run, "codellama-34b-instruct-hf")
    assert len(recorded) == 0
    check_same_replay(run, write_trace(run, tmp_path).replay)


def test_the_header_is_yaml_whatever_the_model_is_called(tmp_path: Path) -> None:
    run = a_run()
    odd = with_changes(run, server=with_changes(run.server, model="x: [\n# y"))
    text = trace_texts(odd, trace_files(tmp_path))[tmp_path / "trace.yaml"]
    assert 'model: "x: [\\n# y"\n' in text


@pytest.mark.parametrize("more", [[], ["--replace"]])
def test_out_is_input_the_run_itself_is_never_written_over(tmp_path: Path, more: list[str]) -> None:
    write_trace(a_run(), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    server = ["--gpu", "H100", "--max-num-batched-tokens", 2048, "--num-gpu-blocks", 5000]
    said = fails("export", "trace", tmp_path, "-o", tmp_path, *server, *more).err
    assert "is an input of this command, expected another folder for the trace" in said
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_out_readonly_and_links(tmp_path: Path) -> None:
    """A read-only file is not replaced, what else is to be written is not; a link stays one."""
    out, real = tmp_path / "out", tmp_path / "real.csv"
    out.mkdir()
    (out / "measured.csv").write_text("")
    (out / "measured.csv").chmod(0o444)
    assert "read-only" in fails("export", "trace", ROOT / "sample_run", "-o", out, "--replace").err
    assert [path.name for path in out.iterdir()] == ["measured.csv"]
    (out / "measured.csv").unlink()
    (out / "trace.csv").symlink_to(real)
    ok("export", "trace", ROOT / "sample_run", "-o", out)
    assert (out / "trace.csv").is_symlink()
    assert len(real.read_text().splitlines()) == 801


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = fails("export", "trace", ROOT / "sample_run", "-o", tmp_path / "file" / "below").err
    assert said.startswith(f"roofml: {tmp_path / 'file'}")


@pytest.mark.parametrize("name", ["\x1b[2Jx", "$(touch PWNED)", "a\nb", "' ; touch PWNED ; '"])
def test_inject_trace_names_stay_words_and_reach_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    told = ok("export", "trace", ROOT / "sample_run", "-o", name).out
    assert "\x1b" not in told
    assert len(told.splitlines()) == 4
    if name.isprintable():
        words = shlex.split(told.splitlines()[2])
        assert words[words.index("--trace-data") + 1] == f"{name}/trace.csv"


def test_a_load_that_nobody_has_served_is_a_trace_too(coefficients: Callable[..., Path], tmp_path: Path) -> None:
    """Of a closed loop the requests are sent when our own replay's clients send them: a trace has no clients."""
    path = coefficients()
    line = "poisson:rate=5,input=200,output=30,requests=40"
    assert "a load has no server: give --coeffs FILE" in fails("export", "trace", line, "-o", "none").err
    told = ok("export", "trace", line, "-o", "open", "--coeffs", path).out.splitlines()
    assert len(told) == 3  # nothing was measured, so there is nothing to calibrate with
    rows = rows_of(tmp_path / "open/trace.csv")
    assert {(row["server_input_tokens"], row["output_tokens"], row["status"]) for row in rows} == {("200", "30", "ok")}
    assert "mode: generated\n" in (tmp_path / "open/trace.yaml").read_text()
    ok("export", "trace", "closed:concurrency=4,input=200,output=30,requests=20", "-o", "closed", "--coeffs", path)
    sent = [int(row["send_time_us"]) for row in rows_of(tmp_path / "closed/trace.csv")]
    assert sent == sorted(sent)
    assert sum(time == 0 for time in sent) == 4
