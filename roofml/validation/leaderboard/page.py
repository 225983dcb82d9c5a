"""A board as Markdown, as a picture and as tables for a terminal."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from roofml.util.display import Table
from roofml.util.outside_text import for_line
from roofml.validation.leaderboard.predictors import OURS

Row = Mapping[str, Any]

PROTOCOL_TITLES = {
    "temporal": "temporal: learned from the first 60 % of each run, judged on the last 20 %",
    "lowo": "lowo: learned from the model's other workloads, judged on the whole run",
    "lomo": "lomo: learned from the other models, judged on the whole run",
}
METRIC_TITLES = {"e2e": "E2E", "tpot": "TPOT", "ttft": "TTFT"}


def number(value: float) -> str:
    """Return about three figures: one table may hold errors of 0.01 % and of 100,000 %."""
    if value >= 9999.5:
        return f"{value:.1e}"
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def signed(value: float) -> str:
    """Return the number with its sign."""
    return ("+" if value >= 0 else "-") + number(abs(value))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], text: int = 1) -> list[str]:
    """Return the lines of a Markdown table whose first `text` columns are words and whose others are numbers."""
    return [
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * text + "---:|" * (len(columns) - text),
        *("| " + " | ".join(map(_cell, row)) + " |" for row in rows),
        "",
    ]


def _cell(text: str) -> str:
    """Return the text as one cell of a Markdown table."""
    return re.sub(r"(?<!\\)\|", r"\|", for_line(text))


def _outside(text: str) -> str:
    """Return a name from outside as Markdown that shows it as it is."""
    return re.sub(r"[\\`*<>\[\]|&]", r"\\\g<0>", for_line(text))


def _name(row: Row) -> str:
    return f"**{row['method']}**" if row["method"] == OURS else row["method"]


def markdown(board: Mapping[str, Any], command: str) -> str:
    """Return the whole page. `command` is the command line that made it."""
    normal = [run for run in board["runs"] if not run["saturated"]]
    lines = [
        "# Leaderboard",
        "",
        "Made by",
        "",
        "```",
        for_line(command),
        "```",
        "",
        f"{len(normal)} runs of {len({run['model'] for run in normal})} models"
        + (f" and {len(board['runs']) - len(normal)} at overload, apart" if len(normal) < len(board["runs"]) else "")
        + ". Errors in %. Of means: |error| of a run's mean, averaged over runs, with the 95 % interval of a bootstrap "
        "over blocks of requests. All methods are served by the same scheduler; they differ in the times of steps, and "
        "ours alone knows of cold starts.",
        "",
    ]
    for protocol, title in PROTOCOL_TITLES.items():
        if protocol in board["protocols"]:
            lines += _protocol(title, board["protocols"][protocol])
    lines += _intervals(board["protocols"])
    if "temporal" in board["protocols"]:
        lines += _ablation(board["protocols"])
        lines += _steps(board["protocols"]["temporal"]["methods"])
        lines += _contract(board["protocols"]["temporal"]["methods"])
    lines += _saturated(board["protocols"])
    lines += _names(board["protocols"])
    return "\n".join(lines).rstrip() + "\n"


def _protocol(title: str, results: Mapping[str, Any]) -> list[str]:
    rows = [row for row in results["methods"] if row["kind"] != "variant"]

    def mean(row: Row, metric: str) -> str:
        low, high = row[metric]["interval_95"]
        return f"{number(row[metric]['mean_abs_error_pct'])} ({number(low)} to {number(high)})"

    cells = [
        [
            _name(row),
            *(mean(row, metric) for metric in METRIC_TITLES),
            *(number(row["e2e"][f"{level}_abs_error_pct"]) for level in ("p50", "p90", "p99")),
            number(row["ttft"]["p99_abs_error_pct"]),
            number(row["e2e"]["request_mape_pct"]),
            signed(row["e2e"]["bias_pct"]),
            number(row["throughput_abs_error_pct"]),
            f"{row['p99_e2e_inversions']['inverted']} of {row['p99_e2e_inversions']['pairs']}",
        ]
        for row in rows
    ]
    columns = [
        "method",
        *(f"mean {title}" for title in METRIC_TITLES.values()),
        "E2E p50",
        "p90",
        "p99",
        "TTFT p99",
        "E2E of a request",
        "E2E bias",
        "tokens/s",
        "pairs of runs in the wrong order by p99 E2E",
    ]
    lines = [f"## {title}", "", *_table(columns, cells)]
    tests = results["against_best_other"]
    if tests:
        lines += [
            "Ours against the best baseline of each metric, chosen with the test in sight (Wilcoxon signed-rank, "
            "one-sided, Holm-corrected over the metrics):",
            "",
            *_table(
                ["metric", "best baseline", "ours", "its", "p over runs", "p over blocks of requests"],
                [
                    [
                        METRIC_TITLES[metric],
                        test["best_other"],
                        number(test["ours_pct"]),
                        number(test["best_other_pct"]),
                        *(f"{test[over]['p_holm']:.2g} ({test[over]['pairs']} pairs)" for over in ("runs", "blocks")),
                    ]
                    for metric, test in tests.items()
                ],
                text=2,
            ),
        ]
    return lines


def _intervals(protocols: Mapping[str, Any]) -> list[str]:
    """Return the table of how often our intervals hold, and how wide they are."""
    cells: list[list[str]] = []
    for protocol, results in protocols.items():
        for row in results["methods"]:
            for name, of in row.get("intervals", {}).items():
                kind, _, statistic = name.partition("_")
                title = "all" if name == "all" else f"{statistic} {METRIC_TITLES[kind]}"
                inside, rms = f"{of['inside_interval_90_pct']:.0f} %", f"{of['rms_z']:.2f}"
                cells.append([protocol, title, str(of["figures"]), inside, f"{number(of['half_width_90_pct'])} %", rms])
    if not cells:
        return []
    columns = ["protocol", "figure of a run", "figures", "inside", "half width, median", "rms z"]
    return [
        "## Intervals",
        "",
        "How many of our 90 % intervals hold the measurement, how wide they are, and the root mean square of errors in "
        "their standard deviations, over runs that are not saturated. How wide they must be was learned from the runs "
        "of other models (docs/intervals.md).",
        "",
        *_table(columns, cells, text=2),
    ]


def _ablation(protocols: Mapping[str, Any]) -> list[str]:
    """Return the table of our model's variants beside the default, by each protocol that has them."""
    temporal = {row["method"]: row for row in protocols["temporal"]["methods"] if row["kind"] != "baseline"}
    if len(temporal) < 2:
        return []
    elsewhere = [
        (protocol, {row["method"]: row for row in protocols[protocol]["methods"]})
        for protocol in ("lowo", "lomo")
        if protocol in protocols
    ]

    def saturated(row: Row, metric: str) -> str:
        return ", ".join(signed(run[metric]) for run in row["saturated"]) or "-"

    cells = [
        [
            _name(row),
            row["title"] + (f" ({', '.join(row['notes'])})" if row["notes"] else ""),
            str(row["free"]),
            *(number(row[metric]["mean_abs_error_pct"]) for metric in METRIC_TITLES),
            number(row["e2e"]["p99_abs_error_pct"]),
            *(number(rows[name]["e2e"]["mean_abs_error_pct"]) if name in rows else "-" for _, rows in elsewhere),
            *(number(rows[name]["ttft"]["p99_abs_error_pct"]) if name in rows else "-" for _, rows in elsewhere),
            saturated(row, "e2e"),
            saturated(row, "tpot"),
        ]
        # The default comes first, then the others by error.
        for name, row in sorted(temporal.items(), key=lambda item: item[0] != OURS)
    ]
    columns = [
        "variant",
        "what it is",
        "free",
        *(f"mean {title}" for title in METRIC_TITLES.values()),
        "p99 E2E",
        *(f"E2E, {protocol}" for protocol, _ in elsewhere),
        *(f"p99 TTFT, {protocol}" for protocol, _ in elsewhere),
        "E2E at overload",
        "TPOT at overload",
    ]
    return [
        "## What each part buys",
        "",
        "Protocol temporal where no other is named.",
        "",
        *_table(columns, cells, text=2),
    ]


