"""What a report says of a load under SLOs is what a plan says of it."""

from __future__ import annotations

import pytest
from fitted import a_calibration, a_run

from roofml.planning.capacity import capacity
from roofml.planning.trials import Trials, targets_of
from roofml.report.blocks import Figure, Paragraph, Section
from roofml.report.load_section import Question, check_question, held
from roofml.util.display import Table
from roofml.util.errors import InputError
from roofml.workloads.read import read_workload
from roofml.workloads.slo import parse_slos

SLOS = parse_slos(["p95 ttft < 200ms", "mean tpot < 20ms"])
LOAD = "poisson:rate=2,input=200,output=20"


@pytest.fixture(scope="module")
def question() -> Question:
    return Question(read_workload(LOAD).workload, SLOS, a_run().server, rate=50.0, prices={"H100": 2.0})


@pytest.fixture(scope="module")
def section(question: Question) -> Section:
    return held(a_calibration(), question)


def test_the_knee_is_that_of_a_plan(section: Section, question: Question) -> None:
    trials = Trials(a_calibration(), question.workload, question.recorded, targets_of(question.workload, SLOS))
    found = capacity(trials)
    drawn = next(block for block in section.blocks if isinstance(block, Figure))
    knee = next(shape for shape in drawn.layout["shapes"] if shape["type"] == "line" and shape.get("yref") == "paper")
    assert knee["x0"] == pytest.approx(found.level.value)
    low, high = next((s["x0"], s["x1"]) for s in drawn.layout["shapes"] if s["type"] == "rect")
    assert (low, high) == pytest.approx(found.level.interval_90)


def test_every_slo_has_a_line_and_a_limit(section: Section) -> None:
    drawn = next(block for block in section.blocks if isinstance(block, Figure))
    assert [trace["name"] for trace in drawn.traces] == ["p95 ttft", "mean tpot"]
    limits = {s["y0"] for s in drawn.layout["shapes"] if s.get("xref") == "paper"}
    assert limits == {200.0, 20.0}
    for trace in drawn.traces:
        assert trace["x"] == sorted(trace["x"])
        assert min(trace["y"]) > 0


def test_levels_that_hold_are_those_below_the_limits(section: Section) -> None:
    latency, speed = [block for block in section.blocks if isinstance(block, Figure)]
    ttft, tpot = (trace["y"] for trace in latency.traces)
    met = sum(a < 200 and b < 20 for a, b in zip(ttft, tpot, strict=True))
    assert [len(trace["x"]) for trace in speed.traces] == [met, len(ttft) - met]


def test_replicas_and_cost_are_in_words_and_in_the_table(section: Section) -> None:
    said = section.blocks[0]
    assert isinstance(said, Paragraph)
    assert "For 50 requests/s it takes" in said.text
    assert "an hour" in said.text
    (table,) = [block for block in section.blocks if isinstance(block, Table)]
    assert "cost/h" in table.columns
    assert "1 x H100" in table.rows[0][0]


def test_an_slo_that_no_load_meets_is_said(question: Question) -> None:
    impossible = Question(question.workload, parse_slos(["mean tpot < 0.1ms"]), question.recorded)
    (said,) = held(a_calibration(), impossible).blocks
    assert isinstance(said, Paragraph)
    assert said.kind == "warning"
    assert "mean tpot < 0.1ms" in said.text


def test_what_is_asked_without_slos_is_refused() -> None:
    check_question(None, (), None, {})
    for load, rate, prices in ((LOAD, None, {}), (None, 3.0, {}), (None, None, {"H100": 2.0})):
        with pytest.raises(InputError, match="is asked with --slo"):
            check_question(load, (), rate, prices)
    for rate in (0.0, -1.0, float("nan"), float("inf"), 1e9):
        with pytest.raises(InputError, match="--rate"):
            check_question(LOAD, SLOS, rate, {})
