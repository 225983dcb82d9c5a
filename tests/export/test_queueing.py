"""α0 of a load: BLIS's mean TTFT there is that of our own replay, whatever the fit's average was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commandline import ok

from roofml.calibration.calibrate import physics
from roofml.export.deployment import read_export
from roofml.export.queueing import as_sent, for_load, on_server
from roofml.workloads.load import Load, closed_load, poisson_load

Write = Callable[..., Path]


def a_load(rate: float) -> Load:
    return poisson_load(f"{rate:g} a second", rate, np.full(200, 300), np.full(200, 60), 1)


def test_ttft_of_the_load_is_that_of_our_replay(coefficients: Write) -> None:
    path = coefficients()
    export = read_export(path)
    found = {rate: for_load(export, path, a_load(rate)) for rate in (1.0, 15.0)}
    for rate, one in found.items():
        assert f"is for the load {rate:g} a second" in one.provenance[-1]
        ttft = float(one.provenance[-1].split("TTFT ")[1].split(" %")[0])
        assert abs(ttft) < 0.6
        assert one.coefficients.betas == export.coefficients.betas
        assert one.coefficients.alphas[1:] == export.coefficients.alphas[1:]
    assert found[15.0].coefficients.alphas[0] > found[1.0].coefficients.alphas[0]


def test_it_is_in_the_file_and_no_other_number_moves(coefficients: Write, tmp_path: Path) -> None:
    path = coefficients()
    (tmp_path / "load.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        + "".join(f"2023-11-16 18:15:{number:02d}.0000000,400,50\n" for number in range(60))
    )
    ok("export", "blis", path, "--into", "plain")
    ok("export", "blis", path, "--into", "loaded", "--load", "load.csv")
    plain, loaded = ((tmp_path / name / "defaults.yaml").read_text() for name in ("plain", "loaded"))
    different = [line for line in loaded.splitlines() if line not in plain.splitlines()]
    assert [line.split(":")[0].strip() for line in different] == ["# roofml", "alpha_coeffs"]
    assert "is for the load load (over the runs of the fit it was" in different[0]


def test_a_closed_load_is_served_at_the_times_at_which_it_was_sent() -> None:
    native = physics("llama-2-7b-hf", "H100", 1)
    loop = closed_load("loop", 8, np.full(60, 200), np.full(60, 30))
    run = on_server(loop, "llama-2-7b-hf", "H100", 1, (128, 2048, 16, 7000))
    sent = as_sent(run, native.replay(run))
    assert sent.clients == 0
    assert np.all(np.diff(sent.arrival_us) >= 0)
    assert (sent.arrival_us == 0).sum() == 8
    assert sorted(sent.request_id.tolist()) == list(range(60))


def test_more_rounds_change_nothing(coefficients: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = coefficients()
    first = for_load(read_export(path), path, a_load(5.0)).coefficients.alphas[0]
    monkeypatch.setattr("roofml.export.queueing.ROUNDS", 12)
    assert for_load(read_export(path), path, a_load(5.0)).coefficients.alphas[0] == pytest.approx(first, rel=1e-3)
