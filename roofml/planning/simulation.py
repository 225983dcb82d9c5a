"""Simulation: a load that nobody has run, served by a calibration, with the latencies, rates and queues it would have.

A load that is random is drawn as long as its figures are uncertain by more than is wanted, and drawn again with other
seeds to see what is chance in them. Its interval holds what a benchmark of as many requests would measure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from roofml.calibration.calibration import Calibration
from roofml.calibration.prediction import Prediction
from roofml.engine.replay import Replay
from roofml.planning.served_load import ServedLoad, served_load
from roofml.planning.sessions import as_drawn
from roofml.planning.spread import chance_of, predictions
from roofml.planning.systems import Answer, OneServer, System, on_tables
from roofml.planning.timeline import Timeline, timeline_of
from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.util.arrays import Bools
from roofml.util.display import Shown, Table, digits, us, us_range
from roofml.workloads.slo import LATENCIES, STATISTICS, Slo
from roofml.workloads.workload import Workload

WANTED = 0.03
"""Relative standard error of the slowest figure below which a random load is long enough."""
SLOWEST = ("ttft_mean", "ttft_p95", "tpot_mean", "e2e_mean")
"""Figures that are looked at for it; those of SLOs besides."""
FIRST = 1000
"""Requests of the first try."""
MOST = 32_000
"""Requests of the last."""
MOST_OF_EACH, MOST_OF_ALL = 4000, 200_000
"""The same of several servers: so many for each, if that is more, up to so many."""
SEEDS = 8
"""Other loads of the same kind that say what is chance."""
RATES = ("requests_per_s", "output_tokens_per_s", "goodput_per_s")


@dataclass(frozen=True, eq=False, repr=False)
class Simulation(Shown):
    """A load as a calibrated server would serve it."""

    workload: Workload
    system: System
    """What served it."""
    served: ServedLoad
    metrics: Mapping[str, Prediction]
    """`ttft_mean`, `e2e_p99`, ...: µs."""
    rates: Mapping[str, Prediction]
    """`RATES`: a second."""
    slos: tuple[Slo, ...]
    by_class: Mapping[str, Mapping[str, float]]
    """Of a load of several classes: class -> metric -> µs."""
    timeline: Timeline
    """Of the servers that make tokens: where others compute prompts, requests wait here until these have theirs."""
    prompt_timeline: Timeline | None
    """Of the servers that compute prompts, where they are others."""
    of_system: Mapping[str, float]
    """What is told of servers and links beside the schedule."""
    seed: int
    warnings: Sequence[str] = ()

    @property
    def run(self) -> Run:
        """The load on its server."""
        return self.served.run

    @property
    def met(self) -> Mapping[str, bool]:
        """SLO -> whether the prediction is below its limit; no SLO is met by a queue that grows without end."""
        return {
            str(slo): not self.served.grows
            and slo.metric in self.metrics
            and self.metrics[slo.metric].value < slo.limit_us
            for slo in self.slos
        }

    @property
    def facts(self) -> Mapping[str, float]:
        """What the schedule was like: batches of one server, all else of all of them."""
        schedule = self.served.replay.schedule
        prompts = float(self.run.prompt_tokens.sum())
        return {
            "requests": float(len(self.run)),
            "judged": float(self.served.judged.sum()),
            "steps": float(schedule.steps.length),
            "mean_batch": self.timeline.mean_running / self.system.servers,
            "largest_batch": float(schedule.steps.requests.max()),
            "mean_queue": self.timeline.mean_waiting,
            "mean_kv_use": self.timeline.mean_kv_use,
            "largest_kv_use": self.timeline.largest_kv_use,
            "cached_share_of_prompts": float(schedule.cached_tokens.clip(0).sum()) / prompts,
            "preemptions": float(schedule.preemptions.sum()),
            **self.of_system,
        }

    def tables(self) -> list[Table]:
        """Latencies, rates, and whether SLOs are met."""
        rows: list[list[str]] = []
        for latency in LATENCIES:
            for statistic in STATISTICS:
                said = self.metrics.get(f"{latency}_{statistic}")
                if said is None:
                    continue
                ends = said.interval_90
                rows.append([f"{statistic} {latency.upper()}", us(said.value), us_range(*ends) if ends else "-"])
        for name, said in self.rates.items():
            if name == "goodput_per_s" and not self.slos and not any(each.slos for each in self.workload.classes):
                continue
            ends = said.interval_90
            shown = f"{digits(ends[0])}-{digits(ends[1])}" if ends else "-"
            rows.append([name.removesuffix("_per_s").replace("_", " ") + " per s", digits(said.value), shown])
        caption = ", ".join(
            f"{key.replace('_', ' ')} {f'{value:,.0f}' if value == int(value) else digits(value)}"
            for key, value in self.facts.items()
        )
        title = f"{self.workload.name}: {self.system.said}" if self.system.said else self.workload.name
        shown = [Table(title, ["latency", "predicted", "90 % interval"], rows, caption)]
        if self.slos:
            judged = [
                [
                    name,
                    us(self.metrics[slo.metric].value) if slo.metric in self.metrics else "-",
                    "yes" if met else "no",
                ]
                for slo, (name, met) in zip(self.slos, self.met.items(), strict=True)
            ]
            shown.append(Table("", ["SLO", "predicted", "met"], judged))
        if len(self.by_class) > 1:
            columns = ("ttft_mean", "ttft_p95", "tpot_mean", "e2e_mean")
            of_class = [
                [name, *(us(found[metric]) if metric in found else "-" for metric in columns)]
                for name, found in self.by_class.items()
            ]
            shown.append(Table("", ["class", *("mean TTFT", "p95 TTFT", "mean TPOT", "mean E2E")], of_class))
        return shown

    def to_dict(self) -> dict[str, Any]:
        """As `roofml simulate --json` prints it. Latencies in µs, rates a second."""
        server = self.run.server

        def said(of: Prediction) -> dict[str, Any]:
            ends = of.interval_90
            return {"predicted_us": of.value, **({} if ends is None else {"interval_90_us": list(ends)})}

        return {
            "load": self.workload.name,
            "model": server.model,
            "gpu": server.gpu,
            "tp": server.tensor_parallel,
            "seed": self.seed,
            "requests": len(self.run),
            "judged": int(self.served.judged.sum()),
            "steady": not self.served.grows,
            "metrics": {name: said(of) for name, of in self.metrics.items()},
            **{name: of.value for name, of in self.rates.items()},
            "interval_90": {
                name: list(ends) for name, of in self.rates.items() if (ends := of.interval_90) is not None
            },
            "slos": [
                {"slo": str(slo), "metric": slo.metric, "limit_us": slo.limit_us, "met": met}
                for slo, met in zip(self.slos, self.met.values(), strict=True)
            ],
            "classes": {
                name: {key: {"predicted_us": us} for key, us in of.items()} for name, of in self.by_class.items()
            },
            "schedule": dict(self.facts),
            "timeline": self.timeline.to_dict(),
            **({} if self.prompt_timeline is None else {"prompt_timeline": self.prompt_timeline.to_dict()}),
            **({} if (system := self.system.to_dict()) is None else {"system": system}),
        }


def simulate(
    calibration: Calibration,
    workload: Workload,
    server: Server,
    *,
    slos: tuple[Slo, ...] = (),
    seed: int = 0,
    progress: Any = None,
) -> Simulation:
    """Serve a load as vLLM would at this calibration's step times.

    `progress`, an array of one, is kept at the number of finished requests of the first replay. Raises InputError for a
    server that cannot be and for a request that can never run.
    """
    return simulate_by(OneServer(on_tables(calibration, server), server), workload, slos, seed, progress)


def simulate_by(
    system: System, workload: Workload, slos: tuple[Slo, ...] = (), seed: int = 0, progress: Any = None
) -> Simulation:
    """Serve a load by one server or several. As `simulate`, and raises InputError for a load that they cannot share."""
    workload = workload.within(system.server.max_model_len)
    answer, served = long_enough(system, workload, slos, seed, progress)
    run, replayed, of_class = served.run, served.replay, served.of_class
    every = workload.requests is not None

    def figures(of: ServedLoad) -> dict[str, float]:
        return {**of.figures(), **of.rates(_wanted(workload, slos, of))}

    def figures_of(again: Replay) -> dict[str, float]:
        judged = served_load(run, again, all_count=every, of_class=of_class, between_s=workload.between_s)
        return figures(judged)

    values = figures(served)
    chance: dict[str, float] = {}
    if workload.random:
        samples: list[Mapping[str, float]] = [values]
        for each in range(SEEDS):
            samples.append(figures(_served(system, workload, len(run), seed + 1 + each)[1]))
        chance = chance_of(samples)
    spread = answer.spread(replace(run, saturated=served.grows))
    found = predictions(spread, served, values, figures_of, chance)
    by_class: dict[str, dict[str, float]] = {}
    if len(workload.classes) > 1:
        by_class = {each.name: served.figures(of_class == i) for i, each in enumerate(workload.classes)}
    return Simulation(
        workload,
        system,
        served,
        {name: of for name, of in found.items() if name not in RATES},
        {name: found[name] for name in RATES},
        slos,
        by_class,
        timeline_of(run, replayed, system.servers),
        timeline_of(*answer.prompts, system.prompt_servers) if answer.prompts is not None else None,
        answer.facts or {},
        seed,
        [
            *_growing(served),
            *workload.too_short(len(run)),
            *system.warnings(answer, run),
            *_cut_short(workload, served),
        ],
    )


def _wanted(workload: Workload, slos: tuple[Slo, ...], served: ServedLoad) -> list[tuple[Slo, Bools]]:
    """Each SLO with the requests it is for: those of everybody, and of each class."""
    everybody = np.ones(len(served.run), np.bool_)
    of_classes = [(slo, served.of_class == place) for place, each in enumerate(workload.classes) for slo in each.slos]
    return [*((slo, everybody) for slo in slos), *of_classes]


def long_enough(
    system: System, workload: Workload, slos: tuple[Slo, ...], seed: int, progress: Any = None
) -> tuple[Answer, ServedLoad]:
    """The load, of as many requests as it has, or as its slowest figure takes to be known to `WANTED`."""
    if workload.requests is not None:
        return _served(system, workload, workload.requests, seed, progress)
    metrics = [*SLOWEST, *(slo.metric for slo in slos if slo.metric not in SLOWEST)]
    clients = int(workload.level) if workload.closed else 0
    servers = max(system.servers, system.prompt_servers)  # each of which is to be steady
    count, most = (
        min(max(FIRST * servers, 10 * clients, workload.fewest), MOST_OF_ALL),
        min(max(MOST, MOST_OF_EACH * servers), MOST_OF_ALL),
    )
    while True:
        answer, served = _served(system, workload, count, seed, progress)
        unsure = served.unsure(metrics)
        if served.grows or not unsure or max(unsure.values()) <= WANTED or count >= most:
            return answer, served
        wanted = count * (max(unsure.values()) / WANTED) ** 2
        count = int(min(most, max(1.5 * count, min(wanted, 4 * count))))


def _served(
    system: System, workload: Workload, requests: int, seed: int, progress: Any = None
) -> tuple[Answer, ServedLoad]:
    """So many requests of a load, and what counts of them."""
    answer = as_drawn(
        workload,
        lambda answer_s: workload.load(requests, seed, answer_s),
        lambda load: system.serve(load, progress),
        lambda served: served.replay,
    )
    every = workload.requests is not None
    of_class = answer.of_class
    return answer, served_load(
        answer.run, answer.replay, all_count=every, of_class=of_class, between_s=workload.between_s
    )


def _growing(served: ServedLoad) -> list[str]:
    """A sentence where there is no steady state."""
    if not served.grows:
        return []
    run = served.run
    return [f"{run.name}: the queue grows as long as requests come: latencies hold for {len(run)} requests alone"]


def _cut_short(workload: Workload, served: ServedLoad) -> list[str]:
    """A sentence where answers end at the server's limit."""
    run, most = served.run, served.run.server.max_model_len
    cut = int(((run.prompt_tokens + run.output_tokens) == most).sum()) if workload.longest > most else 0
    if not cut:
        return []
    return [f"{run.name}: {cut} of {len(run)} answers end at max_model_len {most}, where they were to be longer"]
