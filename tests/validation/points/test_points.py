"""Measured points: what a row says, what is answered, how it is judged, and what one point teaches about the others."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from roofml.calibration.aggregates import statistics
from roofml.calibration.calibrate import uncalibrated
from roofml.calibration.other_models import read_other_models
from roofml.engine.replay import replay
from roofml.traces.release_dates import release_on, version_in
from roofml.util.errors import InputError
from roofml.validation.points.anchor import anchor_of, anchored
from roofml.validation.points.answer import aggregate_of
from roofml.validation.points.evaluation import evaluate_points
from roofml.validation.points.judge import cells_of, figures_of, mean_of_cells
from roofml.validation.points.point import Point, read_points
from roofml.validation.points.serving import deployment_of, engine_of, load_of, served_of

HEADER = (
    "id,source,model,gpu,tp,engine_version,load_kind,concurrency,isl,osl,len_ratio,mean_ttft_ms,mean_tpot_ms,quality"
)
ROW = "1,here,llama-3.1-8b-instruct,H100,1,0.15.1,closed,4,512,64,0.8,80,7.5,good"


def file_of(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "points.csv"
    path.write_text("\n".join((header, *rows)) + "\n")
    return path


def test_a_row_says_what_was_served_and_measured(tmp_path: Path) -> None:
    (point,) = read_points(file_of(tmp_path, ROW))
    assert (point.model, point.gpu, point.tp, point.pp, point.concurrency) == ("llama-3.1-8b-instruct", "H100", 1, 1, 4)
    assert point.requests == 40  # ten for every client, as nobody says
    assert (point.input_range, point.output_range) == ((410, 512), (51, 64))
    assert point.measured == {"ttft_mean": 80_000.0, "tpot_mean": 7_500.0}
    assert point.cell == ("here", "H100", "llama-3.1-8b-instruct")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (ROW.replace("closed", "sometimes"), "load_kind is 'sometimes', expected one of closed, open"),
        (ROW.replace("7.5", "fast"), "mean_tpot_ms is 'fast', expected a number from 0 to 1e+09, or nothing"),
        (ROW.replace("7.5", "-1"), "mean_tpot_ms is '-1', expected a number"),
        (ROW.replace("H100,1,", "H100,1.5,"), "tp is '1.5', expected a whole number up to 1024"),
        (ROW.replace(",512,", ",,"), "isl is '', expected a length"),
        (ROW.replace("H100", ""), "gpu is '', expected a name"),
        (ROW.replace("closed,4", "open,4"), "an open load without a rate"),
        (ROW.replace("closed,4", "closed,9999999999"), "concurrency is '9999999999', expected"),
    ],
)
def test_a_bad_cell_is_refused_by_line_and_column(tmp_path: Path, wrong: str, message: str) -> None:
    with pytest.raises(InputError, match=f"points.csv: line 3: .*{message}"[:60].replace("+", r"\+")) as error:
        read_points(file_of(tmp_path, ROW, wrong))
    assert message in str(error.value)


def test_a_file_without_the_columns_needed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing column gpu"):
        read_points(file_of(tmp_path, "m,closed", header="model,load_kind"))


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("0.15.1", "0.15.1"),
        ("v0.11.0rc2", "0.11.0"),
        ("2025-10-29", "0.11.0"),
        ("2026-05 main", "0.20.0"),
        ("nightly 2026-02", "0.15.0"),
        ("2024 (vLLM 0.5-0.6)", "0.5"),
        ("2024", "0.5.0"),
        ("", None),
        ("some build", None),
        ("2019-01-01", None),
    ],
)
def test_versions_told_as_dates_or_in_words(text: str, version: str | None) -> None:
    assert version_in(text) == version


def test_releases_come_out_in_order() -> None:
    assert release_on(datetime.date(2026, 2, 4)) == "0.15.0"
    assert release_on(datetime.date(2026, 2, 5)) == "0.15.1"
    assert release_on(datetime.date(2023, 1, 1)) is None


@pytest.fixture(name="point")
def a_point(tmp_path: Path) -> Point:
    return read_points(file_of(tmp_path, ROW))[0]


def test_an_engine_that_nothing_stands_for_is_refused_by_name(point: Point) -> None:
    with pytest.raises(InputError, match="engine 'lmdeploy': expected one of"):
        served_of(replace(point, engine="lmdeploy"))
    assert engine_of(replace(point, engine="trtllm")) == ("tensorrt-llm", None, False)
    assert engine_of(replace(point, engine_version="0.6.3")) == ("vllm", "0.8.0", True)


def test_the_load_is_as_many_requests_as_long_as_drawn(point: Point) -> None:
    load = load_of(point)
    assert (len(load), load.clients) == (40, 4)
    assert load.prompt_tokens.min() >= 410
    assert load.prompt_tokens.max() <= 512
    assert float(load.output_tokens.mean()) == pytest.approx(57.5, abs=0.5)


def test_a_point_is_answered_with_intervals_and_judged(point: Point) -> None:
    evaluation = evaluate_points([point, replace(point, id="2", gpu="no-such-gpu")])
    first, second = evaluation.to_dict()["points"]
    assert (first["answered"], first["refusal"]) == (True, None)
    for name in ("ttft_mean", "ttft_median", "tpot_mean", "tpot_median", "e2e_mean", "output_tokens_per_s"):
        low, high = first["metrics"][name]["interval_90_us"]
        assert low < first["metrics"][name]["predicted_us"] < high
    # 8 billion parameters in bfloat16 take 5 ms to read.
    assert 5_000 < first["metrics"]["tpot_mean"]["predicted_us"] < 12_000
    assert first["metrics"]["tpot_median"]["measured_us"] is None
    assert not second["answered"]
    assert "no-such-gpu" in second["refusal"]
    summary = evaluation.to_dict()["summary"]
    assert summary["answered_pct"] == 50
    assert summary["good"]["tpot_mean_of_cells_pct"] == pytest.approx(abs(first["metrics"]["tpot_mean"]["error_pct"]))


def test_predictions_are_the_same_every_time(point: Point) -> None:
    assert evaluate_points([point]).to_dict() == evaluate_points([point]).to_dict()


def test_a_mean_of_cells_weighs_cells_alike(point: Point) -> None:
    """One cell of one point and one of three: the mean is of the two cells."""
    points = [point, *(replace(point, id=str(i), source="there", concurrency=2) for i in range(3))]
    judged = evaluate_points(points).points
    assert [len(cell) for cell in cells_of(judged).values()] == [1, 3]
    errors = [figures_of(cell).tpot for cell in cells_of(judged).values()]
    assert mean_of_cells(judged, "tpot") == pytest.approx(np.mean(errors))


def test_the_anchor_is_the_point_of_median_concurrency(point: Point) -> None:
    points = [replace(point, id=str(c), concurrency=c) for c in (64, 1, 4, 16)]
    assert anchor_of(points).id == "4"


@pytest.mark.slow
def test_what_a_slow_server_does_at_one_point_tells_the_others(point: Point) -> None:
    """Points made by a server whose steps take a quarter longer: one of them is enough to know the others."""
    deployment = deployment_of(served_of(point))
    calibration = uncalibrated(deployment, read_other_models().prior(deployment))
    slow = calibration.parameters.paced(1.25)
    points: list[Point] = []
    for clients in (1, 4, 16, 32):
        asked = replace(
            point, id=str(clients), concurrency=clients, requests=20 * clients, output_range=(205, 256), max_num_seqs=64
        )
        aggregate = aggregate_of(asked, calibration)
        figures = statistics(aggregate.run, replay(aggregate.run, aggregate.tables, slow))
        points.append(replace(asked, measured={name: figures[name] for name in ("ttft_mean", "tpot_mean")}))
    before, after = evaluate_points(points), evaluate_points(points, anchor=True)
    assert figures_of(before.points).tpot > 15
    assert len(after.points) == 3  # the one learned from is not judged
    assert figures_of(after.points).tpot < 3  # what part of a step is slow is not known from one point
    assert figures_of(after.points).ttft < 10  # of a first token a quarter is the host and the client


@pytest.mark.slow
def test_a_figure_that_cannot_be_is_no_news(point: Point) -> None:
    """One measured wrongly, four times as long as believed, moves nothing."""
    deployment = deployment_of(served_of(point))
    calibration = uncalibrated(deployment, read_other_models().prior(deployment))
    wrong = replace(point, measured={"tpot_mean": 4 * 7_500.0})
    after, _, pace = anchored(calibration, deployment.doubts, 1.0, wrong)
    np.testing.assert_allclose(after.values, calibration.values)
    assert pace == pytest.approx(1.0)
