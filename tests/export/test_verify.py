"""The live check with a stand-in for `blis`, and with the real one where there is one."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace as with_changes
from pathlib import Path

import numpy as np
import pytest
from quickness import quickly
from ruamel.yaml import YAML

from roofml.blis.deployment import SHIPPED_HARDWARE, BlisCoefficients, BlisDeployment
from roofml.blis.model_view import blis_model
from roofml.blis.replay import for_blis, replay
from roofml.calibration.calibrate import physics
from roofml.export.before import before_export
from roofml.export.belongs import check_belongs
from roofml.export.defaults import ModelEntry
from roofml.export.deployment import BlisExport
from roofml.export.edit import carry_out
from roofml.export.form_cost import form_cost
from roofml.export.trace import write_trace
from roofml.export.verify import BlisFailedError, call, find_blis, parse_report, parse_results, verify
from roofml.traces.read import read_run
from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.util.errors import InputError, JobFailedError
from roofml.util.package_data import data_folder

CONFIG = data_folder("model_configs") / "llama-2-7b-hf" / "config.json"
DEPLOYMENT = BlisDeployment(blis_model(json.loads(CONFIG.read_text()), "llama-2-7b-hf"), SHIPPED_HARDWARE["H100"], 1)
SET = BlisCoefficients((9000, 400, 3), (1.4, 0, 1.3, 1, 12, 2, 90, 0, 0, 1.8, 1))
EXPORT = BlisExport(ModelEntry("llama-2-7b-hf", "H100", 1, "meta-llama/Llama-2-7b-hf"), SET, 7462, 16, 128, 2048, 4096)


def small_run(requests: int = 40) -> Run:
    """Requests that took what BLIS would say with SET; one failed."""
    random = np.random.default_rng(2)
    group = np.arange(requests) % 7
    run = Run(
        name="small",
        server=Server("meta-llama/Llama-2-7b-hf", 1, 128, 2048, 16, 7462, 4096, "H100"),
        request_id=np.arange(requests) + 100,
        arrival_us=np.cumsum(random.integers(10_000, 300_000, requests)).astype(float),
        prompt_tokens=300 + group * 16,
        output_tokens=random.integers(20, 90, requests),
        prefix_group=np.where(group == 6, -1, group),
        prefix_tokens=np.where(group == 6, 0, 300 + group * 16),
        ttft_us=np.zeros(requests), e2e_us=np.zeros(requests), ok=np.arange(requests) != 3,
    )  # fmt: skip
    found = replay(for_blis(run), DEPLOYMENT, SET.alphas, SET.betas)
    blank = np.where(run.ok, 0, np.nan)
    return with_changes(run, ttft_us=found.ttft_us + blank, e2e_us=found.e2e_us + blank)


FAKE = """\
#!{python}
# Stands in for blis: {how}. `replay` says what was measured, half as much again without our coefficients.
import csv, json, sys, time
HOW = {how!r}
command, flags = sys.argv[1], dict(zip(sys.argv[2::2], sys.argv[3::2]))
if HOW == "hangs":
    time.sleep(60)
if HOW == "panics":
    sys.exit("loading\\npanic: trained-physics model: AlphaCoeffs requires at least 3 elements, got 2\\ngoroutine 1")
if HOW == "fails silently":
    sys.exit(1)
ours = "roofml" in open(flags["--defaults-filepath"]).read() if "--defaults-filepath" in flags else False
if HOW == "fails without us" and command == "replay" and not ours:
    sys.exit('time=1 level=fatal msg="no coefficients"')
with open(flags["--trace-data"]) as file:
    rows = list(csv.DictReader(file))
if command == "replay":
    assert flags["--latency-model"] == "trained-physics" and int(flags["--horizon"]) > 1e12
    assert flags["--total-kv-blocks"] == "7462" and json.load(open(flags["--hardware-config"]))["H100"]
    assert open(flags["--model-config-folder"] + "/config.json")
    factor = 1.0 if ours else 1.5
    results = [
        dict(request_id=int(r["request_id"]), ttft_us=factor * (int(r["first_chunk_time_us"]) - int(r["send_time_us"])),
             e2e_us=factor * (int(r["last_chunk_time_us"]) - int(r["send_time_us"])), input_tokens=1, output_tokens=1)
        for r in rows
    ]
    if HOW == "drops the last":
        results.pop()
    open(flags["--results-path"], "w").write("[1" if HOW == "writes rubbish" else json.dumps(results))