def _steps(rows: Sequence[Row]) -> list[str]:
    tables = list(dict.fromkeys(name for row in rows for name in row.get("steps", {})))
    if not tables:
        return []
    kept = [row for row in rows if "steps" in row and row["kind"] != "variant"]
    lines = ["## Cycle times of sampled steps after the training part", ""]
    for name in tables:
        cells = [
            [
                _name(row),
                *(number(row["steps"][name][key]) for key in ("median_abs_error_pct", "mape_pct")),
                signed(row["steps"][name]["bias_pct"]),
                f"{row['steps'][name]['pearson_r']:.3f}",
            ]
            for row in sorted(kept, key=lambda row: row["steps"][name]["median_abs_error_pct"])
        ]
        lines += [
            f"{_outside(name)}:",
            "",
            *_table(["method", "median abs. error", "MAPE", "bias", "Pearson r"], cells),
        ]
    return lines


def _contract(rows: Sequence[Row]) -> list[str]:
    cells = [
        [_name(row), str(row["free"]), number(row["violations_pct"]), number(row["validation_abs_bias_pct"])]
        for row in rows
        if row["kind"] != "variant" and "violations_pct" in row and "validation_abs_bias_pct" in row
    ]
    if not cells:
        return []
    return [
        "## The contract with a simulator",
        "",
        "Violations: random steps that more work makes shorter. Bias: of E2E on the 20 % of each run between training "
        "and test, absolute, averaged over runs.",
        "",
        *_table(["method", "numbers learned", "violations, %", "bias on validation, %"], cells),
    ]


