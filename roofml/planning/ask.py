"""What a plan is asked: words of its user as candidates, prices, and the calibration that they stand on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from roofml.calibration.calibrate import load
from roofml.export.keda import Threshold
from roofml.hardware.gpu import load_gpu
from roofml.planning.candidates import Candidate, Stand, candidates
from roofml.planning.plan import Plan, plan
from roofml.traces.limits import MOST_OF_SERVER
from roofml.traces.server import ServerOverrides
from roofml.util.errors import InputError
from roofml.util.names import shown
from roofml.workloads.read import ReadLoad
from roofml.workloads.slo import Slo
from roofml.workloads.workload import Workload

MOST_PRICE = 1e6


@dataclass(frozen=True, eq=False)
class Asked:
    """A question ready to be answered."""

    workload: Workload
    stand: Stand
    candidates: Sequence[Candidate]

    def plan(
        self,
        slos: Sequence[Slo],
        rate: float | None = None,
        prices: Mapping[str, float] | None = None,
        on_done: Callable[[int], None] | None = None,
        disaggregated: bool = False,
        link_gb_per_s: float | None = None,
    ) -> Plan:
        """The answer. Raises as `plan`, and for a rate that is none."""
        if rate is not None and not 0 < rate <= 1e7:
            raise InputError(f"--rate {rate:g}: expected {self.workload.unit} above 0, up to 1e7")
        return plan(
            self.workload,
            slos,
            self.stand,
            self.candidates,
            rate=rate,
            prices=prices,
            on_done=on_done,
            disaggregated=disaggregated,
            link_gb_per_s=link_gb_per_s,
        )


def ask(
    read: ReadLoad,
    overrides: ServerOverrides,
    *,
    model: str | None = None,
    gpus: str | None = None,
    tps: str | None = None,
    precisions: str | None = None,
    max_num_seqs: str | None = None,
    max_num_batched_tokens: str | None = None,
    coeffs: Path | None = None,
) -> Asked:
    """The candidates that lists with commas name, on what `coeffs` says, or physics alone.

    What nobody names is the recorded server's, or that of the coefficients. Raises InputError for what no list of such
    can be, and for what is missing.
    """
    given = None if coeffs is None else load(coeffs)
    recorded = read.server if given is None else None
    ours = given.deployment if given is not None else None
    said = overrides.said("model")[0]
    if model is not None and said is not None and str(said) != model:
        raise InputError(f"MODEL is {model} and --model {said}: expected one of them")
    name = model or (str(said) if said is not None else None) or (recorded.model if recorded else None)
    listed = _words(gpus, "--gpu") or ([recorded.gpu] if recorded and recorded.gpu else [])
    if ours is not None:
        name, listed = name or ours.hf_repo, listed or [ours.gpu.name]
    missing = [flag for flag, value in (("MODEL", name), ("--gpu", listed)) if not value]
    if missing:
        raise InputError(f"{' and '.join(missing)} missing: give MODEL --gpu G --tp N, or --coeffs FILE")
    assert name is not None
    sizes = _counts(tps, "--tp", MOST_OF_SERVER["tensor_parallel"])
    engine, version, kv_dtype = (overrides.said(each)[0] for each in ("engine", "engine_version", "kv_dtype"))
    if ours is not None:
        engine, version = engine or ours.engine.name, version or ours.engine.version
        kv_dtype = kv_dtype or (ours.engine.kv_dtype if ours.engine.kv_dtype != ours.engine.dtype else None)
    stand = Stand(
        overrides,
        given,
        str(engine) if engine is not None else "vllm",
        str(version) if version is not None else None,
        str(kv_dtype) if kv_dtype is not None else None,
    )
    found = candidates(
        name,
        listed,
        sizes or [recorded.tensor_parallel if recorded else ours.tp if ours is not None else 1],
        _words(precisions, "--precision") or [None],
        _counts(max_num_seqs, "--max-num-seqs", MOST_OF_SERVER["max_num_seqs"]) or [None],
        _counts(max_num_batched_tokens, "--max-num-batched-tokens", MOST_OF_SERVER["max_num_batched_tokens"]) or [None],
    )
    return Asked(read.workload, stand, found)


def threshold_of(planned: Plan) -> Threshold:
    """What a replica of the best candidate holds almost surely: the lower end of its interval.

    Raises InputError for a load of clients, which no number of replicas divides.
    """
    best = planned.best
    if best is None or best.capacity is None or best.capacity.full is None:
        raise InputError(f"{planned.workload.name}: a closed loop: expected requests that come at a rate")
    held = best.capacity
    ends = held.level.interval_90
    rate = held.level.value if ends is None else ends[0]
    e2e_s = held.at_knee.e2e_us / 1e6
    asked = ", ".join(map(str, planned.targets))
    low = "" if ends is None else f", 90 % {ends[0]:.3g} to {ends[1]:.3g}"
    said = (
        f"{best.candidate.model} on {best.candidate}: {planned.workload.name}",
        f"under {asked} a replica holds {held.level.value:.3g} requests/s{low}",
        f"the threshold is the lower end, {rate:.3g} requests/s, with {rate * e2e_s:.3g} requests under way",
    )
    return Threshold(rate, rate * e2e_s, said)


def prices_of(texts: Sequence[str]) -> dict[str, float]:
    """GPU -> its price for an hour, of texts such as `H100=2.5`. Raises InputError for one that is none."""
    prices: dict[str, float] = {}
    for text in texts:
        gpu, equals, amount = text.partition("=")
        if not equals or not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", amount.strip()):
            raise InputError(f"--price {shown(text)}: expected GPU=PRICE OF AN HOUR, such as H100=2.5")
        if not 0 < float(amount) <= MOST_PRICE:
            raise InputError(f"--price {shown(text)}: expected a price above 0, up to {MOST_PRICE:g}")
        name = load_gpu(gpu.strip()).name
        if name in prices:
            raise InputError(f"--price {shown(text)}: {name} has a price already, expected one for each GPU")
        prices[name] = float(amount)
    return prices


def _words(text: str | None, flag: str) -> list[str]:
    """The words of a list with commas."""
    if text is None:
        return []
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise InputError(f"{flag} {shown(text)}: expected names with commas between them")
    return list(dict.fromkeys(words))


def _counts(text: str | None, flag: str, most: int) -> list[int]:
    """The whole numbers of a list with commas."""
    counts: list[int] = []
    for word in _words(text, flag):
        if not re.fullmatch(r"[0-9]{1,9}", word) or not 1 <= int(word) <= most:
            raise InputError(f"{flag} {shown(word)}: expected whole numbers from 1 to {most}, with commas between them")
        counts.append(int(word))
    return counts