else:
    assert all(r["status"] == "ok" for r in rows)
    level = dict(mape=0.01 if ours else 0.5, pearson_r=0.99, quality="excellent")
    open(flags["--report"], "w").write(json.dumps(dict(metrics=dict(ttft=dict(request_level=level)))))
"""


Fake = Callable[..., Path]
"""Writes a stand-in that behaves as its name says."""


@pytest.fixture
def fake_blis(tmp_path: Path) -> Fake:
    def make(how: str = "works") -> Path:
        path = tmp_path / "blis"
        path.write_text(FAKE.format(python=sys.executable, how=how))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return make


def test_blis_is_run_without_and_with_our_file(tmp_path: Path, fake_blis: Fake) -> None:
    defaults = tmp_path / "defaults.yaml"
    defaults.write_text("version: 1\n")
    found = verify(small_run(), DEPLOYMENT, EXPORT, fake_blis(), defaults)
    assert found.before is not None
    assert found.before.e2e_pct == pytest.approx(50, abs=0.01)  # whole µs in the trace
    assert found.after.e2e_pct == pytest.approx(0, abs=0.01)
    assert found.after.ttft_pct == pytest.approx(0, abs=0.01)
    assert (found.after.requests, found.after.missing) == (39, 0)
    assert found.after.grades["ttft"].quality == "excellent"
    assert found.drift_pct == pytest.approx(0, abs=0.01)
    assert defaults.read_text() == "version: 1\n"


def test_without_a_defaults_file_blis_takes_its_own(fake_blis: Fake) -> None:
    found = verify(small_run(), DEPLOYMENT, EXPORT, fake_blis())
    assert found.before is not None
    assert found.before.e2e_pct == pytest.approx(50, abs=0.01)


def test_a_blis_that_cannot_run_without_us_is_judged_with_us_alone(fake_blis: Fake) -> None:
    found = verify(small_run(), DEPLOYMENT, EXPORT, fake_blis("fails without us"))
    assert found.before is None
    assert found.before_problem == 'blis replay: exit code 1: time=1 level=fatal msg="no coefficients"'
    assert found.after.requests == 39


def test_requests_that_blis_does_not_finish_are_counted(fake_blis: Fake) -> None:
    assert verify(small_run(), DEPLOYMENT, EXPORT, fake_blis("drops the last")).after.missing == 1


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("panics", "blis replay: exit code 1: panic: trained-physics model: AlphaCoeffs requires at least 3"),
        ("fails silently", "blis replay: exit code 1: it said nothing"),
        ("writes rubbish", "blis: no readable results was written"),
    ],
)
def test_a_blis_that_fails_is_quoted_in_one_line(fake_blis: Fake, how: str, error: str) -> None:
    with pytest.raises(BlisFailedError, match=error) as raised:
        verify(small_run(), DEPLOYMENT, EXPORT, fake_blis(how))
    assert "\n" not in str(raised.value)


def test_a_blis_that_hangs_is_stopped(fake_blis: Fake) -> None:
    with pytest.raises(BlisFailedError, match=r"not done after 0\.5 s"):
        call([str(fake_blis("hangs")), "replay"], 0.5)


@pytest.mark.skipif(os.name == "nt", reason="a script of the shell")
@pytest.mark.parametrize("ending", ["sleep 1000", "exit 0"])
def test_verify_blis_child_sleeps(tmp_path: Path, ending: str) -> None:
    """What blis started holds its standard output: it ends with the call, and is not waited for."""
    blis = tmp_path / "blis"
    blis.write_text(f"#!/bin/sh\nsleep 1000 &\necho $! > {tmp_path}/child\n{ending}\n")
    blis.chmod(0o755)
    with quickly(4), pytest.raises(BlisFailedError, match=r"blis replay: not done after 1 s"):
        call([str(blis), "replay"], 1)
    child = int((tmp_path / "child").read_text())
    for _ in range(20):
        if not alive(child):
            return
        time.sleep(0.05)
    raise AssertionError("the child of blis still sleeps")


def alive(process: int) -> bool:
    """Whether a process runs: one that has ended may still wait to be noticed by its parent."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True, check=False)
    return state.stdout.strip()[:1] not in {"", "Z"}


