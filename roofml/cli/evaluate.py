"""roofml evaluate: errors on requests the fit has not seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from roofml.cli import options as o
from roofml.cli.console import OUT, note, pct, print_json, progress, table, warn
from roofml.cli.fit import Target
from roofml.errors import InputError

if TYPE_CHECKING:
    from roofml.evaluate import RunReport

PROTOCOLS = ("temporal",)
HEADINGS = {
    "e2e_mean": "E2E",
    "ttft_mean": "TTFT",
    "tpot_mean": "TPOT",
    "e2e_p99": "p99 E2E",
    "ttft_p99": "p99 TTFT",
    "tpot_p99": "p99 TPOT",
}


def evaluate(
    runs: o.Runs,
    coeffs: o.Coeffs = None,
    protocol: Annotated[
        str | None, typer.Option(help="temporal: fit each run's first share, judge the rest. Default without --coeffs.")
    ] = None,
    train_fraction: Annotated[
        float | None, typer.Option(help="Share to fit (temporal, default 0.6) or to skip (--coeffs, default 0).")
    ] = None,
    target: Annotated[Target, typer.Option(help="blis: BLIS's coefficients in BLIS's way of running.")] = Target.native,
    gpu: o.Gpu = None,
    model: o.Model = None,
    tp: o.Tp = None,
    max_num_seqs: o.MaxSeqs = None,
    max_num_batched_tokens: o.MaxTokens = None,
    block_size: o.BlockSize = None,
    num_gpu_blocks: o.Blocks = None,
    max_model_len: o.MaxLen = None,
    prefix_caching: o.Prefix = None,
    async_scheduling: o.Async = None,
    output_tokens: o.Output = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Judge predictions on held-out requests: fit the first part of each run, or take --coeffs as they are."""
    from roofml.cli.reading import diagnose, warn_of
    from roofml.cli.replay import judge_with
    from roofml.coefficients import read_coefficients
    from roofml.evaluate import document, setting_of, temporal
    from roofml.protocols import between, groups
    from roofml.runs import ServerOverrides

    if coeffs is not None and protocol is not None:
        raise InputError("--coeffs and --protocol: expected one of them; a protocol fits its own coefficients")
    if protocol is not None and protocol not in PROTOCOLS:
        raise InputError(f"--protocol {protocol!r}: not available, expected {', '.join(PROTOCOLS)}")
    fraction = train_fraction if train_fraction is not None else (0.0 if coeffs is not None else 0.6)
    if not 0 <= fraction < 1 or (coeffs is None and fraction == 0):
        raise InputError(f"--train-fraction {fraction:g}: expected more than 0 (0 with --coeffs) and less than 1")
    given = None if coeffs is None else read_coefficients(coeffs)
    overrides = ServerOverrides(
        model, tp, max_num_seqs, max_num_batched_tokens, block_size, num_gpu_blocks, max_model_len, gpu,
        prefix_caching, async_scheduling, output_tokens,
    )  # fmt: skip
    diagnoses = diagnose(runs, overrides)
    if given is None:
        # Whatever is wrong with the last group is said before the first is fitted.
        for group in groups(diagnoses):
            setting_of([d.run for d in group])
            for diagnosis in group:
                between(diagnosis.run, 0.0 if diagnosis.saturated else fraction)
        warn_of(diagnoses)
    with progress(quiet or as_json) as shown:
        task = shown.add_task("evaluating", total=len(groups(diagnoses)))

        def on_group(name: str) -> None:
            shown.update(task, description=name, advance=1)

        if given is not None and coeffs is not None:
            reports, warnings = judge_with(given, coeffs, diagnoses, fraction, target)
            for text in warnings:
                warn(text)
        elif target is Target.blis:
            from roofml.blis.evaluate import temporal as temporal_as_blis

            reports = temporal_as_blis(diagnoses, fraction, on_group)
        else:
            reports, fits = temporal(diagnoses, fraction, on_group)
            if not all(found.converged for found in fits):
                note("a fit's schedule still moved in its last round")
    name = "coeffs" if coeffs is not None else "temporal"
    if as_json:
        print_json(document(name, fraction, reports))
        return
    split_of = (
        f"fitted on the first {fraction:.0%} of each run, judged on the rest"
        if coeffs is None
        else f"coefficients {coeffs}, judged on requests after the first {fraction:.0%}"
    )
    print_reports(reports, f"{split_of}; errors in %, + is too slow")


def print_reports(reports: list[RunReport], caption: str) -> None:
    """Errors by run; saturated runs stand apart, under the summary of the others."""
    from roofml.evaluate import summary

    columns = ["run", "requests", *HEADINGS.values(), "|E2E| of a request"]

    def row(r: RunReport) -> list[str]:
        errors = [pct(r.metrics[name].error_pct) if name in r.metrics else "-" for name in HEADINGS]
        return [r.run, str(r.requests), *errors, f"{r.request_e2e_mape_pct:.2f}"]

    normal = [r for r in reports if not r.saturated]
    saturated = [r for r in reports if r.saturated]
    if normal:
        overall = summary(normal)
        rows = [row(r) for r in normal]
        for title, key in (("mean |error|", "mean_abs_error_pct"), ("worst", "max_abs_error_pct")):
            figures = [f"{overall[name][key]:.2f}" if name in overall else "-" for name in HEADINGS]
            rows.append([title, "", *figures, f"{overall['request_e2e_mape'][key]:.2f}"])
        OUT.print(table("", columns, rows, caption))
    if saturated:
        OUT.print(table("saturated runs, never fitted where others are", columns, [row(r) for r in saturated]))