def _saturated(protocols: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for protocol, results in protocols.items():
        rows = [row for row in results["methods"] if row["saturated"] and row["kind"] != "variant"]
        cells = [
            [_name(row), *(signed(run[metric]) for metric in METRIC_TITLES)]
            for row in sorted(rows, key=lambda row: abs(row["saturated"][0]["e2e"]))
            for run in row["saturated"]
        ]
        if cells:
            runs = ", ".join(dict.fromkeys(_outside(run["run"]) for row in rows for run in row["saturated"]))
            lines += [f"{protocol}: {runs}", "", *_table(["method", *METRIC_TITLES.values()], cells)]
    return (
        ["## At overload", "", "Errors of the means, signed. No method learns from these runs.", "", *lines]
        if lines
        else []
    )


def _names(protocols: Mapping[str, Any]) -> list[str]:
    titles = {
        row["method"]: (row["title"], row["notes"])
        for results in protocols.values()
        for row in results["methods"]
        if row["kind"] == "baseline"
    }
    if not titles:
        return []
    rows = [
        [name, title + (f". Found: {'; '.join(notes)}" if notes else "")]
        for name, (title, notes) in sorted(titles.items())
    ]
    return [
        "## The baselines",
        "",
        "| name | what it is |",
        "|---|---|",
        *(f"| {_cell(a)} | {_cell(b)} |" for a, b in rows),
        "",
    ]


def picture(board: Mapping[str, Any]) -> bytes:
    """Return a PNG of the errors of mean E2E, TPOT and TTFT by method and protocol, with intervals.

    Needs matplotlib.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    protocols = board["protocols"]
    most = max(len(_shown(results)) for results in protocols.values())
    figure: Any = Figure(figsize=(11, 1.2 + 0.27 * most * len(protocols)), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(len(protocols), len(METRIC_TITLES), squeeze=False, sharex="col")
    for row, (protocol, results) in enumerate(protocols.items()):
        rows = _shown(results)[::-1]
        for column, (metric, title) in enumerate(METRIC_TITLES.items()):
            axis = axes[row][column]
            for place, entry in enumerate(rows):
                low, high = entry[metric]["interval_95"]
                value = max(entry[metric]["mean_abs_error_pct"], 0.01)
                ours = entry["method"] == OURS
                color = "#c0392b" if ours else "#34495e"
                axis.plot([max(low, 0.01), max(high, 0.01)], [place, place], color=color, linewidth=1.5)
                axis.plot([value], [place], "o", color=color, markersize=5)
                axis.annotate(number(entry[metric]["mean_abs_error_pct"]), (max(high, value), place), (4, -3),
                              textcoords="offset points", fontsize=7, color=color)  # fmt: skip
            axis.set_xscale("log")
            axis.set_yticks(range(len(rows)), [entry["method"] for entry in rows] if column == 0 else [""] * len(rows))
            axis.tick_params(labelsize=8)
            axis.grid(axis="x", alpha=0.3)
            axis.margins(x=0.3)
            axis.set_title(f"{protocol}: mean {title}, |error| %", fontsize=9)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110, format="png", metadata={"Software": None})
    return drawn.getvalue()


def _shown(results: Mapping[str, Any]) -> list[Row]:
    return [row for row in results["methods"] if row["kind"] != "variant"]


def summary_tables(board: dict[str, Any]) -> list[Table]:
    """Return the board for a terminal, one table a protocol."""
    tables: list[Table] = []
    for name, results in board["protocols"].items():
        rows = [
            [
                row["method"],
                row["kind"],
                *(number(row[metric]["mean_abs_error_pct"]) for metric in METRIC_TITLES),
                number(row["e2e"]["p99_abs_error_pct"]),
                number(row["e2e"]["request_mape_pct"]),
            ]
            for row in results["methods"]
        ]
        columns = ["method", "kind", *METRIC_TITLES.values(), "p99 E2E", "request |E2E|"]
        tests = [
            f"{METRIC_TITLES[metric]} {number(test['ours_pct'])} against {number(test['best_other_pct'])} of "
            f"{test['best_other']} (p = {test['runs']['p_holm']:.2g} over runs, {test['blocks']['p_holm']:.2g} blocks)"
            for metric, test in results["against_best_other"].items()
        ]
        tables.append(Table(PROTOCOL_TITLES[name], columns, rows, "; ".join(["mean absolute errors, %", *tests])))
    return tables
