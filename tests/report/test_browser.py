"""A report in a real browser: it is drawn, fetches nothing, shows what the mouse is over, fits a phone and paper."""

from __future__ import annotations

import importlib.util
import io
import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, Browser, browser

from roofml.calibration.prediction import Prediction
from roofml.report.blocks import Page, Paragraph, Section
from roofml.report.figures import Curve, curve
from roofml.report.page import to_html
from roofml.util.display import Table

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian: chromium)"),
    pytest.mark.skipif(
        importlib.util.find_spec("plotly") is None, reason="pictures need plotly: pip install 'roofml[report]'"
    ),
]
NAME = "run-with-a-name-as-long-as-they-are-20260218-150304-codellama-34b-tp2-general"

LATENCIES = {"p95 <b>TTFT</b>": [2e4, 3e4, 6e4, 4e5], "mean TPOT": [1e4, 1.1e4, 1.4e4, 2e4]}
KNEE = Prediction(5.0, {"x": 0.01})


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up report of a table that is wider than a phone, and two pictures."""
    drawn = curve(
        Curve(
            [1.0, 2.0, 4.0, 8.0],
            "requests/s",
            LATENCIES,
            {"mean TPOT": 1.8e4},
            KNEE,
        )
    )
    table = Table("wide", [f"column {n}" for n in range(14)], [[NAME, *["123.456"] * 13]] * 3)
    page = Page(
        "A report", "In a sentence.", [Section("One", [Paragraph("x" * 300), table, drawn]), Section("Two", [drawn])]
    )
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(to_html(page), "utf-8")
    return path


@pytest.fixture(scope="module")
def page(report: Path) -> Generator[Browser]:
    with browser() as opened:
        opened.show(1280, 900)
        opened.open(report)
        opened.until("document.documentElement.dataset.drawn")
        yield opened


def test_it_is_drawn_and_nothing_is_fetched_or_forbidden(page: Browser) -> None:
    assert page.run("document.documentElement.dataset.drawn") == "2"
    assert page.run("document.querySelectorAll('.plot .scatterlayer .trace').length") == 4
    assert page.requested == []
    assert page.complaints == []


def test_the_mouse_shows_what_it_is_over(page: Browser) -> None:
    page.run("document.querySelector('#figure-0').scrollIntoView({block: 'center'})")
    place = page.run(
        "(() => {const b = document.querySelectorAll('#figure-0 .trace .point')[2].getBoundingClientRect();"
        "return [b.x + b.width / 2, b.y + b.height / 2]})()"
    )
    for step in (5, 0):
        page.call("Input.dispatchMouseEvent", type="mouseMoved", x=place[0] - step, y=place[1] - step)
    said = page.until("document.querySelector('#figure-0 .hoverlayer')?.textContent")
    assert "60 ms at 4 requests/s" in said


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_its_screen_in_light_and_dark(page: Browser, report: Path, width: int, dark: bool) -> None:
    page.show(width, 844, dark=dark, mobile=width < 600)
    page.open(report)
    page.until("document.documentElement.dataset.drawn")
    assert page.run("document.documentElement.scrollWidth") <= width  # tables scroll by themselves
    for part in (".plot svg", "h1", ".wide"):
        box: Any = page.run(f"document.querySelector('{part}').getBoundingClientRect().toJSON()")
        assert box["left"] >= 0
        assert box["right"] <= width + 1
    picture = page.screenshot()
    assert picture.startswith(b"\x89PNG")
    paper = page.run("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(18, 24, 30)") is dark
    ink = page.run("document.querySelector('#figure-0 .legendtext').style.fill")
    assert (ink == "rgb(223, 231, 238)") is dark


def test_a_screen_that_turns_dark_is_drawn_again(page: Browser, report: Path) -> None:
    page.show(1280, 900)
    page.open(report)
    page.until("document.documentElement.dataset.drawn")
    page.show(1280, 900, dark=True)
    page.until("document.querySelector('#figure-0 .legendtext').style.fill === 'rgb(223, 231, 238)'")


def test_paper_is_white_and_pictures_do_not_lie_on_texts(page: Browser, report: Path) -> None:
    page.show(1280, 900, dark=True)
    page.open(report)
    page.until("document.documentElement.dataset.drawn")
    assert page.printed().startswith(b"%PDF")
    page.call("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    heights = page.run(
        "[...document.querySelectorAll('.plot')].map(p => [p.getBoundingClientRect().height,"
        "p.querySelector('svg').getBoundingClientRect().height])"
    )
    assert all(inside <= box + 1 for box, inside in heights)


GOLDEN = Path(__file__).parent / "golden_pictures.json"
"""What pictures look like: light, dark and on a phone, each as CELLS shades from 0 (black) to 255.

