"""Plan: what each candidate holds under the SLOs, how many of it a rate takes, and what that costs.

The replicas of a rate share it out at random, so as many are needed as the largest rate of one goes into the whole. Of
requests that come at random its part is such a load again; of others it comes more or less evenly, and what one server
holds of a share is looked for by itself (`shares`). The answer's interval is that of one server's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from roofml.latency.doubts import by_size
from roofml.planning.both_kinds import BothKinds, fewest_of_both
from roofml.planning.candidates import Candidate, Stand
from roofml.planning.capacity import Capacity, capacity
from roofml.planning.replicas import fewest_replicas
from roofml.planning.shares import alike_when_shared
from roofml.planning.transfer import link_between
from roofml.planning.trials import Target, Trials, targets_of
from roofml.traces.server import Server
from roofml.util.display import Shown, Table, digits, us
from roofml.util.errors import InputError
from roofml.workloads.requests import Drawn
from roofml.workloads.slo import Slo
from roofml.workloads.workload import Workload

AT_ONCE = 2
"""Candidates that are looked at at the same time; each serves its loads on threads of its own."""
ROUNDS = 3
"""Times that it is looked for what a share holds, which depends a little on how many shares there are."""


@dataclass(frozen=True, eq=False)
class Option:
    """A candidate with what it holds, or why it holds nothing."""

    candidate: Candidate
    server: Server | None = None
    capacity: Capacity | None = None
    refusal: str | None = None
    rate: float | None = None
    """Requests a second, or clients, that are wanted of all replicas."""
    price: float | None = None
    """Of a GPU for an hour."""
    doubts: tuple[str, ...] = ()
    """Why it is less sure than a measured deployment, the largest first."""
    share: Capacity | None = None
    """What each of the replicas holds, where its share of the load is another kind of load; None: as `capacity`."""
    behind_one_queue: int | None = None
    """Servers that are enough where each request goes to the least loaded; looked at for the cheapest alone."""
    both_kinds: BothKinds | None = None
    """Prefill and decode servers that are enough instead; looked at for the cheapest alone, where that is asked."""

    @property
    def each(self) -> Capacity | None:
        """What each of the replicas holds."""
        return self.share or self.capacity

    @property
    def replicas(self) -> int | None:
        """Servers that the wanted rate takes; None where nothing is wanted, or it holds nothing."""
        if self.each is None or self.rate is None:
            return None
        return max(_servers(self.rate, self.each), 1 if self.share is None else 2)

    @property
    def replicas_90(self) -> tuple[int, int] | None:
        """How few and how many they may have to be, with 90 % probability."""
        if self.each is None or self.rate is None or self.each.level.interval_90 is None:
            return None
        low, high = self.each.level.interval_90
        return max(1, math.ceil(self.rate / high)), max(1, math.ceil(self.rate / low))

    @property
    def headroom_pct(self) -> float | None:
        """By how much the rate may still grow, %."""
        if self.each is None or self.replicas is None or self.rate is None:
            return None
        return 100 * (self.replicas * self.each.level.value / self.rate - 1)

    @property
    def gpus(self) -> int:
        """Of all replicas, or of one."""
        return self.candidate.tp * (self.replicas or 1)

    @property
    def cost_per_hour(self) -> float | None:
        """Of all replicas, or of one; None without a price."""
        return None if self.price is None or self.capacity is None else self.gpus * self.price

    @property
    def cost_of_level(self) -> float:
        """What one unit of the level costs an hour, in money, or in GPUs where nothing has a price: to sort by."""
        if self.capacity is None:
            return math.inf
        unit = self.price if self.price is not None else 1.0
        if self.replicas is not None:
            return self.gpus * unit
        return self.candidate.tp * unit / self.capacity.level.value

    def sessions(self, workload: Workload) -> tuple[float, float] | None:
        """(sessions that begin a second, sessions under way) on one server at most; None where there are none."""
        held, source = self.capacity, workload.source
        if held is None or not workload.sessions or not isinstance(source, Drawn):
            return None
        per_s = held.level.value / source.turns
        return per_s, per_s * (source.turns * held.at_knee.e2e_us / 1e6 + source.pauses_s)

    def _of_both(self) -> dict[str, Any] | None:
        both = self.both_kinds
        if both is None:
            return None
        gpus = self.candidate.tp * both.servers
        return {
            "prefill_replicas": both.prefill,
            "decode_replicas": both.decode,
            "gpus": gpus,
            "cost_per_hour": None if self.price is None else gpus * self.price,
            "link_gb_per_s": both.link.gb_per_s,
        }

    def to_dict(self) -> dict[str, Any]:
        """As `roofml plan --json` prints it."""
        candidate, held, server = self.candidate, self.capacity, self.server
        if held is None or server is None:
            return {**vars(candidate), "refusal": self.refusal}
        found: dict[str, Any] = {
            "gpu": candidate.gpu,
            "tp": candidate.tp,
            "precision": candidate.precision,
            "max_num_seqs": server.max_num_seqs,
            "max_num_batched_tokens": server.max_num_batched_tokens,
            "num_gpu_blocks": server.num_gpu_blocks,
            "replicas": self.replicas,
            "replicas_interval_90": list(self.replicas_90) if self.replicas_90 else None,
            "replicas_behind_one_queue": self.behind_one_queue,
            "disaggregated": self._of_both(),
            "rate_of_each": self.each.level.value if self.each is not None and self.rate is not None else None,
            "headroom_pct": self.headroom_pct,
            "gpus": self.gpus,
            "cost_per_hour": self.cost_per_hour,
            "doubts": list(self.doubts),
        }
        ends = held.level.interval_90
        at_knee = held.at_knee
        return found | {
            "max_rate": {
                "value": held.level.value,
                "interval_90": list(ends) if ends else None,
                "unit": held.unit,
                "at_least": held.unbounded,
            },
            "binding_slo": None if held.binding is None else str(held.binding),
            "full_server_rate": held.full,
            "rate_after_overload": held.after_overload,
            "output_tokens_per_s_per_gpu": at_knee.output_tokens_per_s / candidate.tp,
            "tokens_per_s_per_user": 1e6 / at_knee.tpot_us if at_knee.tpot_us > 0 else None,
            "curve": [
                {
                    "level": trial.level,
                    "output_tokens_per_s_per_gpu": trial.output_tokens_per_s / candidate.tp,
                    "tokens_per_s_per_user": 1e6 / trial.tpot_us if trial.tpot_us > 0 else None,
                    "running": trial.running,
                    "held": trial.worst < 0,
                }
                for trial in held.trials
            ],
        }


@dataclass(frozen=True, eq=False, repr=False)
class Plan(Shown):
    """Candidates, the cheapest that hold the load first, and those that cannot last."""

    workload: Workload
    targets: tuple[Target, ...]
    options: Sequence[Option]
    rate: float | None
    warnings: Sequence[str] = ()
    asked_for_both: bool = False
    """Whether prefill and decode servers were looked at, too."""

    @property
    def best(self) -> Option | None:
        """The cheapest that holds the load."""
        return self.options[0] if self.options and self.options[0].capacity is not None else None

    def tables(self) -> list[Table]:
        """What holds the load, by cost; then what does not, and why."""
        held = [option for option in self.options if option.capacity is not None]
        refused = [option for option in self.options if option.capacity is None]
        unit = "clients" if self.workload.closed else "req/s"
        wanted = self.rate is not None
        priced = any(option.price is not None for option in held)
        columns = ["candidate", unit, "90 %", "tok/s/GPU", "TPOT"]
        columns += [*(["replicas", "GPUs"] if wanted else []), *(["cost/h"] if priced else [])]
        shown: list[Table] = []
        asked = ", ".join(map(str, self.targets))
        if held:
            rows = [_row(option, wanted, priced) for option in held]
            title = f"{self.workload.name}: {asked}" + (f"; {digits(self.rate, 4)} {unit} in all" if self.rate else "")
            ends = dict.fromkeys(_ended(option) for option in held)
            caption = f"{unit}: the most of one replica; ended by {'; '.join(ends)}"
            held_sessions = held[0].sessions(self.workload)
            if held_sessions is not None:
                per_s, under_way = map(digits, held_sessions)
                caption += f". {held[0].candidate}: that is {per_s} sessions that begin a second, {under_way} under way"
                caption += _said_of_overload(held[0])
            shared = held[0].share
            if shared is not None:
                caption += f". {held[0].candidate}: each of its replicas holds {digits(shared.level.value)} of what is "
                caption += "shared out at random"
            fewer = held[0].behind_one_queue
            if self.asked_for_both:
                caption += f". {held[0].candidate}: {_said_of_both(held[0])}"
            if fewer is not None:
                caption += f". {held[0].candidate}: {fewer} are enough where requests go to the least loaded"
            shown.append(Table(title, columns, rows, caption))
        if refused:
            rows = [[str(option.candidate), option.refusal or ""] for option in refused]
            shown.append(Table("cannot hold it", ["candidate", "why"], rows))
        return shown

    def _held(self, option: Option) -> dict[str, Any]:
        held = option.sessions(self.workload)
        of_sessions = {} if held is None else {"sessions": {"per_s": held[0], "under_way": held[1]}}
        return option.to_dict() | of_sessions

    def to_dict(self) -> dict[str, Any]:
        """As `roofml plan --json` prints it."""
        return {
            "load": self.workload.name,
            "slos": [str(target) for target in self.targets],
            "rate": self.rate,
            "unit": self.workload.unit,
            "candidates": [self._held(option) for option in self.options if option.capacity is not None],
            "refused": [option.to_dict() for option in self.options if option.capacity is None],
        }


def _row(option: Option, wanted: bool, priced: bool) -> list[str]:
    held = option.capacity
    assert held is not None
    ends = held.level.interval_90
    at_knee = held.at_knee
    row = [
        str(option.candidate),
        f"{'>= ' if held.unbounded else ''}{digits(held.level.value)}",
        f"{digits(ends[0])}-{digits(ends[1])}" if ends else "-",
        digits(at_knee.output_tokens_per_s / option.candidate.tp),
        us(at_knee.tpot_us),
    ]
    if wanted:
        may_be = option.replicas_90
        spread = f" ({may_be[0]}-{may_be[1]})" if may_be and may_be[0] != may_be[1] else ""
        row += [f"{option.replicas}{spread}", str(option.gpus)]
    if priced:
        row.append("-" if option.cost_per_hour is None else f"{option.cost_per_hour:,.2f}")
    return row


def _said_of_both(option: Option) -> str:
    both = option.both_kinds
    if both is None:
        return "no few prefill and decode servers are enough"
    servers = f"{both.prefill} prefill and {both.decode} decode servers"
    return f"{servers} are enough, {option.candidate.tp * both.servers} GPUs, with KV over {both.link.said}"


def _said_of_overload(option: Option) -> str:
    held = option.capacity
    if held is None or held.after_overload is None or not held.stays_overloaded:
        return ""
    return (
        f"; after an overload it answers only {digits(held.after_overload)} req/s of as many, until fewer come: its "
        "cache does not hold their sessions then"
    )


def _ended(option: Option) -> str:
    held = option.capacity
    assert held is not None
    if held.unbounded:
        return "nothing that was tried"
    return "a full server" if held.binding is None else str(held.binding)


def plan(
    workload: Workload,
    slos: Sequence[Slo],
    stand: Stand,
    candidates: Sequence[Candidate],
    *,
    rate: float | None = None,
    prices: Mapping[str, float] | None = None,
    on_done: Callable[[int], None] | None = None,
    disaggregated: bool = False,
    link_gb_per_s: float | None = None,
) -> Plan:
    """Look at every candidate: what it holds, and how many replicas `rate` takes (clients, of a closed loop).

    With `disaggregated` also how few prefill and decode servers of the cheapest take it, whose KV goes over a link of
    `link_gb_per_s` for each GPU, or that of their node.

    `prices` are of a GPU by its name, for an hour. `on_done` is called with how many are done. Raises InputError where
    there is no SLO, and where no candidate holds the load, with each one's reason.
    """
    if disaggregated and (rate is None or workload.closed or workload.sessions):
        raise InputError("--disaggregated: expected --rate, and requests that come at a rate, without sessions")
    if link_gb_per_s is not None and not disaggregated:
        raise InputError("--link: expected --disaggregated beside it")
    targets = targets_of(workload, slos)
    prices = prices or {}
    done = 0
    said: list[str] = []

    def look(candidate: Candidate) -> Option:
        nonlocal done
        price = prices.get(candidate.gpu)
        try:
            calibration, server = stand.serving(candidate)
            trials = Trials(calibration, workload, server, targets)
            held = capacity(trials)
            if workload.sessions:
                said.extend(workload.at(held.level.value).too_short(held.requests))
            share = _of_share(trials, held, rate)
            doubts = tuple(doubt.sentence for doubt in by_size(calibration.open_doubts))
            option = Option(candidate, server, held, None, rate, price, doubts, share)
        except InputError as error:
            option = Option(candidate, refusal=str(error), rate=rate, price=price)
        done += 1
        if on_done is not None:
            on_done(done)
        return option

    for candidate in candidates:  # what is read once is not read by two threads at a time
        try:
            stand.calibration(candidate)
        except InputError:
            continue
    with ThreadPoolExecutor(AT_ONCE) as threads:
        options = list(threads.map(look, candidates))
    # The cheapest first; what has no price after all that have one.
    options.sort(
        key=lambda option: (not option.price if prices else False, option.cost_of_level, str(option.candidate))
    )
    if all(option.capacity is None for option in options):
        reasons = list(dict.fromkeys(f"{option.candidate}: {option.refusal}" for option in options))
        raise InputError(reasons[0] if len(reasons) == 1 else f"no candidate holds the load: {'; '.join(reasons)}")
    best = options[0]
    apart = workload.sessions or (best.capacity is not None and best.capacity.unbounded)
    if best.replicas is not None and rate is not None and not apart:
        calibration, server = stand.serving(best.candidate)
        assert best.capacity is not None
        trials = Trials(calibration, workload, server, targets, best.capacity.requests)
        options[0] = replace(best, behind_one_queue=fewest_replicas(trials, rate, best.replicas))
        if disaggregated:
            link = link_between(calibration.deployment, calibration.deployment, link_gb_per_s)
            both = fewest_of_both(trials, rate, best.replicas, link)
            options[0] = replace(options[0], both_kinds=both)
    told = list(dict.fromkeys([*stand.said, *said, *_unused(prices, candidates)]))
    return Plan(workload, targets, options, rate, told, disaggregated)


def _servers(rate: float, each: Capacity) -> int:
    """How many servers a rate takes, each of which holds so much."""
    return max(1, math.ceil(rate / each.level.value - 1e-9))


def _of_share(trials: Trials, held: Capacity, rate: float | None) -> Capacity | None:
    """What each server holds of a rate that several share out at random; None where that is what one holds alone."""
    if rate is None or held.unbounded or alike_when_shared(trials.workload):
        return None
    each, servers = held, _servers(rate, held)
    if servers == 1:
        return None
    for _ in range(ROUNDS):
        each = capacity(replace(trials, shared_by=servers, made={}))
        wanted = max(2, _servers(rate, each))  # one has the whole load, and does not hold it
        if wanted == servers:
            break
        servers = wanted
    return each


def _unused(prices: Mapping[str, float], candidates: Sequence[Candidate]) -> list[str]:
    """A sentence for each price of a GPU that no candidate has, and for candidates that have none beside others."""
    gpus = {candidate.gpu for candidate in candidates}
    found = [f"--price {gpu}: no candidate has this GPU" for gpu in prices if gpu not in gpus]
    missing = sorted(gpus - set(prices)) if prices else []
    return found + ([f"no price of {', '.join(missing)}: listed last, without a cost"] if missing else [])
