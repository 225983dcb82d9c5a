"""The sections of a report, each from what another room computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from roofml.calibration.calibration import Calibration
from roofml.export.closed_loop import closed_loop, ladder
from roofml.export.subject import Lengths, Subject
from roofml.latency.batch import Batch
from roofml.report.blocks import Block, Paragraph, Remarks, Section
from roofml.report.figures import Curve, accuracy, components, curve, residuals
from roofml.traces.run import Run
from roofml.traces.selection import Selection
from roofml.util.digest import digest
from roofml.util.display import Table, digits, us
from roofml.util.outside_text import for_line, for_shell
from roofml.util.version import __version__
from roofml.validation.evaluation import Evaluation, ReplayedRun

MOST_PICTURES = 12
"""Runs whose errors over time are drawn."""


def measured(runs: Sequence[Run]) -> Section:
    """What was recorded, what the doctor found, and what it mended."""
    rows: list[list[str]] = []
    for number, run in enumerate(runs, 1):
        means = [run.means[f"mean_{kind}_us"] for kind in ("ttft", "tpot", "e2e")]
        shown = [us(mean) if mean is not None else "-" for mean in means]
        state = "at overload" if run.saturated else "normal"
        rows.append([f"{number}  {run.name}", str(len(run)), str(int(run.ok.sum())), *shown, state])
    columns = ["run", "requests", "measured", "mean TTFT", "mean TPOT", "mean E2E", "load"]
    blocks: list[Block] = [Table("", columns, rows)]
    for run in runs:
        found = [(each.severity, each.summary, each.advice) for each in run.findings]
        if found:
            blocks.append(Remarks(f"{run.name}: what the trace says, and what was done", found))
    if len(blocks) == 1:
        blocks.append(Paragraph("Nothing in the traces had to be mended."))
    return Section("What was measured", blocks)


def accurate(evaluation: Evaluation, calibration: Calibration, runs: Sequence[Run], after: float) -> Section:
    """How far predictions are off, and whether these requests were learned from."""
    learned = {seen.identity for seen in calibration.runs}
    known = [run for run in runs if run.identity in learned]
    blocks: list[Block] = []
    if known and after < calibration.train_fraction:
        share = f"the first {calibration.train_fraction:.0%} of " if calibration.train_fraction < 1 else ""
        blocks.append(
            Paragraph(
                f"These errors are in sample: the calibration was fitted to {share}{len(known)} of the {len(runs)} "
                "runs, and they are judged on the same requests.",
                "warning",
            )
        )
    blocks += [Paragraph(text, "warning") for text in evaluation.warnings]
    return Section("How far predictions are off", [*blocks, accuracy(evaluation.runs), *evaluation.tables()])


def step_parts(calibration: Calibration, runs: Sequence[Run]) -> Section:
    """Where the time of a step goes, from one request to a full batch."""
    context = int(np.mean([run.prompt_tokens.mean() + run.output_tokens.mean() / 2 for run in runs]))
    most = max(run.server.max_num_seqs for run in runs)
    held = min(run.server.num_gpu_blocks * run.server.block_size // max(1, context) for run in runs)
    most = max(1, min(most, held, *(run.server.max_num_batched_tokens for run in runs)))
    breakdown = calibration.step_time(Batch(decode=[(context, max(1, most // 2))]))
    table = breakdown.tables()[0]
    titled = Table(f"a step of {max(1, most // 2)} requests", table.columns, table.rows, table.caption)
    return Section("Where a step's time goes", [components(calibration, context, most), titled])


def over_time(replayed: Sequence[ReplayedRun], judged: Sequence[Selection]) -> Section:
    """Errors of each run over its time: a server that changed is seen here."""
    pairs = list(zip(replayed, judged, strict=True))
    blocks: list[Block] = [residuals(selection, served.predicted) for served, selection in pairs[:MOST_PICTURES]]
    if len(pairs) > MOST_PICTURES:
        blocks.append(Paragraph(f"The first {MOST_PICTURES} of {len(pairs)} runs are drawn."))
    return Section("Errors over time", blocks)


def closed_loops(calibration: Calibration, run: Run) -> Section:
    """Latency over the number of clients, with a run's server and lengths."""
    subject = Subject(calibration, run.server, Lengths(run.prompt_tokens, run.output_tokens, run.name), run)
    loops = [closed_loop(subject, clients) for clients in ladder(subject.most_at_once)]
    drawn = Curve(
        [float(loop.clients) for loop in loops],
        "clients",
        {
            "mean TTFT": [loop.mean_ttft_us for loop in loops],
            "mean TPOT": [loop.mean_tpot_us for loop in loops],
        },
        {},
    )
    text = (
        f"Closed loops on the server of {run.name}, with prompts and answers as long as there and no shared prompts: "
        "each client sends its next request when its last one is answered."
    )
    return Section("Latency over load", [Paragraph(text), curve(drawn)])


def parameters(calibration: Calibration) -> Section:
    """What the data decided, and what the priors did."""
    return Section("The calibration", calibration.tables())


def provenance(calibration: Calibration, runs: Sequence[Run], words: Sequence[str]) -> Section:
    """What this is made of, by digest: the same input gives the same page."""
    deployment, posterior = calibration.deployment, calibration.posterior
    engine = deployment.engine
    rows = [
        ["made by", f"roofml {__version__}: {for_line(for_shell(words))}"],
        ["calibration", calibration.source],
        ["model", f"{deployment.model.name}, asked for as {deployment.hf_repo}"],
        ["config.json, sha256", deployment.model.config_sha256],
        ["GPU", f"{deployment.gpu.name}, {deployment.parallel.said}"],
        ["datasheet, sha256", deployment.gpu.sheet_sha256],
        ["kernel tables, sha256", deployment.kernels_sha256],
        [
            "engine",
            f"{engine.name} {engine.version or '(version not said)'}, {engine.dtype}, KV cache {engine.kv_dtype}",
        ],
        ["prior", posterior.prior.source],
    ]
    if calibration.fitted:
        share = calibration.train_fraction
        rows += [
            [
                "fitted on",
                f"{posterior.requests} requests, the first {share:.0%} of each of {len(calibration.runs)} runs",
            ],
            ["converged", f"{'yes' if calibration.converged else 'no'}, after {posterior.rounds} rounds"],
            ["decided by the prior", ", ".join(calibration.not_identified) or "nothing"],
        ]
        rows += [
            [f"range seen, {name.replace('_', ' ')}", f"{digits(low)} to {digits(high)}"]
            for name, (low, high) in posterior.valid.items()
        ]
    rows += [
        [f"run {number}, digest", f"{run.identity or digest(run.name)}  {run.name}"]
        for number, run in enumerate(runs, 1)
    ]
    return Section("Provenance", [Table("", ["what", ""], [[name, for_line(text)] for name, text in rows])])