def test_a_verification_that_fails_is_a_failed_job_and_not_a_bad_input() -> None:
    assert issubclass(BlisFailedError, JobFailedError)
    assert not issubclass(BlisFailedError, InputError)


@pytest.mark.parametrize("said", ["\\033[2Jlevel=fatal x", "panic: a\\rb"])
def test_what_blis_says_reaches_no_terminal_as_it_is(tmp_path: Path, said: str) -> None:
    blis = tmp_path / "blis"
    blis.write_text(f"#!/bin/sh\nprintf '{said}\\n' >&2\nexit 3\n")
    blis.chmod(0o755)
    with pytest.raises(BlisFailedError, match="exit code 3") as error:
        call([str(blis), "replay"], 10)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("text", ["[" * 100_000, '[{"request_id": 1e999, "ttft_us": 1, "e2e_us": 1}]', "\xff"])
def test_results_that_mean_harm_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BlisFailedError, match="results"):
        parse_results(path, small_run())


def test_the_trace_of_a_model_with_an_odd_name_is_one_mapping(tmp_path: Path) -> None:
    run = small_run()
    odd = with_changes(run, server=with_changes(run.server, model="a: b\nblock_size: 1"))
    header = YAML(typ="safe").load(write_trace(odd, tmp_path).header.read_text())
    assert (header["server"]["model"], header["server"]["block_size"]) == ("a: b\nblock_size: 1", 16)


def test_the_binary_is_looked_for_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_blis: Fake) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="blis: not on PATH"):
        find_blis()
    with pytest.raises(InputError, match="no executable file"):
        find_blis(tmp_path / "missing")
    path = fake_blis()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_blis() == find_blis(path) == path


def test_the_trace_says_what_the_run_says(tmp_path: Path) -> None:
    run = small_run()
    files = write_trace(run, tmp_path)
    assert len(files.judge.read_text().splitlines()) == len(files.replay.read_text().splitlines()) - 1
    (tmp_path / "kv-cache.yaml").write_text("num_gpu_blocks: 7462\nblock_size: 16\n")
    again = read_run(tmp_path, max_num_batched_tokens=2048)
    # A failed request without a chunk is one that was never served: only BLIS is told of it.
    for name in ("request_id", "prompt_tokens", "output_tokens", "ttft_us", "e2e_us"):
        np.testing.assert_array_equal(getattr(again, name), getattr(run, name)[run.ok], name)
    np.testing.assert_array_equal(again.arrival_us, (run.arrival_us - run.arrival_us[0])[run.ok])
    with pytest.raises(InputError, match="no such folder"):
        write_trace(run, tmp_path / "nowhere")


