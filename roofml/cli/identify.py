"""roofml identify: what runs say of each parameter, and which small extra load would say more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from roofml.cli import options as o
from roofml.cli.console import OUT, digits, note, print_json, progress, table, warn
from roofml.cli.fit import Believed
from roofml.util.errors import InputError

if TYPE_CHECKING:
    from roofml.calibration.fit import Fit
    from roofml.calibration.identifiability import Direction, Gain, Knowledge, Profile
    from roofml.validation.cross_validation import Setting

SILENT = 0.05
"""Directions of which the data decide less than this share are not shown."""


def identify(
    runs: o.Runs,
    train_fraction: Annotated[float, typer.Option(help="Share of each run's requests to fit, from its start.")] = 1.0,
    prior: Annotated[
        Believed, typer.Option(help="What is believed before: other models' fits too, or kernel measurements alone.")
    ] = Believed.pooled,
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
    with_profiles: Annotated[
        bool, typer.Option("--profiles/--no-profiles", help="Profile intervals take most of the time.")
    ] = True,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Fit runs of one model, GPU and TP; say what they decide, what they leave open, and which load would tell."""
    import numpy as np

    from roofml.calibration.fit import fit as fit_runs
    from roofml.calibration.identifiability import (
        directions,
        gains,
        loads,
        noise_of,
        parameters,
        problem_of,
        profiles,
        unsure,
    )
    from roofml.calibration.other_models import read_pooled
    from roofml.calibration.prior import PACKAGE
    from roofml.cli.reading import diagnose, warn_of
    from roofml.latency.parameters import to_coordinates
    from roofml.traces import ServerOverrides
    from roofml.validation.cross_validation import setting_of
    from roofml.validation.splits import trainable

    if not 0 < train_fraction <= 1:
        raise InputError(f"--train-fraction {train_fraction:g}: expected more than 0 and at most 1")
    overrides = ServerOverrides(
        model, tp, max_num_seqs, max_num_batched_tokens, block_size, num_gpu_blocks, max_model_len, gpu,
        prefix_caching, async_scheduling, fresh, output_tokens,
    )  # fmt: skip
    diagnoses = diagnose(runs, overrides)
    where = setting_of([d.run for d in diagnoses])
    warn_of(diagnoses)
    used = trainable(diagnoses)
    chosen = [d.run for d in used]
    for diagnosis in diagnoses:
        if diagnosis not in used and not quiet:
            note(f"{diagnosis.run.name}: saturated, left out of the fit")
    believed = read_pooled().prior(where.model.name, where.gpu.name) if prior is Believed.pooled else PACKAGE
    with progress(quiet or as_json) as shown:
        task = shown.add_task("fitting", total=10)

        def on_round(i: int, n: int) -> None:
            shown.update(task, completed=i - 1, total=n)

        def on_profile(i: int, n: int) -> None:
            shown.update(task, description="profile intervals", completed=i, total=n)

        found = fit_runs(chosen, where.tables, train_fraction, on_round=on_round, prior=believed)
        known = parameters(found)
        problem = problem_of(
            found, chosen, where.tables, [np.arange(len(run)) < train_fraction * len(run) for run in chosen]
        )
        x = to_coordinates(found.values)
        shown.update(task, description="extra loads")
        told = gains(found, loads(chosen[0].server, where.tables, found.values), where.tables, noise_of(problem, x))
        intervals = profiles(problem, x, unsure(known) if with_profiles else (), on_profile)
    if not found.converged:
        warn("the schedule still moved in the last round: fit more requests, or a run at lower load")
    seen = directions(found)
    if as_json:
        print_json(_document(where, found, known, seen, intervals, told))
    else:
        _print_tables(where, found, known, seen, intervals, told)


