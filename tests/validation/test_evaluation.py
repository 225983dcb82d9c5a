"""Evaluation: the document that scripts depend on, and the tables that people see of the same figures."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from fitted import a_calibration, a_run, measured_again
from served import served

from roofml.calibration.calibrate import uncalibrated
from roofml.calibration.prior import PACKAGE
from roofml.latency.deployment import deployment_of
from roofml.traces.run import Run
from roofml.traces.selection import Selection
from roofml.util.errors import InputError
from roofml.validation.evaluation import Evaluation, evaluate, replay_run
from roofml.validation.report import METRICS, RunReport, report

pytestmark = pytest.mark.slow


def errors(e2e: float, saturated: bool = False, name: str = "run") -> RunReport:
    """A run whose E2E is predicted wrong by so many per cent."""
    ttft, times = np.full(2, 100.0), np.full(2, 1000.0)
    run = measured_again(a_run(2), ttft_us=ttft, e2e_us=times, output_tokens=np.full(2, 10))
    calibration = a_calibration([run])
    predicted = replace(calibration.replay(run), ttft_us=ttft, e2e_us=times * (1 + e2e / 100))
    return replace(report(Selection.between(run), predicted), run=name, saturated=saturated)


def an_evaluation(*runs: RunReport, protocol: str = "temporal", fraction: float = 0.6) -> Evaluation:
    return Evaluation(protocol, fraction, "made up; errors in %", runs)


def test_the_document_is_the_contract() -> None:
    found = an_evaluation(errors(1.0), errors(-2.0), errors(50.0, saturated=True)).to_dict()
    # Saturated runs stand apart: their summary is the one addition to the contract.
    assert list(found) == ["protocol", "train_fraction", "runs", "summary", "summary_saturated"]
    assert (found["protocol"], found["train_fraction"]) == ("temporal", 0.6)
    for one in found["runs"]:
        assert set(one) == {"run", "model", "gpu", "tp", "requests", "saturated", "metrics", "request_e2e_mape_pct"}
        assert tuple(one["metrics"]) == METRICS
        for metric in one["metrics"].values():
            assert set(metric) == {"measured_us", "predicted_us", "error_pct"}
    assert found["runs"][1]["metrics"]["e2e_mean"]["error_pct"] == pytest.approx(-2.0), "signed"
    assert found["summary"]["e2e_mean"] == pytest.approx({"mean_abs_error_pct": 1.5, "max_abs_error_pct": 2.0})
    assert set(found["summary"]) == {*METRICS, "request_e2e_mape"}
    assert found["summary_saturated"]["e2e_mean"]["mean_abs_error_pct"] == pytest.approx(50)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_without_a_normal_run_the_summary_is_empty() -> None:
    found = an_evaluation(errors(1.0, saturated=True), protocol="coeffs", fraction=0.0).to_dict()
    assert found["summary"] == {}
    assert found["summary_saturated"] != {}


def test_tables_show_normal_runs_with_their_summary_and_saturated_ones_apart() -> None:
    evaluation = an_evaluation(errors(1.0, name="a"), errors(-2.0, name="b"), errors(50.0, True, "full"))
    normal, saturated = evaluation.tables()
    assert [row[0] for row in normal.rows] == ["a", "b", "mean |error|", "worst"]
    assert [row[normal.columns.index("E2E")] for row in normal.rows] == ["+1.00", "-2.00", "1.50", "2.00"]
    assert normal.caption == "made up; errors in %"
    assert [row[0] for row in saturated.rows] == ["full"]
    assert "saturated" in saturated.title
    for table in (normal, saturated):
        assert {len(row) for row in table.rows} == {len(table.columns)}
    (alone,) = an_evaluation(errors(50.0, True, "full")).tables()
    assert [row[0] for row in alone.rows] == ["full"]


def test_it_prints_as_its_tables_and_shows_as_html_in_a_notebook() -> None:
    evaluation = an_evaluation(errors(1.0, name="a [red]"), errors(50.0, True, "<full>"))
    text, html = repr(evaluation), evaluation._repr_html_()
    for seen in ("a [red]", "mean |error|", "+1.00", "saturated runs", "made up; errors in %"):
        assert seen in text
        assert seen in html
    assert "<full>" in text
    assert "&lt;full&gt;" in html
    assert "<full>" not in html
    assert html.count("<table>") == html.count("</table>") == len(evaluation.tables()) == 2
    assert "\x1b" not in text


def test_every_figure_has_an_interval_and_of_what_was_fitted_the_narrower() -> None:
    run = served(80)
    fitted = evaluate(a_calibration([run]), [run])
    prior = evaluate(uncalibrated(deployment_of([run]), PACKAGE), [run])
    for evaluation in (fitted, prior):
        for name, metric in evaluation.runs[0].metrics.items():
            low, high = metric.interval_us or (0.0, 0.0)
            assert 0 < low < metric.predicted_us < high, name
        assert "interval_90_us" in evaluation.to_dict()["runs"][0]["metrics"]["e2e_mean"]
        assert "inside_interval_90_pct" in evaluation.to_dict()["summary"]["e2e_mean"]
        (table,) = evaluation.tables()
        assert table.columns[-1] == "E2E, 90 %"
        assert "inside its interval in" in table.caption
    sure, unsure = (each.runs[0].metrics["tpot_mean"].prediction for each in (fitted, prior))
    assert sure.sd < unsure.sd


def test_a_calibration_is_judged_as_it_is_on_the_share_asked_for() -> None:
    run = served(80)
    calibration = a_calibration([run])
    found = evaluate(calibration, [run], after=0.25, until=0.75)
    assert (found.protocol, found.train_fraction, found.runs[0].requests) == ("coeffs", 0.25, 40)
    assert found.caption == "with a fit, judged on requests after the first 25%; errors in %, + is too slow"
    assert found.runs[0] == replay_run(calibration, Selection.between(run, 0.25, 0.75)).report
    with pytest.raises(InputError, match="served: no successful request from 100% to 100% of the run"):
        evaluate(calibration, [run], after=1.0)
    with pytest.raises(InputError, match="elsewhere: GPU A100-SXM is not that of a fit: H100"):
        evaluate(calibration, [run, served(80, "elsewhere", gpu="A100-SXM")])


def test_a_run_that_does_not_say_its_gpu_is_judged_on_the_calibration_s() -> None:
    run = served(80)
    silent = replace(run, server=replace(run.server, gpu=None))
    calibration = a_calibration([run])
    assert evaluate(calibration, [silent]).runs == evaluate(calibration, [run]).runs


def two_of_one_name() -> tuple[Run, Run]:
    fitted = served(80, "run")
    return fitted, measured_again(fitted, e2e_us=1.05 * fitted.e2e_us)


def test_a_namesake_that_was_not_fitted_does_not_take_the_pace() -> None:
    """A server's pace belongs to what was measured of it: another run of its name is on another server."""
    fitted, namesake = two_of_one_name()
    calibration = a_calibration([fitted], pace=1.1)
    elsewhere = replace(namesake, name="elsewhere")
    assert (calibration.pace_of(fitted), calibration.pace_of(namesake)) == (1.1, 1.0)
    (found,), (expected,) = evaluate(calibration, [namesake]).runs, evaluate(calibration, [elsewhere]).runs
    assert found == replace(expected, run="run")
    replayed = [replay_run(calibration, Selection.between(run)) for run in (namesake, elsewhere, fitted)]
    np.testing.assert_array_equal(replayed[0].predicted.e2e_us, replayed[1].predicted.e2e_us)
    assert np.all(replayed[0].predicted.e2e_us < replayed[2].predicted.e2e_us)


def test_a_fitted_run_takes_its_pace_under_any_name() -> None:
    fitted, _ = two_of_one_name()
    calibration = a_calibration([fitted], pace=1.1)
    (found,) = evaluate(calibration, [fitted]).runs
    (renamed,) = evaluate(calibration, [replace(fitted, name="renamed")]).runs
    assert renamed == replace(found, run="renamed")


def test_runs_of_one_name_are_told_apart_and_judged_each_at_its_own_pace() -> None:
    fitted, namesake = two_of_one_name()
    calibration = a_calibration([fitted], pace=1.1)
    alone = [evaluate(calibration, [run]).runs[0] for run in (fitted, namesake)]
    found = evaluate(calibration, [fitted, namesake])
    assert [run.run for run in found.runs] == ["run", "run#2"]
    assert [replace(run, run="run") for run in found.runs] == alone
