"""`simulate` and `plan` as a notebook asks them: a calibration, a load and SLOs as they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from roofml.calibration.calibration import Calibration
from roofml.calibration.servers import server_for
from roofml.planning.candidates import Candidate, Stand
from roofml.planning.plan import Plan
from roofml.planning.plan import plan as plan_candidates
from roofml.planning.simulation import Simulation, simulate_by
from roofml.planning.wanted import Wanted, system_of
from roofml.traces.server import ServerOverrides
from roofml.workloads.read import read_workload
from roofml.workloads.slo import parse_slos


def simulate(
    calibration: Calibration,
    load: str,
    slos: Sequence[str] = (),
    *,
    rate: float | None = None,
    concurrency: int | None = None,
    requests: int | None = None,
    seed: int = 0,
    replicas: int | None = None,
    prefill_replicas: int | None = None,
    decode_replicas: int | None = None,
    prefill: Calibration | None = None,
    router: str | None = None,
    link: float | None = None,
    **server: Any,
) -> Simulation:
    """A load that nobody has run, as a calibrated server would serve it: its repr is the table of `roofml simulate`.

    `load` is a run's path, a workload file, a YAML file of classes, or a line such as
    `poisson:rate=8,input=1024,output=256`; `slos` are texts such as `p95 ttft < 500ms`. Keywords give facts of the
    server (`max_num_seqs=128`, ... as in `ServerOverrides`); what nobody says is vLLM's default.

    `replicas` servers alike behind a `router` ("round robin", "least loaded" or "prefix aware") share the load out, or
    `prefill_replicas` compute its prompts (those of `prefill`, if they are of another GPU or TP) and `decode_replicas`
    make the answers, with the KV sent over a `link` of so many GB/s for each GPU. Raises InputError.
    """
    overrides = ServerOverrides(**server)
    read = read_workload(load, rate=rate, concurrency=concurrency, requests=requests, overrides=overrides)
    wanted = Wanted(replicas, prefill_replicas, decode_replicas, router, link)
    system = system_of(wanted, calibration, server_for(calibration, overrides, read.server), prefill, overrides)
    return simulate_by(system, read.workload, parse_slos(slos), seed)


def plan(
    calibration: Calibration,
    load: str,
    slos: Sequence[str],
    *,
    rate: float | None = None,
    candidates: Sequence[Candidate] = (),
    prices: Mapping[str, float] | None = None,
    disaggregated: bool = False,
    link: float | None = None,
    **server: Any,
) -> Plan:
    """The largest rate, or number of clients, that a calibrated server holds under SLOs: `.best.capacity.level`.

    With `candidates` other deployments too, to which the calibration is carried; `rate` is what all replicas are to
    hold, `prices` are of a GPU for an hour. `disaggregated` also looks how few prefill and decode servers of the
    cheapest hold it, with a `link` as of `simulate`. Keywords give facts of the server, as there. Raises InputError.
    """
    overrides, ours = ServerOverrides(**server), calibration.deployment
    engine = ours.engine
    kv_dtype = engine.kv_dtype if engine.kv_dtype != engine.dtype else None
    stand = Stand(overrides, calibration, engine.name, engine.version, kv_dtype)
    own = Candidate(ours.hf_repo, ours.gpu.name, ours.tp)
    stand.made[own.gpu, own.tp, None] = calibration
    workload = read_workload(load, overrides=overrides).workload
    return plan_candidates(
        workload,
        parse_slos(slos),
        stand,
        [*candidates] or [own],
        rate=rate,
        prices=prices,
        disaggregated=disaggregated,
        link_gb_per_s=link,
    )