def _document(
    where: Setting,
    found: Fit,
    known: tuple[Knowledge, ...],
    seen: tuple[Direction, ...],
    intervals: tuple[Profile, ...],
    told: tuple[Gain, ...],
) -> dict[str, Any]:
    from roofml.calibration.identifiability import effective_parameters
    from roofml.latency.parameters import BY_NAME, NAMES

    profile = {one.name: one for one in intervals}

    def interval(name: str) -> dict[str, Any]:
        if name not in profile:
            return {"profile": None, "profile_of_data": None, "profile_settled": None}
        one = profile[name]
        return {
            "profile": {"low": one.low, "high": one.high},
            "profile_of_data": {"low": one.data_low, "high": one.data_high},
            "profile_settled": one.settled,
        }

    return {
        "model": where.model.name,
        "gpu": where.gpu.name,
        "tp": where.tp,
        "prior": found.prior.source,
        "requests": found.requests,
        "converged": found.converged,
        "effective_parameters": effective_parameters(seen),
        "parameters": [
            {
                "name": one.name,
                "unit": BY_NAME[one.name].unit,
                "value": one.value,
                "prior_sd": one.prior_sd,
                "posterior_sd": one.posterior_sd,
                "decided_pct": 100 * one.decided,
                "partner": one.partner,
                "correlation": one.correlation,
                "bound": one.bound,
                **interval(one.name),
            }
            for one in known
        ],
        "directions": [
            {"decided_pct": 100 * one.decided, "weights": dict(zip(NAMES, one.weights.tolist(), strict=True))}
            for one in seen
        ],
        "loads": [
            {
                "load": one.what,
                "requests": one.requests,
                "seconds": one.seconds,
                "nats": one.nats,
                "nats_per_minute": one.nats_per_minute,
                "pins": one.pins(),
                "posterior_sd": dict(zip(NAMES, one.sd.tolist(), strict=True)),
            }
            for one in told
        ],
    }


def _print_tables(
    where: Setting,
    found: Fit,
    known: tuple[Knowledge, ...],
    seen: tuple[Direction, ...],
    intervals: tuple[Profile, ...],
    told: tuple[Gain, ...],
) -> None:
    from roofml.calibration.identifiability import effective_parameters
    from roofml.latency.parameters import BY_NAME, NAMES

    profile = {one.name: one for one in intervals}
    rows = [
        [
            one.name,
            f"{digits(one.value, 4)} {BY_NAME[one.name].unit}".strip() + (f", {one.bound} bound" if one.bound else ""),
            digits(one.prior_sd),
            digits(one.posterior_sd),
            f"{100 * one.decided:.0f}",
            f"{one.partner} {one.correlation:+.2f}" if one.partner else "-",
            *_ends(profile.get(one.name)),
        ]
        for one in known
    ]
    columns = ["parameter", "value", "prior sd", "sd", "data %", "confused with", "profile 95 %", "by data alone"]
    name = f"{where.model.name} on {where.gpu.name}, TP {where.tp}: what {found.requests} requests say"
    OUT.print(table(name, columns, rows))
    count = effective_parameters(seen)
    rows = [
        [" ".join(f"{weight:+.2f} {of}" for of, weight in one.terms()), f"{100 * one.decided:.0f}"]
        for one in seen
        if one.decided >= SILENT
    ]
    OUT.print(table("combinations that the data decide, in prior sd", ["combination", "data %"], rows))
    OUT.print(
        f"The data decide {count:.1f} of {len(NAMES)} parameters. Of {len(seen) - len(rows)} combinations they decide "
        f"less than {100 * SILENT:.0f} %.\n",
        markup=False,
    )
    sd = dict(zip(NAMES, found.sd, strict=True))
    rows = [
        [
            one.what,
            str(one.requests),
            f"{one.seconds:.0f}",
            f"{one.nats:.2f}",
            f"{one.nats_per_minute:.1f}",
            "\n".join(f"{of} {digits(sd[of], 2)} to {digits(one.sd[NAMES.index(of)], 2)}" for of in one.pins()) or "-",
        ]
        for one in told
    ]
    columns = ["extra load on the same server", "requests", "seconds", "nats", "nats/min", "sd of what gains most"]
    OUT.print(table("what a small extra load would tell", columns, rows))


def _ends(one: Profile | None) -> tuple[str, str]:
    """Both intervals as text; nothing for a parameter that needs none."""
    if one is None:
        return "", ""

    def text(low: float | None, high: float | None) -> str:
        if low is None and high is None:
            return "open"
        return f"{'open' if low is None else digits(low)} to {'open' if high is None else digits(high)}"

    rough = "" if one.settled else " ?"  # the search for an end still moved when it stopped
    return text(one.low, one.high) + rough, text(one.data_low, one.data_high) + rough
