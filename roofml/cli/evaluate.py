"""roofml evaluate: errors on requests the fit has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roofml.cli import options as o
from roofml.cli.console import OUT, note, pct, print_json, progress, table, us_range, warn
from roofml.cli.fit import Target
from roofml.cli.steps import Contexts, judged_rows, step_data, step_table
from roofml.util.errors import InputError

if TYPE_CHECKING:
    from roofml.calibration.fit import Fit
    from roofml.traces.run import Run
    from roofml.validation.cross_validation import RunReport, Setting

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
        str | None,
        typer.Option(
            help="temporal: fit each run's first share, judge the rest. lomo, lowo: leave one model, one workload out. "
            "zero-shot: use no trace of the model at all (the default without --coeffs)."
        ),
    ] = None,
    train_fraction: Annotated[
        float | None, typer.Option(help="Share to fit (temporal, default 0.6) or to skip (--coeffs, default 0).")
    ] = None,
    steps: Annotated[
        list[Path] | None, typer.Option(help="Sampled steps of a run, to judge cycle times as well (no lomo, lowo).")
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
    fresh: o.Fresh = None,
    output_tokens: o.Output = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Judge predictions on held-out requests: fit the first part of each run, or take --coeffs as they are."""
    from roofml.calibration.coefficients import read_coefficients
    from roofml.calibration.other_models import read_pooled
    from roofml.cli.reading import diagnose, warn_of, with_gpu
    from roofml.cli.replay import judge_with
    from roofml.traces import ServerOverrides
    from roofml.validation.cross_validation import document, lomo, lowo, setting_of, temporal, zero_shot
    from roofml.validation.splits import PROTOCOLS, between, groups
    from roofml.validation.splits import lomo as lomo_folds
    from roofml.validation.splits import lowo as lowo_folds

    if coeffs is not None and protocol is not None:
        raise InputError("--coeffs and --protocol: expected one of them; a protocol fits its own coefficients")
    if protocol is None and coeffs is None:
        protocol = "temporal" if train_fraction is not None or target is Target.blis else "zero-shot"
    if protocol is not None and protocol not in (*PROTOCOLS, "zero-shot"):
        raise InputError(f"--protocol {protocol!r}: expected {', '.join(PROTOCOLS)} or zero-shot")
    if target is Target.blis and protocol not in (None, "temporal"):
        raise InputError(f"--target blis: expected --protocol temporal, not {protocol}")
    if train_fraction is not None and protocol in ("lomo", "lowo"):
        raise InputError(f"--train-fraction: protocol {protocol} leaves out whole runs: leave it away")
    fraction = train_fraction if train_fraction is not None else (0.6 if protocol == "temporal" else 0.0)
    if not 0 <= fraction < 1 or (protocol == "temporal" and fraction == 0):
        raise InputError(f"--train-fraction {fraction:g}: expected at least 0 (more for temporal) and less than 1")
    if steps and (target is Target.blis or protocol in ("lomo", "lowo")):
        raise InputError("--steps: cycle times are judged with --coeffs and by the protocols temporal and zero-shot")
    given = None if coeffs is None else read_coefficients(coeffs)
    overrides = ServerOverrides(
        model, tp, max_num_seqs, max_num_batched_tokens, block_size, num_gpu_blocks, max_model_len, gpu,
        prefix_caching, async_scheduling, fresh, output_tokens,
    )  # fmt: skip
    diagnoses = diagnose(runs, overrides)
    if given is not None:
        diagnoses = [with_gpu(diagnosis, given.gpu) for diagnosis in diagnoses]
    sampled = step_data(steps or [], [d.run for d in diagnoses], Contexts.auto)
    folds = 0
    if given is None:
        # Whatever is wrong with the last group is said before the first is fitted.
        for group in groups(diagnoses):
            setting_of([d.run for d in group])
            for diagnosis in group:
                between(diagnosis.run, 0.0 if diagnosis.saturated and protocol == "temporal" else fraction)
        folds = {"temporal": len(groups(diagnoses)), "zero-shot": len(diagnoses)}.get(str(protocol), 0)
        folds = folds or len((lomo_folds if protocol == "lomo" else lowo_folds)(diagnoses))
        warn_of(diagnoses)
    with progress(quiet or as_json) as shown:
        task = shown.add_task("evaluating", total=max(1, folds))

        def on_fold(name: str) -> None:
            shown.update(task, description=name, advance=1)

        fits: list[Fit] = []
        if given is not None and coeffs is not None:
            reports, warnings = judge_with(given, coeffs, diagnoses, fraction, target)
            for text in warnings:
                warn(text)
        elif target is Target.blis:
            from roofml.validation.as_blis import temporal as temporal_as_blis

            reports = temporal_as_blis(diagnoses, fraction, on_fold)
        elif protocol == "temporal":
            reports, fits = temporal(diagnoses, fraction, on_fold, read_pooled().prior)
        elif protocol == "lomo":
            reports, fits = lomo(diagnoses, on_fold)
        elif protocol == "lowo":
            reports, fits = lowo(diagnoses, on_fold, read_pooled().prior)
        else:
            reports = zero_shot(diagnoses, read_pooled().prior, fraction, on_fold)
        if not all(found.converged for found in fits):
            note("a fit's schedule still moved in its last round")

    def known(where: Setting, run: Run) -> tuple[str, Any, float]:
        if given is not None:
            return str(coeffs), given.values, given.fit.paces.get(run.name, 1.0)
        for found in fits:
            if run.name in found.paces:
                return "fit", found.values, found.paces[run.name]
        return "prior", read_pooled().prior(where.model.name, where.gpu.name).values, 1.0

    cycles = judged_rows(sampled, [d.run for d in diagnoses], fraction, known)
    if as_json:
        print_json(document(protocol or "coeffs", fraction, reports) | ({"steps": cycles} if cycles else {}))
        return
    rest = f"judged on requests after the first {fraction:.0%}" if fraction else "judged on all requests"
    split_of = {
        None: f"coefficients {coeffs}, {rest}",
        "temporal": f"fitted on the first {fraction:.0%} of each run, judged on the rest",
        "lomo": "what the other models' runs say of each model",
        "lowo": "each run judged by a fit of its model's other runs",
        "zero-shot": f"without a trace of the model: physics and what other models taught, {rest}",
    }[protocol]
    print_reports(reports, f"{split_of}; errors in %, + is too slow")
    if cycles:
        OUT.print(step_table(cycles, "cycle times of sampled steps"))