def test_recorded_results_are_read_by_request(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text('[{"request_id": 102, "ttft_us": 7, "e2e_us": 9.5}, {"request_id": 5, "ttft_us": 1, "e2e_us": 1}]')
    ttft, e2e = parse_results(path, small_run())
    assert (ttft[2], e2e[2]) == (7, 9.5)
    assert np.isnan(np.delete(e2e, 2)).all()


@pytest.mark.parametrize(
    "text", ["{}", '[{"request_id": 1}]', "[7]", '[{"request_id": "x", "ttft_us": 1, "e2e_us": 1}]']
)
def test_results_of_another_form_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(BlisFailedError, match="blis replay: results"):
        parse_results(path, small_run())


@pytest.mark.parametrize("text", ["[]", '{"metrics": {"ttft": {}}}', '{"metrics": []}', "{}"])
def test_reports_of_another_form_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(BlisFailedError, match="blis calibrate: report"):
        parse_report(path)


def test_the_real_blis_agrees_with_our_replay_of_it() -> None:
    blis = shutil.which("blis")
    if blis is None:
        pytest.skip("no blis binary on PATH (build it from github.com/inference-sim/inference-sim)")
    found = verify(small_run(), DEPLOYMENT, EXPORT, find_blis())
    assert found.drift_pct is not None
    assert abs(found.drift_pct) < 0.5
    assert abs(found.after.e2e_pct) < 0.5


def test_once_the_file_is_edited_before_is_what_it_held_before(tmp_path: Path, fake_blis: Fake) -> None:
    """An export that was written, and is verified after, is not compared with itself."""
    defaults = tmp_path / "defaults.yaml"
    defaults.write_text("version: 1\n")
    carry_out(lambda: [], [EXPORT.edit(defaults)])
    assert "roofml" in defaults.read_text()
    found = verify(small_run(), DEPLOYMENT, EXPORT, fake_blis(), defaults)
    assert found.before is not None
    assert found.before_what == str(tmp_path / "defaults.yaml.bak")
    assert found.before.e2e_pct == pytest.approx(50, abs=0.01)
    assert found.after.e2e_pct == pytest.approx(0, abs=0.01)


def test_of_several_copies_the_last_without_our_coefficients_is_before(tmp_path: Path) -> None:
    defaults = tmp_path / "defaults.yaml"
    ours = with_changes(EXPORT, total_kv_blocks=7000)
    for text in ("version: 1\n", "version: 2\n"):
        defaults.write_text(text)
        carry_out(lambda: [], [EXPORT.edit(defaults)])
    carry_out(lambda: [], [ours.edit(defaults)])
    assert (tmp_path / "defaults.yaml.bak3").is_file()  # with our coefficients
    assert before_export(defaults).text == "version: 2\n"


def test_without_any_copy_before_is_what_blis_ships(tmp_path: Path) -> None:
    defaults = tmp_path / "defaults.yaml"
    carry_out(lambda: [], [EXPORT.edit(defaults)])
    for path in (None, defaults, tmp_path / "nowhere.yaml"):
        before = before_export(path)
        assert before.what == "the coefficients that BLIS ships"
        assert "alpha_coeffs: [15563.19958, 777.3455, 45.907545]" in before.text
        assert "roofml" not in before.text


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model": "Qwen/Qwen3-8B"}, "model: Qwen/Qwen3-8B in the run, meta-llama/Llama-2-7b-hf in the coefficients"),
        ({"model": "nobody/knows-it"}, "model: nobody/knows-it in the run"),
        ({"gpu": "A100-SXM"}, "GPU: A100-SXM in the run, H100 in the coefficients"),
        ({"tensor_parallel": 2}, "TP: 2 in the run, 1 in the coefficients"),
    ],
)
def test_a_run_of_another_deployment_is_refused(fake_blis: Fake, changes: dict[str, object], what: str) -> None:
    run = small_run()
    other = with_changes(run, server=with_changes(run.server, **changes))
    with pytest.raises(InputError, match="is of another deployment than the coefficients") as error:
        verify(other, DEPLOYMENT, EXPORT, fake_blis())
    assert what in str(error.value)


@pytest.mark.parametrize("model", ["llama-2-7b-hf", "Llama-2-7B-hf", "NousResearch/Llama-2-7b-hf"])
def test_the_same_model_by_another_name_is_the_same(model: str) -> None:
    run = small_run()
    check_belongs(EXPORT, with_changes(run, server=with_changes(run.server, model=model, gpu="H100-SXM-80GB")))
    check_belongs(EXPORT, with_changes(run, server=with_changes(run.server, model=model, gpu=None)))


def test_what_blis_form_costs_is_said(fake_blis: Fake) -> None:
    """The run was made by BLIS's form, which is then right; our own form is what the package believes."""
    native = physics("llama-2-7b-hf", "H100", 1)
    cost = form_cost(small_run(), DEPLOYMENT, EXPORT, native)
    assert cost.as_blis.e2e_pct == pytest.approx(0, abs=1e-9)
    assert cost.ours is not None
    assert abs(cost.ours.e2e_pct) > 1
    assert "BLIS's form, in our replay of it: E2E +0.0 %" in cost.line()
    assert "our form on the same run: E2E" in cost.line()
    verified = verify(small_run(), DEPLOYMENT, EXPORT, fake_blis())
    assert verified.cost is not None
    assert verified.cost.ours is None


def test_requests_that_the_client_gave_up_are_no_drift(fake_blis: Fake) -> None:
    """Our replay of BLIS gives nothing up: it is not compared with one that does."""
    assert verify(with_changes(small_run(), deadline_us=60e6), DEPLOYMENT, EXPORT, fake_blis()).drift_pct is None
