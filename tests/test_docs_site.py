"""The docs site builds strictly, loads nothing from another host, and a broken link or reference fails the build."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in NEEDED),
        reason="the docs site needs MkDocs: pip install -e '.[docs]'",
    ),
]


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of the checkout `root` strictly."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", root / "mkdocs.yml", "-d", site],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Loads(HTMLParser):
    """What a page makes the browser load, as against what it links to."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        names = ("href",) if tag == "link" else ("src", "srcset", "poster", "data")
        if tag != "link" or given.get("rel") not in {"canonical", "next", "prev"}:
            self.urls += [value for name in names if (value := given.get(name))]


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    pages, styles = list(site.rglob("*.html")), list(site.rglob("*.css"))
    assert len(pages) > 30
    assert styles
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text("utf-8"))
        assert loads.urls
        away = [url for url in loads.urls if re.match(r"\w+:", url) or url.startswith("//")]
        assert not [url for url in away if not url.startswith("data:")], page
    for style in styles:
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", style.read_text("utf-8")), style


def test_generated_pages_say_what_the_sources_say(site: Path) -> None:
    commands = (site / "commands" / "index.html").read_text("utf-8")
    assert 'id="bench-import"' in commands
    assert "--train-fraction" in commands
    picture = (site / "how_it_works" / "index.html").read_text("utf-8")
    for room in sorted(path.parent.name for path in (ROOT / "roofml").glob("*/__init__.py")):
        assert f'href="../reference/{room}/"' in picture
        assert f'id="roofml.{room}"' in (site / "reference" / room / "index.html").read_text("utf-8")
    assert 'id="roofml.traces.run.Run"' in (site / "python" / "index.html").read_text("utf-8")


def test_result_pages_are_passed_on_as_they_are(site: Path) -> None:
    assert (site / "leaderboard.json").read_bytes() == (ROOT / "docs" / "leaderboard.json").read_bytes()


def test_a_broken_link_anchor_or_reference_fails_the_build(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    for name in ("roofml", "tests", "CONTRIBUTING.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    with (tmp_path / "docs" / "index.md").open("a", encoding="utf-8") as page:
        page.write("\n[gone](no_such_page.md), [moved](commands.md#no-such-command), [name][roofml.no_such_name]\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    for fault in ("no_such_page.md", "#no-such-command", "roofml.no_such_name"):
        assert re.search(rf"WARNING.*{re.escape(fault)}", done.stderr), done.stderr
