"""One run as every client would write it: what is read back is that run, whatever the tool got wrong."""

from __future__ import annotations

import gzip
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from client_files import WRITERS, Client, client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roofml.traces.recording import Recording, Requests

MODULES = sorted({module for module, _ in WRITERS.values()})


def reader(module: str) -> Any:
    return import_module(f"roofml.traces.formats.{module}")


def read_back(tmp_path: Path, form: str, run: Client) -> Recording:
    module, write = WRITERS[form]
    path = tmp_path / "run"
    path.write_bytes(write(run))
    assert reader(module).detect(path)
    (recording,) = reader(module).read(path)
    return recording


def tpot_us(each: Requests) -> Any:
    return (each.e2e_us - each.ttft_us) / np.maximum(each.output_tokens - 1, 1)


@pytest.mark.parametrize("form", WRITERS)
def test_times_and_counts_are_those_of_the_run(tmp_path: Path, form: str) -> None:
    run = client()
    recording = read_back(tmp_path, form, run)
    each = recording.each
    assert each is not None
    kept = run.ok if form == "otel-spans" else np.ones(len(run), np.bool_)
    assert (recording.requests, recording.completed) == (int(kept.sum()), int(run.ok.sum()))
    assert recording.refused is None
    if form == "llmperf":  # nobody says when, so the order is that of completion
        assert np.isnan(each.send_us).all()
        assert np.nanmean(each.ttft_us) == pytest.approx(1e6 * run.ttft_s[run.ok].mean())
        assert np.nanmean(tpot_us(each)) == pytest.approx(1e6 * run.tpot_s[run.ok].mean())
        return
    assert each.ok.tolist() == run.ok[kept].tolist()
    assert each.send_us == pytest.approx(1e6 * (run.send_s - run.send_s[0])[kept], abs=1)
    good = run.ok[kept]
    assert each.ttft_us[good] == pytest.approx(1e6 * run.ttft_s[run.ok], abs=1)
    assert each.e2e_us[good] == pytest.approx(1e6 * run.e2e_s[run.ok], abs=1)
    assert tpot_us(each)[good] == pytest.approx(1e6 * run.tpot_s[run.ok], rel=1e-3)
    assert each.output_tokens[good].tolist() == run.output[run.ok].tolist()
    prompt = np.maximum(each.input_tokens, each.server_input_tokens)[good]
    assert prompt.tolist() == (run.prompt[run.ok] + 9 * (form == "aiperf 0.10")).tolist()
    assert np.isnan(each.ttft_us[~each.ok]).all()
    assert (each.output_tokens[~each.ok] == 0).all()


@pytest.mark.parametrize("form", WRITERS)
def test_a_compressed_file_is_the_same(tmp_path: Path, form: str) -> None:
    module, write = WRITERS[form]
    path = tmp_path / "run.gz"
    path.write_bytes(gzip.compress(write(client())))
    assert reader(module).detect(path)
    assert reader(module).read(path)[0].completed == 39


@pytest.mark.parametrize("form", WRITERS)
def test_no_reader_takes_another_ones_file(tmp_path: Path, form: str) -> None:
    module, write = WRITERS[form]
    path = tmp_path / "run"
    path.write_bytes(write(client()))
    assert [name for name in MODULES if reader(name).detect(path)] == [module]


@pytest.mark.parametrize("form", sorted(WRITERS))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=st.integers(2, 12), seed=st.integers(0, 99), data=st.data())
def test_any_run_keeps_its_means(tmp_path: Path, form: str, requests: int, seed: int, data: st.DataObject) -> None:
    failed = data.draw(st.sets(st.integers(0, requests - 1), max_size=requests - 1))
    run = client(requests, tuple(failed), seed)
    each = read_back(tmp_path, form, run).each
    assert each is not None
    assert np.nanmean(each.ttft_us[each.ok]) == pytest.approx(1e6 * run.ttft_s[run.ok].mean(), rel=1e-4)
    assert tpot_us(each)[each.ok].mean() == pytest.approx(1e6 * run.tpot_s[run.ok].mean(), rel=1e-3)


@pytest.mark.parametrize("form", WRITERS)
def test_a_run_of_failures_alone_is_refused_with_its_reason(tmp_path: Path, form: str) -> None:
    if form == "otel-spans":
        pytest.skip("failed requests leave no span")
    recording = read_back(tmp_path, form, client(5, (0, 1, 2, 3, 4)))
    assert (recording.requests, recording.completed) == (5, 0)
    assert recording.refused == "no request succeeded"
