"""Subsets: a very long run is fitted on some of its requests, which say what all say, and the fit says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fitted import a_calibration, measured_again
from served import served

from roofml.calibration import drawn_replays, subset, thinning
from roofml.calibration.calibrate import fit, load
from roofml.calibration.calibration import Calibration
from roofml.calibration.prior import PACKAGE
from roofml.calibration.subset import Subset, subsets_of, subsets_said
from roofml.calibration.thinning import blocks_of, pilot, thinned
from roofml.engine.replay import replay
from roofml.latency.components import ComponentTables
from roofml.latency.deployment import deployment_of
from roofml.latency.parameters import PRIOR_VALUES, Parameters, to_coordinates
from roofml.traces.run import Run
from roofml.traces.selection import Selection
from roofml.util.errors import InputError
from roofml.validation.report import report

REQUESTS, SUBSET = 4000, 800
PARAMETERS = Parameters.of(PRIOR_VALUES)


@pytest.fixture(scope="module")
def run() -> Run:
    """Requests at a rate that doubles halfway."""
    return served(REQUESTS, gap_us=np.where(np.arange(REQUESTS) < REQUESTS // 2, 2e5, 1e5))


@pytest.fixture(scope="module")
def tables(run: Run) -> ComponentTables:
    return deployment_of([run]).tables


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are very long from 2,000 requests on, and blocks of 50."""
    monkeypatch.setattr(subset, "LONG_RUN", 2000)
    monkeypatch.setattr(thinning, "LONG_RUN", 2000)
    monkeypatch.setattr(subset, "SUBSET", SUBSET)
    monkeypatch.setattr(thinning, "BLOCK", 50)


