"""Pictures: what is drawn is what the table says; what cannot be drawn is refused before there is anything to draw."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitted import a_calibration, a_run

from roofml.calibration.calibrate import physics
from roofml.calibration.prediction import Prediction
from roofml.latency.batch import Batch
from roofml.planning import evaluation_picture, plan_picture, simulation_picture, step_picture
from roofml.planning.ask import ask
from roofml.planning.picture import DPI, check_picture
from roofml.planning.simulation import simulate
from roofml.traces.server import ServerOverrides
from roofml.util.errors import InputError
from roofml.validation.evaluation import Evaluation
from roofml.validation.report import Metric, RunReport
from roofml.workloads.read import read_workload
from roofml.workloads.slo import parse_slos
from roofml.workloads.spec import parse_spec

pytest.importorskip("matplotlib", reason="pictures need the extra `plot`")

PNG = b"\x89PNG"


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is saved, kept as figures; the files are written as well."""
    kept: list[Any] = []
    for module in (evaluation_picture, plan_picture, simulation_picture, step_picture):
        save = module.save_figure

        def keep(figure: Any, path: Path, save: Any = save) -> None:
            kept.append(figure)
            save(figure, path)

        monkeypatch.setattr(module, "save_figure", keep)
    return kept


def apart(figure: Any) -> bool:
    """Whether no two labels of an axis lie on each other, and all of them inside the picture."""
    figure.set_dpi(DPI)
    figure.canvas.draw()
    width, height = figure.bbox.size
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            boxes = [
                label.get_window_extent()
                for label, place in zip(axis.get_ticklabels(), axis.get_ticklocs(), strict=True)
                if label.get_text() and min(axis.get_view_interval()) <= place <= max(axis.get_view_interval())
            ]
            boxes += [axis.label.get_window_extent()] if axis.label.get_text() else []
            for place, box in enumerate(boxes):
                if any(box.overlaps(other) for other in boxes[:place]):
                    return False
                if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1:
                    return False
    return True


def test_a_step_is_drawn_part_by_part(tmp_path: Path, figures: list[Any]) -> None:
    path = tmp_path / "step.png"
    step = physics("mixtral-8x7b-v0.1", "H100", 2).step_time(Batch([(16, 560)], [(700, 64)]))
    step_picture.plot_step(step, path)
    assert path.read_bytes().startswith(PNG)
    (figure,) = figures
    (axes,) = figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert {"step", "expert weights", "overhead: layers"} <= set(names)
    widths = {round(bar.get_width(), 6) for bar in axes.patches}
    assert round(step.total_us / 1e3, 6) in widths
    for name, part in step.components.items():
        drawn = name.replace("_", " ") in names
        assert drawn == (max(part.physics_us, part.corrected_us) >= 1e-3 * step.total_us)
        assert not drawn or {round(part.physics_us / 1e3, 6), round(part.corrected_us / 1e3, 6)} <= widths
    assert apart(figure)


def evaluated(*figures: tuple[float, float, tuple[float, float] | None]) -> Evaluation:
    """Runs with (measured, predicted, interval) of mean E2E."""
    runs: list[RunReport] = []
    for place, (measured, predicted, ends) in enumerate(figures):
        prediction = Prediction(predicted)
        if ends is not None:
            prediction = prediction.wider("parameters", (np.log(ends[1] / ends[0]) / 2 / 1.645) ** 2)
        metrics = {"e2e_mean": Metric(measured, prediction), "ttft_mean": Metric(measured / 10, Prediction(predicted))}
        runs.append(RunReport(f"run {place}", "m", "H100", 1, 9, False, metrics, 1.0))
    return Evaluation("temporal", 0.6, "", runs)


def test_an_evaluation_is_drawn_run_by_run(tmp_path: Path, figures: list[Any]) -> None:
    path = tmp_path / "evaluation.png"
    evaluation_picture.plot_evaluation(evaluated((1e6, 1.1e6, (1e6, 1.2e6)), (4e6, 3e6, None)), path)
    assert path.read_bytes().startswith(PNG)
    (figure,) = figures
    against, errors = figure.axes
    e2e = next(each for each in against.containers if each.get_label() == "mean E2E")
    assert e2e[0].get_xdata() == pytest.approx([1000, 4000])
    assert e2e[0].get_ydata() == pytest.approx([1100, 3000])
    off = next(each for each in errors.containers if each.get_label() == "mean E2E")
    assert off[0].get_ydata() == pytest.approx([10, -25])
    assert apart(figure)


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no mean latency was measured and predicted: nothing to draw"):
        evaluation_picture.plot_evaluation(Evaluation("temporal", 0.6, "", []), tmp_path / "x.png")


def test_a_plan_is_drawn_candidate_by_candidate(tmp_path: Path, figures: list[Any]) -> None:
    asked = ask(
        read_workload("poisson:rate=1,input=300,output=40"), ServerOverrides(), model="llama-2-7b-hf", gpus="H100,L40S"
    )
    planned = asked.plan(parse_slos(["p95 ttft < 500ms"]))
    plan_picture.plot_plan(planned, tmp_path / "plan.svg")
    (figure,) = figures
    (axes,) = figure.axes
    assert b"<svg" in (tmp_path / "plan.svg").read_bytes()[:600]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [str(o.candidate) for o in planned.options]
    for place, option in enumerate(planned.options):
        assert option.capacity is not None
        knee = axes.lines[2 * place + 1]
        assert knee.get_ydata() == pytest.approx([option.capacity.at_knee.output_tokens_per_s])


def test_a_load_is_drawn_with_its_limits(tmp_path: Path, figures: list[Any]) -> None:
    server = replace(a_run().server, fresh=False)
    slos = parse_slos(["p95 ttft < 500ms"])
    simulated = simulate(
        a_calibration(), parse_spec("poisson:rate=6,input=300,output=40,requests=200"), server, slos=slos
    )
    simulation_picture.plot_simulation(simulated, tmp_path / "load.png")
    (figure,) = figures
    shares = figure.axes[0]
    limit = next(line for line in shares.lines if line.get_label() == "p95 ttft < 500ms")
    assert limit.get_xdata()[0] == 500
    ttft = next(line for line in shares.lines if line.get_label() == "ttft")
    assert ttft.get_xdata() == pytest.approx(np.sort(simulated.served.latency_us("ttft")) / 1e3)
    assert apart(figure)


@pytest.mark.parametrize("name", ["x.mp4", "x", "x.png.gz"])
def test_what_is_no_picture_is_refused_first(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"--plot .*: expected a name that ends in png, svg"):
        check_picture(tmp_path / name)
    assert not list(tmp_path.iterdir())
