"""A profile for Dynamo: its files, what its mocker and its planner make of them, and the real mocker where it is."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roofml.engine.replay import replay
from roofml.export.decode_steps import step_us
from roofml.export.dynamo import MockerTable, export_dynamo, mocker_table, planner_arrays
from roofml.export.subject import Subject, read_subject
from roofml.traces.server import ServerOverrides
from roofml.workloads.load import closed_load


@pytest.fixture
def subject(coefficients: Callable[..., Path]) -> Subject:
    said = ServerOverrides(max_num_seqs=64, max_num_batched_tokens=2048, prefix_caching=False)
    return read_subject([coefficients()], said, (600, 100))


def arrays_of(content: bytes | str) -> dict[str, Any]:
    assert isinstance(content, bytes)
    with np.load(io.BytesIO(content), allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


def test_the_mocker_s_file_has_what_its_loader_checks(subject: Subject) -> None:
    """`is_mocker_format_npz`, and lengths and types in `PerfModel::from_npz`."""
    data = arrays_of(export_dynamo(subject, Path("p")).files[Path("p/perf_data.npz")])
    for name in ("prefill_isl", "prefill_ttft_ms", "decode_active_kv_tokens", "decode_context_length", "decode_itl"):
        assert data[name].dtype == np.float64
        assert np.isfinite(data[name]).all()
    assert len(data["prefill_isl"]) == len(data["prefill_ttft_ms"])
    assert data["decode_itl"].shape == (len(data["decode_active_kv_tokens"]), len(data["decode_context_length"]))
    for axis in ("prefill_isl", "decode_active_kv_tokens", "decode_context_length"):
        assert (np.diff(data[axis]) > 0).all()
    assert (data["decode_itl"] > 0).all()
    assert (data["prefill_ttft_ms"] > 0).all()
    assert "llama-2-7b-hf on H100" in str(data["roofml"])


def test_a_step_of_decodes_takes_what_ours_does(subject: Subject) -> None:
    table, times = mocker_table(subject), step_us(subject)
    for batch, context in ((1, 100), (7, 333), (32, 900), (64, 1500)):
        ours = times(np.array([batch]), np.array([context]))[0] / 1e3
        theirs = table.decode_ms(np.array([float(batch * context)]), np.array([float(context)]))[0]
        assert theirs == pytest.approx(ours, rel=0.02)


def test_a_prompt_takes_what_it_adds_or_what_it_takes_alone(subject: Subject) -> None:
    beside, alone, times = mocker_table(subject), mocker_table(subject, aggregated=False), step_us(subject)
    new = np.array([16.0, 256.0, 1024.0])
    assert alone.prefill_ms(new) == pytest.approx(times(0, 0, new) / 1e3, rel=0.02)
    base = times(32, 650)
    assert beside.prefill_ms(new) == pytest.approx((times(32, 650, new) - base) / 1e3, rel=0.02)
    assert (beside.prefill_ms(new) < alone.prefill_ms(new)).all()


def test_the_grid_is_interpolated_between_its_four_corners() -> None:
    axis = np.array([0.0, 2.0, 4.0])
    table = MockerTable(axis, axis, axis, axis, np.array([[0.0, 2, 4], [1, 3, 5], [2, 4, 6]]))
    assert table.decode_ms(np.array([1.0, 4.0, 3.0]), np.array([1.0, 4.0, 2.0])).tolist() == [1.5, 6.0, 3.5]


def test_the_planner_s_folder_is_a_profiler_s(subject: Subject) -> None:
    prefill, decode = planner_arrays(subject)
    times = step_us(subject)
    assert prefill["prefill_ttft"] == pytest.approx(times(0, 0, prefill["prefill_isl"]) / 1e3)
    assert prefill["prefill_thpt_per_gpu"] == pytest.approx(1e3 * prefill["prefill_isl"] / prefill["prefill_ttft"])
    capacity = int(decode["max_kv_tokens"][0])
    assert capacity == 7462 * 16
    # `_convert_decode_profiling` makes batches of these again.
    batch = np.rint(decode["x_kv_usage"] * capacity / decode["y_context_length"])
    assert batch.min() == 1
    assert batch.max() <= 64
    assert (decode["x_kv_usage"] <= 1).all()
    assert decode["z_itl"] == pytest.approx(times(batch, decode["y_context_length"]) / 1e3, rel=1e-9)
    assert decode["z_thpt_per_gpu"] == pytest.approx(1e3 * batch / decode["z_itl"])


def test_losses_are_measured_and_small_where_the_form_is_ours(subject: Subject) -> None:
    losses = {loss.what: loss for loss in export_dynamo(subject, Path("p")).losses}
    assert losses["mocker, a step of decodes"].worst_pct < 3
    assert losses["mocker, a step with a prompt"].median_pct < 3
    alone = {loss.what: loss for loss in export_dynamo(subject, Path("p"), aggregated=False).losses}
    assert alone["mocker, a prompt by itself"].worst_pct < 3
    assert "mocker, a step with a prompt" not in alone


def test_the_same_subject_gives_the_same_bytes(subject: Subject) -> None:
    assert export_dynamo(subject, Path("p")).files == export_dynamo(subject, Path("p")).files


def test_the_command_that_uses_it_is_quoted(subject: Subject) -> None:
    deployment = replace(subject.deployment, hf_repo="x; touch PWNED\n$(id)")
    named = replace(subject, calibration=replace(subject.calibration, deployment=deployment))
    use = export_dynamo(named, Path("a b")).use
    assert "\n" not in use
    assert "'x; touch PWNED $(id)'" in use
    assert "'a b/perf_data.npz'" in use


@pytest.mark.skipif(
    importlib.util.find_spec("dynamo") is None, reason="pip install --no-deps ai-dynamo ai-dynamo-runtime msgspec"
)
@pytest.mark.parametrize("clients", [1, 16, 64])
def test_the_real_mocker_serves_as_we_do(subject: Subject, tmp_path: Path, clients: int) -> None:
    from dynamo._core import run_mocker_synthetic_trace_replay  # pyright: ignore[reportMissingImports]
    from dynamo.mocker.config import normalize_mocker_config  # pyright: ignore[reportMissingImports]

    folder = tmp_path / "profile"
    export_dynamo(subject, folder).write()
    server, count, prompt, output = subject.server, 8 * clients, 512, 128
    timing = {"type": "external", "provider": "dynamo_profile", "config": {"path": str(folder / "perf_data.npz")}}
    engine = {
        "timing_model": timing,
        "num_gpu_blocks": server.num_gpu_blocks,
        "block_size": server.block_size,
        "max_num_seqs": server.max_num_seqs,
        "max_num_batched_tokens": server.max_num_batched_tokens,
        "max_model_len": server.max_model_len,
        "enable_prefix_caching": False,
    }
    config = normalize_mocker_config({"engine": engine})
    theirs = run_mocker_synthetic_trace_replay(
        prompt, output, count, extra_engine_args=config, replay_concurrency=clients
    ).summary
    run = closed_load("loop", clients, np.full(count, prompt), np.full(count, output)).run(server)
    calibration = subject.calibration
    ours = replay(run, calibration.deployment.serving(server).tables, calibration.parameters)
    assert theirs["completed_requests"] == count
    assert theirs["mean_e2e_latency_ms"] == pytest.approx(ours.e2e_us.mean() / 1e3, rel=0.03)
    tpot = (ours.e2e_us - ours.ttft_us).mean() / (output - 1) / 1e3
    assert theirs["mean_tpot_ms"] == pytest.approx(tpot, rel=0.08)