Looked at, and written again where they are to look otherwise, by ROOFML_WRITE_GOLDEN=1.
"""
CELLS = (32, 12)
ALIKE = 0.88
"""Of `likeness`: with letters of another kind 0.91 to 1.00, without its knee or with another curve 0.87 at most."""
SCREENS = {"light": (1280, False), "dark": (1280, True), "phone": (390, False)}


def shades(page: Browser, report: Path, width: int, dark: bool) -> Any:
    """(rows, columns) how bright the first picture is, part by part."""
    image: Any = pytest.importorskip("PIL.Image", reason="comes with matplotlib")
    page.show(width, 844, dark=dark, mobile=width < 600)
    page.open(report)
    page.until("document.documentElement.dataset.drawn")
    box: Any = page.run("document.querySelector('#figure-0').getBoundingClientRect().toJSON()")
    top: Any = page.run("window.scrollY")
    shot = image.open(io.BytesIO(page.screenshot())).convert("L")
    corners = [box["left"], box["top"] + top, box["right"], box["bottom"] + top]
    return np.asarray(shot.crop([round(corner) for corner in corners]).resize(CELLS, image.Resampling.BOX), float)


def likeness(one: Any, other: Any) -> float:
    """How alike two pictures are drawn on their papers, 0 to 1: the cosine between what is not paper."""
    ink, also = one - np.median(one), other - np.median(other)
    return float((ink * also).sum() / np.sqrt((ink**2).sum() * (also**2).sum() + 1e-9))


@pytest.mark.parametrize("screen", SCREENS)
def test_pictures_look_as_they_did_when_somebody_looked_at_them(page: Browser, report: Path, screen: str) -> None:
    looks = shades(page, report, *SCREENS[screen])
    if os.environ.get("ROOFML_WRITE_GOLDEN"):
        known = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
        GOLDEN.write_text(json.dumps(known | {screen: np.rint(looks).astype(int).tolist()}) + "\n")
    golden = {name: np.array(rows, float) for name, rows in json.loads(GOLDEN.read_text()).items()}
    assert likeness(looks, golden[screen]) > ALIKE


def test_a_picture_that_looks_otherwise_is_told_apart(page: Browser, tmp_path: Path) -> None:
    """Curves of a server that is never full, and the same curves without the knee."""
    golden = np.array(json.loads(GOLDEN.read_text())["light"], float)
    levels, limits = [1.0, 2.0, 4.0, 8.0], {"mean TPOT": 1.8e4}
    flat = {"p95 <b>TTFT</b>": [2e4] * 4, "mean TPOT": [1e4] * 4}
    pictures = [
        curve(Curve(levels, "requests/s", flat, limits, KNEE)),
        curve(Curve(levels, "requests/s", LATENCIES, limits, None)),
    ]
    for place, drawn in enumerate(pictures):
        path = tmp_path / f"{place}.html"
        path.write_text(to_html(Page("A report", "In a sentence.", [Section("One", [drawn])])), "utf-8")
        assert likeness(shades(page, path, 1280, False), golden) < ALIKE


def test_pixels_are_those_of_pictures(page: Browser, report: Path) -> None:
    """Lines have their colours on the screen, not only in the document."""
    image: Any = pytest.importorskip("PIL.Image", reason="comes with matplotlib")
    page.show(1280, 900)
    page.open(report)
    page.until("document.documentElement.dataset.drawn")
    shot = image.open(io.BytesIO(page.screenshot())).convert("RGB")
    colours = shot.getcolors(1 << 24)
    for wanted in ((0x2F, 0x7F, 0xC1), (0xE0, 0x7B, 0x39)):
        assert sum(count for count, colour in colours if colour == wanted) > 200