def print_reports(reports: list[RunReport], caption: str) -> None:
    """Errors by run; saturated runs stand apart, under the summary of the others."""
    from roofml.validation.cross_validation import summary

    columns = ["run", "requests", *HEADINGS.values(), "request |E2E|"]
    uncertain = any(metric.interval_us for r in reports for metric in r.metrics.values())
    if uncertain:
        columns.append("E2E, 90 %")

    def row(r: RunReport) -> list[str]:
        errors = [pct(r.metrics[name].error_pct) if name in r.metrics else "-" for name in HEADINGS]
        interval = r.metrics["e2e_mean"].interval_us
        return [
            r.run,
            str(r.requests),
            *errors,
            f"{r.request_e2e_mape_pct:.2f}",
            *([us_range(*interval) if interval else ""] if uncertain else []),
        ]

    normal = [r for r in reports if not r.saturated]
    saturated = [r for r in reports if r.saturated]
    if normal:
        overall = summary(normal)
        rows = [row(r) for r in normal]
        for title, key in (("mean |error|", "mean_abs_error_pct"), ("worst", "max_abs_error_pct")):
            figures = [f"{overall[name][key]:.2f}" if name in overall else "-" for name in HEADINGS]
            rows.append([title, "", *figures, f"{overall['request_e2e_mape'][key]:.2f}", *([""] if uncertain else [])])
        if uncertain:
            covered = [r.metrics["e2e_mean"].covered for r in normal]
            caption += f"; measured E2E inside its interval in {sum(covered)} of {len(covered)} runs"
        OUT.print(table("", columns, rows, caption))
    if saturated:
        OUT.print(table("saturated runs, never fitted where others are", columns, [row(r) for r in saturated]))
