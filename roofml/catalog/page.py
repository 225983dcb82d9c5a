"""The page of a catalogue: one HTML file to browse it, offline, in light and dark, on a telephone too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from roofml.catalog.index import Failure, Row
from roofml.util.outside_text import for_line

STYLE = """
:root { color-scheme: light dark; --line: #8884; --far: #c2410c; --fair: #a16207; --good: #15803d; --soft: #8882; }
@media (prefers-color-scheme: dark) { :root { --far: #fb923c; --fair: #facc15; --good: #4ade80; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 90rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { vertical-align: bottom; } th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid; }
th[aria-sort=ascending] button::after { content: " ▲"; } th[aria-sort=descending] button::after { content: " ▼"; }
td.name { min-width: 11rem; overflow-wrap: anywhere; } td.wide { min-width: 14rem; } td.short { white-space: nowrap; }
.number { text-align: right; } td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.good span { color: var(--good); } .fair span { color: var(--fair); } .far span { color: var(--far); }
input { font: inherit; padding: .3rem .5rem; width: min(24rem, 100%); box-sizing: border-box; }
small, .soft { opacity: .75; } details { margin: .2rem 0; } tr[hidden] { display: none; }
@media (max-width: 40rem) {
  thead tr { display: flex; flex-wrap: wrap; column-gap: .4rem; } th { border: 0; padding: .1rem .3rem; }
  tbody tr { display: block; border: 1px solid var(--line); margin: .6rem 0; border-radius: .4rem; }
  tbody tr[hidden] { display: none; } td.name { min-width: 0; font-weight: 600; } td.wide { min-width: 0; }
  td, td.number { display: flex; justify-content: space-between; gap: 1rem; border: 0; text-align: right;
    white-space: normal; overflow-wrap: anywhere; }
  td[data-value=""] { display: none; }
  td::before { content: attr(data-label); font-weight: 600; text-align: left; white-space: nowrap; }
}
"""
SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.tHead.addEventListener("click", event => {
    const head = event.target.closest("th");
    if (!head) return;
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = row => row.cells[head.cellIndex].dataset.value;
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return down ? -order : order;
    });
    body.append(...rows);
  });
}
document.querySelector("#filter").addEventListener("input", event => {
  const words = event.target.value.toLowerCase().split(/\\s+/).filter(Boolean);
  for (const row of document.querySelectorAll("#deployments tbody tr"))
    row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word));
});
"""
GOOD_PCT, FAIR_PCT = 1.0, 3.0
"""Errors up to these are coloured so: twice what a fit usually comes to, and what a model without a trace does."""

_Cell = tuple[str, str, str]
"""What is shown (HTML), what is sorted by, and the cell's class."""


def page(rows: Sequence[Row], failures: Sequence[Failure]) -> str:
    """The page. Every text in it is escaped; it loads nothing."""
    deployments = _table("deployments", [_cells(row) for row in rows])
    failed = _table("failures", [_failure(failure) for failure in failures]) if failures else ""
    title = f"{len(rows)} calibrated deployment{'s' * (len(rows) != 1)}"
    runs = sum(row.runs for row in rows)
    requests = sum(row.requests for row in rows)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
script-src 'unsafe-inline'">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{title}</h1>
<p>{runs:,} runs, {requests:,} requests fitted; {len(failures)} not used. Errors are mean |error| of mean latencies over
a deployment's runs, on the last 40 % of each run by a fit of its first 60 %.</p>
<p><label>Show only <input id="filter" type="search" placeholder="model, GPU, gap ..."></label></p>
{deployments}
{"<h2>Not used, and why</h2>" + failed if failed else ""}
<script>{SCRIPT}</script>
</body>
</html>
"""


def _cells(row: Row) -> dict[str, _Cell]:
    served = f"{row.engine} {row.engine_version or ''}".strip()
    if row.settings:
        said = ", ".join(f"{name}={value}" for name, value in json.loads(row.settings).items())
        served += f", {said}"
    if row.kv_dtype.startswith("fp8"):
        served += f", KV {row.kv_dtype}"
    unsure = "; ".join([*row.misfit, *row.gaps])
    drift = row.drift_pct
    return {
        "model": _text(
            row.model, f'<a href="coeffs/{escape(row.name, quote=True)}.yaml">{escape(row.model)}</a>', "name"
        ),
        "GPU": _text(f"{row.tp} × {row.gpu}", kind="short"),
        "engine": _text(served),
        "E2E %": _error(row.held_out_e2e_pct),
        "TTFT %": _error(row.held_out_ttft_pct, 3.0),
        "TPOT %": _error(row.held_out_tpot_pct),
        "no trace, E2E %": _error(row.untraced_e2e_pct, 3.0),
        "runs": _number(row.runs, f"{row.runs}"),
        "requests": _number(row.requests, f"{row.requests:,}"),
        "batches": _number(row.batch[1], f"{row.batch[0]}-{row.batch[1]}"),
        "recorded": _text(row.recorded or "", kind="short"),
        "releases since": _number(row.releases_since, "" if row.releases_since is None else f"{row.releases_since}"),
        "drift %": _number(drift, "" if drift is None else f"{drift:+.2f}"),
        "gaps": _text(unsure, kind="wide"),
        "by prior": _text(", ".join(row.not_identified), _folded(row.not_identified)),
    }


def _failure(failure: Failure) -> dict[str, _Cell]:
    return {
        "folder": _text(failure.folder),
        "run": _text(failure.run),
        "stage": _text(failure.stage),
        "reason": _text(failure.reason),
    }


def _table(name: str, rows: Sequence[dict[str, _Cell]]) -> str:
    if not rows:
        return ""
    shown_heads = [head for head in rows[0] if any(row[head][1] for row in rows)]  # a column of nothing says nothing
    heads = "".join(
        f'<th scope="col" class="{rows[0][head][2]}"><button type="button">{escape(head)}</button></th>'
        for head in shown_heads
    )
    body = "\n".join(
        "<tr>"
        + "".join(
            f'<td data-label="{escape(head, quote=True)}" data-value="{escape(value, quote=True)}" class="{kind}">'
            f"<span>{shown}</span></td>"
            for head in shown_heads
            for shown, value, kind in (row[head],)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table class="sortable" id="{name}"><thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _text(text: str, shown: str | None = None, kind: str = "") -> _Cell:
    plain = for_line(text)
    return (escape(plain) if shown is None else shown), plain, kind


def _number(value: float | None, shown: str) -> _Cell:
    return escape(shown), "" if value is None else repr(value), "number"


def _error(value: float | None, times: float = 1.0) -> _Cell:
    if value is None:
        return "", "", "number"
    kind = "good" if value <= times * GOOD_PCT else "fair" if value <= times * FAIR_PCT else "far"
    return f"{value:.2f}", repr(value), f"number {kind}"


def _folded(names: Sequence[str]) -> str:
    """A long list behind its length."""
    if not names:
        return ""
    listed = escape(", ".join(names))
    return f"<details><summary>{len(names)}</summary><small>{listed}</small></details>"
