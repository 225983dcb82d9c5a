"""How long a plan of many candidates takes, beside the clock's time in processor time of all cores.

    python benchmarks/plan_speed.py

A hundred candidates: Llama-2-7B on five GPUs, by four tensor parallel sizes, by five numbers of seats.
"""

from __future__ import annotations

import time

from roofml.planning.ask import ask
from roofml.traces.server import ServerOverrides
from roofml.workloads.read import read_workload
from roofml.workloads.slo import parse_slos

LOAD = "poisson:rate=1,input=uniform(256,1024),output=128"


def main() -> None:
    """Print both times, of a plan after another that has compiled what there is to compile."""
    slos = parse_slos(["p95 ttft < 500ms", "mean tpot < 50ms"])
    read, overrides = read_workload(LOAD), ServerOverrides()
    ask(read, overrides, model="llama-2-7b-hf", gpus="H100").plan(slos)
    began, worked = time.perf_counter(), time.process_time()
    asked = ask(
        read,
        overrides,
        model="llama-2-7b-hf",
        gpus="H100,H200,A100,L40S,B200",
        tps="1,2,4,8",
        max_num_seqs="32,64,128,256,512",
    )
    planned = asked.plan(slos)
    held = sum(option.capacity is not None for option in planned.options)
    print(
        f"{len(asked.candidates)} candidates, {held} hold the load: {time.perf_counter() - began:.0f} s, "
        f"{time.process_time() - worked:.0f} s of processors"
    )


if __name__ == "__main__":
    main()
