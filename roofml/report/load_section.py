"""The section of a load under SLOs: latency over its rate, what a server holds of it, how many replicas it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from roofml.calibration.calibration import Calibration
from roofml.calibration.servers import server_for
from roofml.planning.candidates import Candidate
from roofml.planning.capacity import Capacity, NotMetError, capacity
from roofml.planning.plan import Option, Plan
from roofml.planning.systems import on_tables
from roofml.planning.trials import Trials, targets_of
from roofml.report.blocks import Block, Paragraph, Section
from roofml.report.figures import Curve, curve, speeds
from roofml.traces.server import Server, ServerOverrides
from roofml.util.display import digits
from roofml.util.errors import InputError
from roofml.workloads.slo import Slo
from roofml.workloads.workload import Workload

TITLE = "Latency over load, and what a server holds"
MOST_RATE = 1e7
SHARES = (0.2, 0.4, 0.6, 0.8)
"""Of what is held: levels that are looked at besides those that the search for it took."""


@dataclass(frozen=True)
class Question:
    """A load, what is expected of it, and how much of it there is to be."""

    workload: Workload
    slos: Sequence[Slo]
    recorded: Server
    """What served the runs: what nobody says of the server is as there."""
    overrides: ServerOverrides = field(default_factory=ServerOverrides)
    rate: float | None = None
    prices: Mapping[str, float] = field(default_factory=dict[str, float])


def check_question(load: str | None, slos: Sequence[Slo], rate: float | None, prices: Mapping[str, float]) -> None:
    """Raise InputError for what is only asked together with SLOs, and for a rate that is none."""
    alone = {"--load": load, "--rate": rate, "--price": prices or None}
    asked = [name for name, value in alone.items() if value is not None]
    if asked and not slos:
        raise InputError(f"{' and '.join(asked)}: what a server holds is asked with --slo, such as 'p95 ttft < 500ms'")
    if rate is not None and not 0 < rate <= MOST_RATE:
        raise InputError(f"--rate {rate:g}: expected above 0, up to {MOST_RATE:g}")


def held(calibration: Calibration, question: Question) -> Section:
    """What the calibrated server holds of a load. Raises InputError for no SLO, and for what the server cannot serve.

    An SLO that no load meets is said on the page.
    """
    server = server_for(calibration, question.overrides, question.recorded)
    calibration = on_tables(calibration, server)
    targets = targets_of(question.workload, question.slos)
    trials = Trials(calibration, question.workload, server, targets)
    asked = ", ".join(map(str, targets))
    try:
        found = capacity(trials)
    except NotMetError as error:
        text = f"{question.workload.name}: {asked}. {error}"
        return Section(TITLE, [Paragraph(text, "warning")])
    closed = question.workload.closed
    for share in SHARES:
        level = share * found.level.value
        trials.at(max(1.0, float(round(level))) if closed else level)
    ours = calibration.deployment
    candidate = Candidate(ours.hf_repo, ours.gpu.name, ours.tp, max_num_seqs=server.max_num_seqs)
    price = question.prices.get(ours.gpu.name)
    option = Option(candidate, server, found, None, question.rate, price)
    plan = Plan(question.workload, targets, [option], question.rate)
    blocks: list[Block] = [Paragraph(_said(found, option, asked)), _drawn(trials, found)]
    return Section(TITLE, [*blocks, speeds(_points(trials, found, ours.tp)), *plan.tables()])


def _said(found: Capacity, option: Option, asked: str) -> str:
    """The answer in words."""
    ends = found.level.interval_90
    sure = f" (90 %: {digits(ends[0])} to {digits(ends[1])})" if ends else ""
    least = "at least " if found.unbounded else ""
    text = f"With {asked}, one server holds {least}{digits(found.level.value)} {found.unit}{sure}"
    text += f"; what ends it is {found.binding}." if found.binding is not None else "; there it is full."
    if option.replicas is not None and option.rate is not None:
        text += f" For {digits(option.rate, 4)} {found.unit} it takes {option.replicas} of them, {option.gpus} GPUs"
        text += f", {option.cost_per_hour:,.2f} an hour." if option.cost_per_hour is not None else "."
    return text


def _drawn(trials: Trials, found: Capacity) -> Block:
    """Every SLO's latency over the levels that were tried."""
    made = trials.by_level
    names = [str(target).rsplit(" < ", 1)[0] for target in trials.targets]
    latencies = {
        name: [target.slo.limit_us * float(np.exp(trial.excess[place])) for trial in made]
        for place, (name, target) in enumerate(zip(names, trials.targets, strict=True))
    }
    limits = {name: target.slo.limit_us for name, target in zip(names, trials.targets, strict=True)}
    return curve(Curve([trial.level for trial in made], found.unit, latencies, limits, found.level))


def _points(trials: Trials, found: Capacity, gpus: int) -> list[tuple[float, float, str, bool]]:
    """Speed of a user and throughput of a GPU, tokens/s, at each level, its name, and whether it is held."""
    return [
        (1e6 / trial.tpot_us, trial.output_tokens_per_s / gpus, f"{digits(trial.level)} {found.unit}", trial.worst < 0)
        for trial in trials.by_level
        if trial.tpot_us > 0
    ]
