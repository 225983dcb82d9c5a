"""How long several servers take that are served together, step by step, beside one replay of as many requests.

    python benchmarks/routing.py [REQUESTS]

Llama-2-7B on an H100, warm, under requests at a rate, clients that wait for their answers, and sessions; by two and by
eight servers. One server, told of its requests one by one, is held against the compiled loop alone: to the digit.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import numpy as np

from roofml.calibration.calibrate import uncalibrated
from roofml.calibration.servers import server_for
from roofml.latency.deployment import deploy
from roofml.planning.replicas import serve_by_replicas
from roofml.planning.routing import ROUTERS
from roofml.planning.sessions import serve
from roofml.traces.server import ServerOverrides
from roofml.workloads.spec import parse_spec

LINES = {
    "at a rate": "poisson:rate={rate},input=uniform(100,700),output=100,shared_prefix=64,groups=20",
    "clients": "closed:concurrency={clients},input=uniform(100,700),output=100",
    "sessions": "poisson:rate={rate},input=uniform(50,200),output=100,turns=5,think=exponential(2)",
}
A_SERVER, CLIENTS = 15, 30
"""Requests a second, and clients, of each server."""


def main(requests: int) -> None:
    """Print a row for each load, router and number of servers."""
    calibration = uncalibrated(deploy("llama-2-7b-hf", "H100", 1))
    server = server_for(calibration, ServerOverrides(max_num_seqs=256, max_num_batched_tokens=2048))
    calibration = replace(calibration, deployment=calibration.deployment.serving(server))
    print("| load | servers | router | s | one replay, s | one server as alone |\n|---|---:|---|---:|---:|---|")
    for name, line in LINES.items():
        for servers in (1, 2, 8):
            load = parse_spec(line.format(rate=A_SERVER * servers, clients=CLIENTS * servers)).load(requests, 1)
            serve(calibration, load, server)
            before = time.process_time()
            alone = serve(calibration, load, server)
            one_s = time.process_time() - before
            for router in ROUTERS:
                serve_by_replicas(calibration, load, server, servers, router)
                before = time.process_time()
                served = serve_by_replicas(calibration, load, server, servers, router)
                took_s = time.process_time() - before
                same = np.array_equal(served.e2e_us, alone.replay.e2e_us) if servers == 1 else ""
                print(f"| {name} | {servers} | {router} | {took_s:.2f} | {one_s:.2f} | {same} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4000)
