"""The index and the page say the same, and neither can be made to say more by what is in a trace."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import CHROMIUM, browser
from catalogued import row

from roofml.catalog.index import Failure, index_bytes, read_index
from roofml.catalog.page import page
from roofml.jobs.places import LocalPlace

EVIL = '<img src=x onerror="alert(1)">'
ROWS = [
    row(name="a", model="alpha", held_out_e2e_pct=0.31, requests=900),
    row(
        name="b", model=f"beta {EVIL}", held_out_e2e_pct=4.0, drift_pct=-1.5, gaps=[f"no batch {EVIL}"], requests=20_000
    ),
    row(name="c", model="gamma", held_out_e2e_pct=None, held_out_ttft_pct=None, recorded=None, requests=3),
]
FAILURES = [Failure("broken/x", "run", "read", f"trace.csv: {EVIL}")]


def test_the_index_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "index.parquet").write_bytes(index_bytes(ROWS))
    assert read_index(LocalPlace(tmp_path), "index.parquet") == ROWS
    assert index_bytes(ROWS) == index_bytes(list(ROWS))


def test_every_text_is_escaped_and_nothing_is_loaded() -> None:
    text = page(ROWS, FAILURES)
    assert EVIL not in text
    assert text.count("&lt;img src=x") >= 3
    assert "://" not in text
    assert "default-src 'none'" in text


def test_a_page_of_nothing_used_and_nothing_failed() -> None:
    assert "Not used" not in page(ROWS, [])
    assert "0 calibrated deployments" in page([], FAILURES)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian: chromium)")
def test_it_sorts_filters_and_fits_a_phone(tmp_path: Path) -> None:
    file = tmp_path / "index.html"
    file.write_text(page(ROWS, FAILURES), "utf-8")
    names = (
        "[...document.querySelectorAll('#deployments tbody tr')].filter(r => !r.hidden).map(r => r.cells[0].innerText)"
    )
    with browser() as opened:
        opened.show(1280, 900)
        opened.open(file)

        def sort_by(head: str) -> list[str]:
            opened.run(
                f"[...document.querySelectorAll('#deployments th button')].find(b => b.innerText === '{head}').click()"
            )
            return [name.split()[0] for name in opened.run(names)]

        assert sort_by("E2E %") == ["alpha", "beta", "gamma"]
        assert sort_by("E2E %") == ["beta", "alpha", "gamma"]  # what is not known stays last
        assert sort_by("requests") == ["gamma", "alpha", "beta"]  # as numbers, not as texts
        opened.run("document.querySelector('#filter').value = 'alpha'")
        opened.run("document.querySelector('#filter').dispatchEvent(new Event('input'))")
        assert opened.run(names) == ["alpha"]
        opened.show(390, 800, dark=True, mobile=True)
        assert opened.run("document.documentElement.scrollWidth <= 390")
        assert opened.requested == []
        assert opened.complaints == []