@pytest.fixture(scope="module")
def both(run: Run) -> tuple[Calibration, Calibration]:
    """Fitted on a subset, and whole."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in (
            (subset, "LONG_RUN", 2000),
            (thinning, "LONG_RUN", 2000),
            (subset, "SUBSET", SUBSET),
            (thinning, "BLOCK", 50),
        ):
            patch.setattr(module, name, value)
        some = fit([run], prior=PACKAGE)
    return some, fit([run], prior=PACKAGE)


def test_an_ordinary_run_is_fitted_whole(run: Run, tables: ComponentTables) -> None:
    selection = Selection.between(run)
    chosen, said = subsets_of([selection], [tables], PACKAGE)
    assert chosen == [selection]
    assert said == {}
    assert pilot(selection) is selection


def test_a_subset_says_what_all_say(both: tuple[Calibration, Calibration], run: Run) -> None:
    """Parameters move by less than half of their uncertainty, and means of all requests by a fraction of a percent."""
    some, whole = both
    said = some.posterior.subsets[run.identity]
    assert SUBSET <= said.fitted == some.posterior.requests < REQUESTS // 2
    assert said.of == REQUESTS
    assert said.information > 0.97
    moved = np.abs(to_coordinates(some.values) - to_coordinates(whole.values)) / whole.posterior.sd
    assert moved.max() < 0.5
    for name, error in some.runs[0].error_pct.items():
        assert error == pytest.approx(whole.runs[0].error_pct[name], abs=0.5)
    assert some.runs[0].requests == REQUESTS, "errors are of all requests"
    assert some.misfit == ()
    assert some.posterior.valid["batch"] == pytest.approx(whole.posterior.valid["batch"], abs=1)


def test_the_file_says_what_was_fitted(both: tuple[Calibration, Calibration], tmp_path: Path) -> None:
    some, whole = both
    path = tmp_path / "coefficients.yaml"
    some.save(path)
    read = load(path)
    assert read.to_dict()["fit"]["subsets"] == some.to_dict()["fit"]["subsets"]
    sentences = subsets_said(some.posterior.subsets, some.runs)
    assert "of 4,000 requests, chosen by information" in sentences[0]
    assert subsets_said(whole.posterior.subsets, whole.runs) == []
    assert "subsets" not in whole.to_dict()["fit"]
    assert "subsets" not in whole.to_yaml()


@pytest.mark.usefixtures("short")
def test_a_stretch_is_served_as_among_all(run: Run, tables: ComponentTables) -> None:
    selection = Selection.between(run)
    blocks = blocks_of(selection)
    alone, places = thinned(selection, [blocks[0], blocks[30], blocks[31], blocks[-1]], thinning.around_us(selection))
    assert len(alone) == 200
    assert len(alone.run) == len(places) < REQUESTS // 2
    assert np.all(np.diff(alone.run.arrival_us) >= 0)
    assert alone.run.identity == run.identity
    whole, some = (replay(each, tables, PARAMETERS) for each in (run, alone.run))
    chosen = alone.requests
    np.testing.assert_array_equal(alone.run.request_id[chosen], run.request_id[places[chosen]])
    of_whole = (whole.e2e_us - whole.ttft_us)[places[chosen]]
    of_some = (some.e2e_us - some.ttft_us)[chosen]
    assert of_some.mean() == pytest.approx(of_whole.mean(), rel=1e-3)
    np.testing.assert_allclose(some.e2e_us[chosen][:50], whole.e2e_us[:50], err_msg="with the cold start")


@pytest.mark.usefixtures("short")
def test_information_is_the_same_in_pieces(run: Run, tables: ComponentTables, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = replay(run, tables, PARAMETERS).schedule
    blocks = blocks_of(Selection.between(run))
    monkeypatch.setattr(subset, "STEPS_AT_ONCE", 10**9)
    whole = subset._information(schedule, tables, PACKAGE, blocks)  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(subset, "STEPS_AT_ONCE", schedule.steps.length // 50)
    pieces = subset._information(schedule, tables, PACKAGE, blocks)  # pyright: ignore[reportPrivateUsage]
    np.testing.assert_allclose(pieces, whole, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("short")
def test_what_cannot_be_cut_is_fitted_whole(run: Run, tables: ComponentTables) -> None:
    """Clients of a closed loop wait for answers, and a server that falls behind is as full as its past made it."""
    closed = Selection.between(replace(run, clients=8))
    behind = Selection.between(measured_again(run, arrival_us=run.arrival_us / 40))
    chosen, said = subsets_of([closed], [tables], PACKAGE)
    assert chosen[0] is closed
    assert said == {}
    assert subsets_of([behind], [tables], PACKAGE) == ([behind], {})


def test_many_ordinary_runs_share_what_is_fitted(
    run: Run, tables: ComponentTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together they are as long as one that is very long."""
    monkeypatch.setattr(subset, "LONG_FIT", 6000)
    monkeypatch.setattr(subset, "FEWEST", 1000)
    monkeypatch.setattr(thinning, "BLOCK", 50)
    one = Selection.between(run)
    other = Selection.between(measured_again(run, e2e_us=run.e2e_us * 1.001))
    chosen, said = subsets_of([one, other], [tables, tables], PACKAGE)
    assert set(said) == {one.run.identity, other.run.identity}
    assert all(len(each) < REQUESTS // 2 for each in chosen)


def test_a_subset_of_another_run_is_refused(tmp_path: Path) -> None:
    known = a_calibration()
    text = a_calibration(subsets={known.runs[0].identity: Subset(8000, 100_000, 0.98)}).to_yaml()
    path = tmp_path / "coefficients.yaml"
    path.write_text(text.replace("    made up:\n      fitted", "    x:\n      fitted"))
    with pytest.raises(InputError, match=r"fit\.subsets\.x: is not one of fit\.runs"):
        load(path)


@pytest.mark.usefixtures("short")
def test_intervals_of_a_very_long_run_come_from_stretches_of_it(
    run: Run, tables: ComponentTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As wide as by draws of all of it, to a fifth. What is not very long, or cannot be cut, is served whole."""
    monkeypatch.setattr(drawn_replays, "LONG_RUN", 2000)
    calibration = a_calibration([run])
    judged, replayed = Selection.between(run, 0.3), calibration.replay(run)
    some = calibration.replays(run, 8, replayed, judged)
    assert some.some is not None
    assert len(some.some.run) < 0.7 * REQUESTS
    whole = report(judged, replayed, calibration.replays(run, 8, replayed))
    for name, metric in report(judged, replayed, some).metrics.items():
        assert metric.predicted_us == whole.metrics[name].predicted_us
        assert metric.half_width_pct == pytest.approx(whole.metrics[name].half_width_pct, rel=0.2)
    behind = measured_again(run, arrival_us=run.arrival_us / 40)
    assert calibration.replays(behind, 2, judged=Selection.between(behind)).some is None
    monkeypatch.setattr(drawn_replays, "LONG_RUN", REQUESTS)
    assert calibration.replays(run, 2, replayed, judged).some is None
