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
from roofml.latency.doubts import by_size
from roofml.latency.launches import said_of_launches
from roofml.planning.served_load import ServedLoad, served_load
from roofml.planning.sessions import serve, serve_drawn
from roofml.planning.spread import chance_of, predictions
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
SEEDS = 8
"""Other loads of the same kind that say what is chance."""
RATES = ("requests_per_s", "output_tokens_per_s", "goodput_per_s")


@dataclass(frozen=True, eq=False, repr=False)
class Simulation(Shown):
    """A load as a calibrated server would serve it."""

    workload: Workload
    served: ServedLoad
    metrics: Mapping[str, Prediction]
    """`ttft_mean`, `e2e_p99`, ...: µs."""
    rates: Mapping[str, Prediction]
    """`RATES`: a second."""
    slos: tuple[Slo, ...]
    by_class: Mapping[str, Mapping[str, float]]
    """Of a load of several classes: class -> metric -> µs."""
    timeline: Timeline
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
        """What the schedule was like."""
        schedule = self.served.replay.schedule
        prompts = float(self.run.prompt_tokens.sum())
        return {
            "requests": float(len(self.run)),
            "judged": float(self.served.judged.sum()),
            "steps": float(schedule.steps.length),
            "mean_batch": self.timeline.mean_running,
            "largest_batch": float(schedule.steps.requests.max()),
            "mean_queue": self.timeline.mean_waiting,
            "mean_kv_use": self.timeline.mean_kv_use,
            "largest_kv_use": self.timeline.largest_kv_use,
            "cached_share_of_prompts": float(schedule.cached_tokens.clip(0).sum()) / prompts,
            "preemptions": float(schedule.preemptions.sum()),
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
        shown = [Table(self.workload.name, ["latency", "predicted", "90 % interval"], rows, caption)]
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
    calibration = replace(calibration, deployment=calibration.deployment.serving(server))  # tables once for all replays
    workload = workload.within(server.max_model_len)
    served = long_enough(calibration, workload, server, slos, seed, progress)
    run, replay, of_class = served.run, served.replay, served.of_class
    every = workload.requests is not None

    def figures(of: ServedLoad) -> dict[str, float]:
        return {**of.figures(), **of.rates(_wanted(workload, slos, of))}

    def figures_of(run: Run, replayed: Replay) -> dict[str, float]:
        again = served_load(run, replayed, all_count=every, of_class=of_class, between_s=workload.between_s)
        return figures(again)

    values = figures(served)
    chance: dict[str, float] = {}
    if workload.random:
        samples: list[Mapping[str, float]] = [values]
        for each in range(SEEDS):
            other, other_run, again = serve_drawn(calibration, workload, len(run), seed + 1 + each, server)
            samples.append(
                figures(
                    served_load(
                        other_run, again, all_count=every, of_class=other.of_class, between_s=workload.between_s
                    )
                )
            )
        chance = chance_of(samples)
    found = predictions(calibration, served, values, figures_of, chance)
    by_class: dict[str, dict[str, float]] = {}
    if len(workload.classes) > 1:
        by_class = {each.name: served.figures(of_class == i) for i, each in enumerate(workload.classes)}
    return Simulation(
        workload,
        served,
        {name: of for name, of in found.items() if name not in RATES},
        {name: found[name] for name in RATES},
        slos,
        by_class,
        timeline_of(run, replay),
        seed,
        [*_warnings(calibration, served), *workload.too_short(len(run)), *_cut_short(workload, served)],
    )


def _wanted(workload: Workload, slos: tuple[Slo, ...], served: ServedLoad) -> list[tuple[Slo, Bools]]:
    """Each SLO with the requests it is for: those of everybody, and of each class."""
    everybody = np.ones(len(served.run), np.bool_)
    of_classes = [(slo, served.of_class == place) for place, each in enumerate(workload.classes) for slo in each.slos]
    return [*((slo, everybody) for slo in slos), *of_classes]


def long_enough(
    calibration: Calibration,
    workload: Workload,
    server: Server,
    slos: tuple[Slo, ...],
    seed: int,
    progress: Any = None,
) -> ServedLoad:
    """The load, of as many requests as it has, or as its slowest figure takes to be known to `WANTED`."""
    if workload.requests is not None:
        load, run, replayed = serve(calibration, workload.load(seed=seed), server, progress)
        return served_load(run, replayed, all_count=True, of_class=load.of_class)
    metrics = [*SLOWEST, *(slo.metric for slo in slos if slo.metric not in SLOWEST)]
    clients = int(workload.level) if workload.closed else 0
    count = min(MOST, max(FIRST, 10 * clients, workload.fewest))
    while True:
        load, run, replayed = serve_drawn(calibration, workload, count, seed, server, progress)
        served = served_load(run, replayed, all_count=False, of_class=load.of_class, between_s=workload.between_s)
        unsure = served.unsure(metrics)
        if served.grows or not unsure or max(unsure.values()) <= WANTED or count >= MOST:
            return served
        wanted = count * (max(unsure.values()) / WANTED) ** 2
        count = int(min(MOST, max(1.5 * count, min(wanted, 4 * count))))


def _warnings(calibration: Calibration, served: ServedLoad) -> list[str]:
    """What is taken on trust, and where there is no steady state."""
    run, schedule = served.run, served.replay.schedule
    tables = calibration.deployment.serving(run.server).tables
    launched = said_of_launches(schedule.step_time_us, schedule.steps.new_tokens, tables)
    growing = (
        [f"{run.name}: the queue grows as long as requests come: latencies hold for {len(run)} requests alone"]
        if served.grows
        else []
    )
    doubts = [doubt.sentence for doubt in by_size(calibration.open_doubts)]
    return [*growing, *calibration.warnings_for(run), *doubts, *calibration.outside(schedule.steps), *launched]


def _cut_short(workload: Workload, served: ServedLoad) -> list[str]:
    """A sentence where answers end at the server's limit."""
    run, most = served.run, served.run.server.max_model_len
    cut = int(((run.prompt_tokens + run.output_tokens) == most).sum()) if workload.longest > most else 0
    if not cut:
        return []
    return [f"{run.name}: {cut} of {len(run)} answers end at max_model_len {most}, where they were to be longer"]
