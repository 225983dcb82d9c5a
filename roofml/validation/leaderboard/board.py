"""The figures of a leaderboard, made from its cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from roofml.util.arrays import Floats
from roofml.validation.leaderboard.cells import Inputs, load
from roofml.validation.leaderboard.predictors import OURS, PREDICTORS, Predictor
from roofml.validation.report import METRICS
from roofml.validation.statistics import LATENCIES, bootstrap_interval, holm, interval_figures, inversions, wilcoxon

PROTOCOLS = ("temporal", "lomo", "lowo")
"""In the order of its tables."""


def board(inputs: Inputs, cells: Mapping[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    """Return every figure of the leaderboard as one JSON document. `cells`: (protocol, method) -> cell."""
    by_protocol: dict[str, Any] = {}
    for protocol in PROTOCOLS:
        names = [name for name in PREDICTORS if (protocol, name) in cells]
        if not names:
            continue
        rows = {name: _summary(PREDICTORS[name], cells[protocol, name], inputs.seed) for name in names}
        by_protocol[protocol] = {
            "methods": sorted(rows.values(), key=lambda row: row["e2e"]["mean_abs_error_pct"]),
            "against_best_other": _tests({name: cells[protocol, name] for name in names}),
        }
    loaded = load(inputs)
    return {
        "runs": [
            {
                "run": run.name,
                "model": run.server.model,
                "requests": len(run),
                "saturated": run.saturated,
            }
            for run in loaded.runs
        ],
        "gpu": inputs.gpu,
        "seed": inputs.seed,
        "protocols": by_protocol,
    }


def _summary(predictor: Predictor, cell: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return a method's row: its errors over the runs that are not saturated and, apart, of the saturated runs."""
    normal = [row for row in cell["runs"] if not row["saturated"]]
    saturated = [row for row in cell["runs"] if row["saturated"]]
    result: dict[str, Any] = {"method": predictor.name, "title": predictor.title, "kind": predictor.kind}
    result["free"] = max(fold["free"] for fold in cell["folds"])
    result["notes"] = sorted({fold["note"] for fold in cell["folds"] if fold["note"]})
    for metric in LATENCIES:
        interval = bootstrap_interval([_arrays(row, metric) for row in normal], seed=seed)
        errors = [abs(row["figures"][metric]["mean"]["error_pct"]) for row in normal]
        result[metric] = {
            "mean_abs_error_pct": interval.estimate,
            "interval_95": [interval.low, interval.high],
            "worst_pct": max(errors),
            "bias_pct": float(np.mean([row["figures"][metric]["mean"]["error_pct"] for row in normal])),
            "request_mape_pct": float(np.mean([row["figures"][metric]["mape_pct"] for row in normal])),
            **{
                f"{level}_abs_error_pct": float(
                    np.mean([abs(row["figures"][metric][level]["error_pct"]) for row in normal])
                )
                for level in ("p50", "p90", "p99")
            },
        }
    result["throughput_abs_error_pct"] = float(
        np.mean([abs(row["figures"]["throughput"]["error_pct"]) for row in normal])
    )
    p99 = [row["figures"]["e2e"]["p99"] for row in normal]
    order = inversions(np.array([x["measured_us"] for x in p99]), np.array([x["predicted_us"] for x in p99]))
    result["p99_e2e_inversions"] = {"inverted": order.inverted, "pairs": order.pairs, "tau": order.tau}
    result["saturated"] = [
        {"run": row["run"], **{metric: row["figures"][metric]["mean"]["error_pct"] for metric in LATENCIES}}
        for row in saturated
    ]
    of_runs = [row["intervals"] for row in normal if "intervals" in row]
    if of_runs:
        names = [name for name in METRICS if any(name in of_run for of_run in of_runs)]
        chosen = {name: [of_run[name] for of_run in of_runs if name in of_run] for name in names}
        chosen["all"] = [row for rows in chosen.values() for row in rows]
        result["intervals"] = {
            name: {"figures": len(rows), **interval_figures(*np.array(rows, np.float64).T)}
            for name, rows in chosen.items()
        }
    tables = {name: value for fold in cell["folds"] for name, value in fold.get("steps", {}).items()}
    if tables:
        result["steps"] = tables
    if all("violations_pct" in fold for fold in cell["folds"]):
        result["violations_pct"] = float(np.mean([fold["violations_pct"] for fold in cell["folds"]]))
    validation = [abs(bias) for fold in cell["folds"] for bias in fold["validation"].values()]
    if validation:
        result["validation_abs_bias_pct"] = float(np.mean(validation))
    return result


def _arrays(row: Mapping[str, Any], metric: str) -> tuple[Floats, Floats]:
    measured, predicted = row["blocks"][metric]
    return np.array(measured, np.float64), np.array(predicted, np.float64)


def _errors(cell: Mapping[str, Any], metric: str, over: str) -> Floats:
    """Return the |error| of each unit, %. Units are runs or all runs' blocks of requests, without saturated runs."""
    normal = [row for row in cell["runs"] if not row["saturated"]]
    pairs = [_arrays(row, metric) for row in normal]
    if over == "runs":
        pairs = [(m.sum(keepdims=True), p.sum(keepdims=True)) for m, p in pairs]
    return np.concatenate([100 * np.abs(p / m - 1) for m, p in pairs])


def _tests(cells: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Test ours against the best baseline by metric: signed-rank tests over runs and over blocks, Holm-corrected.

    The best baseline has the smallest mean error over runs. It is chosen on the same data as the test, in its favour.
    """
    others = [name for name in cells if PREDICTORS[name].kind == "baseline"]
    if OURS not in cells or not others:
        return {}
    result: dict[str, Any] = {}
    for metric in LATENCIES:
        best = min(others, key=lambda name: float(np.mean(_errors(cells[name], metric, "runs"))))
        tests = {
            over: wilcoxon(_errors(cells[OURS], metric, over), _errors(cells[best], metric, over))
            for over in ("runs", "blocks")
        }
        result[metric] = {
            "best_other": best,
            "ours_pct": float(np.mean(_errors(cells[OURS], metric, "runs"))),
            "best_other_pct": float(np.mean(_errors(cells[best], metric, "runs"))),
            **{
                over: {"p": test.p, "median_difference_pct": test.median_difference, "pairs": test.n}
                for over, test in tests.items()
            },
        }
    for over in ("runs", "blocks"):
        corrected = holm(np.array([float(entry[over]["p"]) for entry in result.values()]))
        for entry, p in zip(result.values(), corrected, strict=True):
            entry[over]["p_holm"] = float(p)
    return result
