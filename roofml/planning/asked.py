"""`simulate` and `plan` as a notebook asks them: a calibration, a load and SLOs as they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from roofml.calibration.calibration import Calibration
from roofml.calibration.servers import server_for
from roofml.planning.candidates import Candidate, Stand
from roofml.planning.plan import Plan
from roofml.planning.plan import plan as plan_candidates
from roofml.planning.simulation import Simulation
from roofml.planning.simulation import simulate as serve
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
    **server: Any,
) -> Simulation:
    """A load that nobody has run, as a calibrated server would serve it: its repr is the table of `roofml simulate`.

    `load` is a run's path, a workload file, a YAML file of classes, or a line such as
    `poisson:rate=8,input=1024,output=256`; `slos` are texts such as `p95 ttft < 500ms`. Keywords give facts of the
    server (`max_num_seqs=128`, ... as in `ServerOverrides`); what nobody says is vLLM's default. Raises InputError.
    """
    overrides = ServerOverrides(**server)
    read = read_workload(load, rate=rate, concurrency=concurrency, requests=requests, overrides=overrides)
    return serve(
        calibration, read.workload, server_for(calibration, overrides, read.server), slos=parse_slos(slos), seed=seed
    )


def plan(
    calibration: Calibration,
    load: str,
    slos: Sequence[str],
    *,
    rate: float | None = None,
    candidates: Sequence[Candidate] = (),
    prices: Mapping[str, float] | None = None,
    **server: Any,
) -> Plan:
    """The largest rate, or number of clients, that a calibrated server holds under SLOs: `.best.capacity.level`.

    With `candidates` other deployments too, to which the calibration is carried; `rate` is what all replicas are to
    hold, `prices` are of a GPU for an hour. Keywords give facts of the server, as of `simulate`. Raises InputError.
    """
    overrides, ours = ServerOverrides(**server), calibration.deployment
    engine = ours.engine
    kv_dtype = engine.kv_dtype if engine.kv_dtype != engine.dtype else None
    stand = Stand(overrides, calibration, engine.name, engine.version, kv_dtype)
    own = Candidate(ours.hf_repo, ours.gpu.name, ours.tp)
    stand.made[own.gpu, own.tp, None] = calibration
    workload = read_workload(load, overrides=overrides).workload
    return plan_candidates(workload, parse_slos(slos), stand, [*candidates] or [own], rate=rate, prices=prices)
