"""roofml replay: serve a run again with given coefficients."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roofml.cli import options as o
from roofml.cli.console import OUT, digits, pct, print_json, progress, table, us, us_range, warn
from roofml.cli.fit import Target
from roofml.util.errors import InputError

if TYPE_CHECKING:
    from roofml.calibration.coefficients import Coefficients
    from roofml.engine.replay import Replay
    from roofml.traces.doctor import Diagnosis
    from roofml.traces.run import Run
    from roofml.validation.cross_validation import RunReport, Setting


def replay(
    run: o.OneRun,
    coeffs: o.Coeffs = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Predicted requests (CSV, µs).")] = None,
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
    """Serve a run's requests again, with vLLM's scheduler and the coefficients' step times, and compare.

    Without --coeffs from physics and what other models taught, with an interval for every figure.
    """
    import numpy as np

    from roofml.calibration.coefficients import read_coefficients
    from roofml.calibration.other_models import read_pooled
    from roofml.cli.reading import diagnose, warn_of, with_gpu
    from roofml.engine.replay import replay as replay_run
    from roofml.latency.formula import scaled
    from roofml.latency.parameters import split
    from roofml.traces import ServerOverrides
    from roofml.util.files import check_writable, write_atomically
    from roofml.validation.cross_validation import DRAWS, replays, report, setting_of, widened
    from roofml.validation.splits import between

    if output is not None:
        check_writable(output)
    given = None if coeffs is None else read_coefficients(coeffs)
    overrides = ServerOverrides(
        model, tp, max_num_seqs, max_num_batched_tokens, block_size, num_gpu_blocks, max_model_len, gpu,
        prefix_caching, async_scheduling, fresh, output_tokens,
    )  # fmt: skip
    diagnosis = diagnose([run], overrides)[0]
    draws: list[Replay] = []
    if given is not None and coeffs is not None:
        diagnosis = with_gpu(diagnosis, given.gpu)
        where = setting_for(given, coeffs, [diagnosis.run])
        step, request = given.parameters()
        step = scaled(step, given.fit.paces.get(diagnosis.run.name, 1.0))
    else:
        where = setting_of([diagnosis.run])
        prior = widened(read_pooled().prior(where.model.name, where.gpu.name), where)
        step, request = split(prior.values)
        draws = replays(diagnosis.run, where, prior.draws(DRAWS))
    warn_of([diagnosis])
    finished = np.zeros(1, np.int64)
    with progress(quiet or as_json) as shown, _Watched(shown, finished, len(diagnosis.run)):
        predicted = replay_run(diagnosis.run, where.tables, step, request, progress=finished)
    for text in () if given is None else given.outside(predicted.schedule.steps):
        warn(text)
    judged = report(diagnosis.run, predicted, between(diagnosis.run, 0.0), diagnosis.saturated, draws)
    if output is not None:
        write_atomically(output, _csv(diagnosis.run, predicted))
    facts = _facts(diagnosis.run, predicted)
    if as_json:
        from roofml.validation.cross_validation import document

        print_json(
            {**document("replay", 0.0, [judged])["runs"][0], "schedule": facts, "output": output and str(output)}
        )
    elif output is None or not quiet:
        rows = [
            [
                name,
                us(metric.measured_us),
                us(metric.predicted_us),
                pct(metric.error_pct),
                *([us_range(*metric.interval_us)] if metric.interval_us else []),
            ]
            for name, metric in judged.metrics.items()
        ]
        caption = ", ".join(
            f"{key.replace('_', ' ')} {f'{value:,.0f}' if value == int(value) else digits(value, 4)}"
            for key, value in facts.items()
        )
        OUT.print(
            table(
                diagnosis.run.name,
                ["latency", "measured", "predicted", "error %", *(["90 % interval"] if draws else [])],
                rows,
                caption,
            )
        )


def setting_for(given: Coefficients, path: Path, runs: Sequence[Run]) -> Setting:
    """The physics of the coefficients' pair. Raises InputError where a run is of another, or the config has changed."""
    from roofml.hardware.gpu import load_gpu
    from roofml.validation.cross_validation import setting_of

    for run in runs:
        server = run.server
        pairs = {
            "model": (server.model.rsplit("/", 1)[-1].lower(), given.model.hf_repo.rsplit("/", 1)[-1].lower()),
            "tensor parallel size": (server.tensor_parallel, given.tensor_parallel),
            "GPU": (load_gpu(server.gpu).name if server.gpu else given.gpu, given.gpu),
        }
        for name, (ours, theirs) in pairs.items():
            if ours != theirs:
                raise InputError(f"{run.name}: {name} {ours} is not that of {path}: {theirs}")
    where = setting_of(runs)
    if where.model.config_sha256 != given.model.config_sha256:
        warn(f"{path}: was fitted with another config.json of {given.model.name}")
    return where


def judge_with(
    given: Coefficients, path: Path, diagnoses: Sequence[Diagnosis], after: float, target: Target
) -> tuple[list[RunReport], list[str]]:
    """Reports of the coefficients read from `path` on each run, and what to warn of."""
    from roofml.cli.reading import warn_of, with_gpu
    from roofml.validation.cross_validation import with_parameters
    from roofml.validation.splits import between

    if target is Target.blis and given.blis is None:
        raise InputError(f"{path}: blis: missing; fit with --target blis")
    diagnoses = [with_gpu(diagnosis, given.gpu) for diagnosis in diagnoses]
    for diagnosis in diagnoses:
        between(diagnosis.run, after)
    where = setting_for(given, path, [d.run for d in diagnoses])
    warn_of(diagnoses)
    if given.blis is not None and target is Target.blis:
        from roofml.validation.as_blis import coefficients_in, judge

        coefficients = coefficients_in(given.blis, str(path))
        return [judge(d, coefficients, after) for d in diagnoses], []
    reports, replays = with_parameters(diagnoses, where, *given.parameters(), after, paces=given.fit.paces)
    warnings = [
        f"{d.run.name}: {text}"
        for d, r in zip(diagnoses, replays, strict=True)
        for text in given.outside(r.schedule.steps)
    ]
    return reports, warnings


class _Watched:
    """While inside, show how many requests the compiled loop has finished: it keeps the count for us."""

    def __init__(self, shown: Any, finished: Any, total: int) -> None:
        self.task = shown.add_task("replaying", total=total)
        self.shown, self.finished, self.done = shown, finished, threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self.done.wait(0.1):
            self.shown.update(self.task, completed=int(self.finished[0]))

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()


def _facts(run: Run, predicted: Replay) -> dict[str, float]:
    steps = predicted.schedule.steps
    return {
        "steps": len(steps),
        "mean_batch": float(steps.requests.mean()),
        "largest_batch": float(steps.requests.max()),
        "cached_share_of_prompts": float(predicted.schedule.cached_tokens.sum() / run.prompt_tokens.sum()),
        "preemptions": float(predicted.schedule.preemptions.sum()),
    }


def _csv(run: Run, predicted: Replay) -> str:
    schedule = predicted.schedule
    columns: dict[str, Any] = {
        "request_id": run.request_id,
        "arrival_us": run.arrival_us,
        "ttft_us": predicted.ttft_us,
        "e2e_us": predicted.e2e_us,
        "first_step": schedule.first_step,
        "last_step": schedule.last_step,
        "cached_tokens": schedule.cached_tokens,
        "preemptions": schedule.preemptions,
    }
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
    return stream.getvalue()
