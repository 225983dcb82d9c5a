"""A report's file: everything is in it, nothing can get out of its place, and the same input gives the same bytes."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from commandline import fails, ok, roofml
from fitted import a_calibration
from hypothesis import given
from hypothesis import strategies as st

from roofml.report.blocks import Figure, Page, Paragraph, Remarks, Section
from roofml.report.page import as_json, escaped, to_html
from roofml.traces.read import read_run
from roofml.util.display import Table
from roofml.util.errors import InputError
from roofml.util.package_data import data_folder

PLOTLY = importlib.util.find_spec("plotly") is not None
needs_plotly = pytest.mark.skipif(not PLOTLY, reason="a report's pictures need plotly: pip install 'roofml[report]'")
HOSTILE = [
    "<script>alert(1)</script>", "</script><script>alert(1)//", "<!--", "-->", '" onload="alert(1)', "' x='", "&lt;",
    "]]>", "</title><img src=http://x/y>", "\u202eabc", "\x1b[31m", "\x00", "a\nb", "<svg/onload=alert(1)>",
]  # fmt: skip


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text outside of scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if not self.found or self.found[-1][0] not in {"script", "style"}:
            self.text += data


def elements(text: str) -> Elements:
    parser = Elements()
    parser.feed(text)
    return parser


def page_of(text: str, *figures: Figure) -> Page:
    """A text in every place that there is."""
    table = Table(text, [text, text], [[text, text]], text)
    blocks = [Paragraph(text), Paragraph(text, "warning"), Remarks(text, [(text, text, text)]), table, *figures]
    return Page(text, text, [Section(text, blocks)])


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_stays_a_text(text: str) -> None:
    plain, hostile = elements(to_html(page_of("x" * len(text)))), elements(to_html(page_of(text)))
    assert [tag for tag, _ in hostile.found] == [tag for tag, _ in plain.found]
    assert [sorted(given) for _, given in hostile.found] == [sorted(given) for _, given in plain.found]
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", hostile.text)


@given(st.text())
def test_what_is_drawn_is_json_that_no_tag_ends(text: str) -> None:
    written = as_json({text: [text]})
    assert json.loads(written) == {text: [text]}
    assert not set("<>&") & set(written)
    assert "<" not in escaped(text)


def test_a_page_without_pictures_needs_no_library() -> None:
    text = to_html(page_of("x"))
    assert "<script" not in text
    assert len(text) < 20_000


def test_a_page_may_load_nothing() -> None:
    policies = [given for tag, given in elements(to_html(page_of("x"))).found if tag == "meta"]
    policy = next(given["content"] for given in policies if given.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy
    assert "unsafe-eval" not in policy


@pytest.mark.skipif(PLOTLY, reason="plotly is installed")
def test_pictures_without_the_library_are_refused() -> None:
    with pytest.raises(InputError, match=r"roofml\[report\]"):
        to_html(page_of("x", Figure("x", [])))


@needs_plotly
@pytest.mark.parametrize("text", HOSTILE)
def test_a_picture_s_texts_stay_in_its_data(text: str) -> None:
    figure = Figure(text, [{"type": "scatter", "x": [1], "y": [2], "name": text, "text": [text]}])
    found = elements(to_html(page_of("x", figure)))
    assert [tag for tag, _ in found.found].count("script") == 3
    assert not [given for _, given in found.found if {"src", "srcset", "data", "onload"} & set(given)]
    assert [given["href"] for _, given in found.found if "href" in given] == ["#part-0"]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The run that every clone has, and coefficients as if fitted to its first 60 %."""
    run = data_folder("sample_run")
    coeffs = tmp_path_factory.mktemp("report") / "coeffs.yaml"
    replace(a_calibration([read_run(run)]), train_fraction=0.6).save(coeffs)
    return run, coeffs


@needs_plotly
def test_the_command_writes_a_report_of_what_was_not_learned_from(sample: tuple[Path, Path], tmp_path: Path) -> None:
    run, coeffs = sample
    output = tmp_path / "report.html"
    document = ok("report", run, "--coeffs", coeffs, "-o", output, "--json").document
    assert document["output"] == str(output)
    for title in ("What was measured", "How far predictions are off", "Errors over time", "Provenance"):
        assert title in document["sections"]
    text = elements(output.read_text("utf-8")).text
    assert "judged on requests after the first 60% of each run" in text
    assert "These errors are in sample" not in text
    assert "The client sends the first prompt to the server before the run" in text
    assert "sha256" in text
    first = output.read_bytes()
    ok("report", run, "--coeffs", coeffs, "-o", output, "--json")
    assert output.read_bytes() == first


@needs_plotly
def test_errors_on_what_was_learned_from_are_called_so(sample: tuple[Path, Path], tmp_path: Path) -> None:
    run, coeffs = sample
    output = tmp_path / "report.html"
    ok("report", run, "--coeffs", coeffs, "-o", output, "--after", 0, "--quiet")
    assert "These errors are in sample" in elements(output.read_text("utf-8")).text


def test_what_cannot_be_reported_is_refused(sample: tuple[Path, Path], tmp_path: Path) -> None:
    run, coeffs = sample
    before = coeffs.read_bytes()
    fails("report", run, "--coeffs", coeffs, "-o", coeffs)
    fails("report", run, "--coeffs", coeffs, "-o", tmp_path)
    fails("report", run, "--coeffs", tmp_path / "none.yaml", "-o", tmp_path / "r.html")
    assert "no successful request" in fails("report", run, "--coeffs", coeffs, "--after", 1, "-o", tmp_path / "r").err
    assert roofml("report", run).status == 2
    assert coeffs.read_bytes() == before
    assert list(tmp_path.iterdir()) == []
