"""Is our schedule vLLM's where prompts arrive with their KV computed? As `conformance.py`, with a KV connector.

    python benchmarks/conformance_kv.py [--workloads 200] [--seed 0] [--asynchronous]     beside an installed vLLM
    python benchmarks/conformance_kv.py --random 60 --seed 3 [--asynchronous] > workloads.jsonl
    python benchmarks/conformance_kv.py --record < workloads.jsonl > theirs.jsonl         vLLM's steps alone
    python benchmarks/conformance_kv.py --steps < workloads.jsonl > ours.jsonl            ours alone

The connector answers from a table, as NixlConnector does of prompts that were computed elsewhere: all tokens that are
not in the cache come asynchronously, once. The driver stands for workers and link: transfers begin when the batch
that took their blocks is launched, go over one link in order, and are seen by the launch of the first batch after they
have ended, which tells the scheduler with its result. A batch of nobody takes an engine that has requests 1 ms
(v1/engine/core.py), so that times here are µs: a step takes STEP_US. A workload has besides, as JSON:

    "kv": {"block_us": 40, "latency_us": 900, "local": [3, 7]}      requests of `local` are computed here

Exits with 1 if a workload differs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import conformance
import numpy as np
from conformance import MOST_CALLS, Vllm, compare, random_workloads, read

from roofml.engine.incoming import POLL_US
from roofml.engine.replay import replay_at

STEP_US = 2000


def with_kv(seed: int, count: int, asynchronous: bool) -> Iterator[dict[str, Any]]:
    """Random workloads whose prompts come over slow and fast links."""
    rng = np.random.default_rng(seed + 1)
    for workload in random_workloads(seed, count, asynchronous):
        requests = [[row[0] * STEP_US // 100, *row[1:]] for row in workload["requests"]]
        local = np.flatnonzero(rng.random(len(requests)) < rng.choice([0.0, 0.0, 0.3])).tolist()
        kv = {
            "block_us": int(rng.choice([1, 50, 700])),
            "latency_us": int(rng.choice([10, 1000, 9000])),
            "local": local,
        }
        yield {**workload, "requests": requests, "kv": kv}


def our_steps(workload: dict[str, Any], engine_version: str | None) -> list[list[int]]:
    """`[tokens, requests]` of every step of the replay."""
    run, kv = conformance.run_of(workload, engine_version), workload["kv"]
    tokens = run.prompt_tokens.copy()
    tokens[kv["local"]] = 0
    size = len(run)
    run = replace(
        run,
        kv_tokens=tokens,
        kv_block_us=np.full(size, float(kv["block_us"])),
        kv_latency_us=np.full(size, float(kv["latency_us"])),
    )
    steps = replay_at(run, STEP_US).schedule.steps
    made = (steps.prefill_tokens + steps.decode_tokens).astype(np.int64)
    return np.stack([made, steps.requests.astype(np.int64)], axis=1).tolist()


@dataclass
class Link:
    """Workers and their link: what the connector was asked for, and what has come."""

    block_us: float
    latency_us: float
    asked: dict[str, int] = field(default_factory=dict[str, int])
    """Request -> blocks to be sent, since the last launch."""
    ends: dict[str, float] = field(default_factory=dict[str, float])
    free: float = 0.0

    def launch(self, now: float) -> set[str]:
        """What a batch launched now sees to have come; and what it was told to ask for is on its way."""
        come = {name for name, end in self.ends.items() if end <= now}
        for name in come:
            del self.ends[name]
        for name, blocks in self.asked.items():
            self.free = max(now, self.free) + blocks * self.block_us
            self.ends[name] = self.free + self.latency_us
        self.asked.clear()
        return come


@dataclass
class Waiting:
    """A batch in the engine core's queue."""

    formed: tuple[Any, dict[str, int], set[str]]
    come: set[str]
    end: float | None
    """When its step ends; None of an empty one."""


class VllmWithKv(Vllm):
    """The scheduler of the installed vLLM with a connector that answers from a table."""

    def __init__(self) -> None:
        """Import vLLM, and make the connector."""
        super().__init__()
        base = importlib.import_module("vllm.distributed.kv_transfer.kv_connector.v1.base")
        factory = importlib.import_module("vllm.distributed.kv_transfer.kv_connector.factory").KVConnectorFactory
        driver = self
        self.local: set[str] = set()
        self.link = Link(0.0, 0.0)
        self.begun: set[str] = set()

        def nothing(*_: Any, **__: Any) -> None:
            return None

        def meta(*_: Any) -> Any:
            return base.KVConnectorMetadata()

        def finished(*_: Any) -> tuple[bool, None]:
            return False, None

        def matched(_: Any, request: Any, computed: int) -> tuple[int, bool]:
            if request.request_id in driver.local or request.request_id in driver.begun:
                return 0, False
            count = request.num_prompt_tokens - computed
            return (count, True) if count > 0 else (0, False)

        def taken(_: Any, request: Any, blocks: Any, external: int) -> None:
            if external > 0 and request.request_id not in driver.begun:
                hashed = sum(block.block_hash is not None for block in blocks.blocks[0])
                driver.link.asked[request.request_id] = len(blocks.blocks[0]) - hashed
                driver.begun.add(request.request_id)

        methods: dict[str, Any] = {
            "get_num_new_matched_tokens": matched,
            "update_state_after_alloc": taken,
            "build_connector_meta": meta,
            "request_finished": finished,
            "request_finished_all_groups": finished,
            **dict.fromkeys(("start_load_kv", "wait_for_layer_load", "save_kv_layer", "wait_for_save"), nothing),
        }
        parents = (base.KVConnectorBase_V1, *((base.SupportsHMA,) if hasattr(base, "SupportsHMA") else ()))
        connector = type("Table", parents, methods)
        factory._registry["Table"] = lambda: connector

    def more_config(self) -> dict[str, Any]:
        """The connector."""
        transfer = self.config.KVTransferConfig(kv_connector="Table", kv_role="kv_consumer")
        return {"kv_transfer_config": transfer}

    def steps(self, workload: dict[str, Any]) -> list[list[int]]:
        """`[tokens, requests]` of every step, as `EngineCore.step` and `step_with_batch_queue` have them."""
        kv = workload["kv"]
        self.link, self.begun = Link(kv["block_us"], kv["latency_us"]), set()
        self.local = {f"{number:06d}" for number in kv["local"]}
        scheduler = self.scheduler_of(workload)
        arrivals = [row[0] for row in workload["requests"]]
        now, sent, ended = float(arrivals[0]), 0, 0.0
        depth, queue, steps = 2 if workload["async"] else 1, list[Waiting](), list[list[int]]()
        for _ in range(MOST_CALLS):
            while sent < len(arrivals) and arrivals[sent] <= now:
                scheduler.add_request(self.request_of(workload, sent))
                sent += 1
            idle = False
            if scheduler.has_requests():
                formed = self.formed(scheduler)
                come, tokens = self.link.launch(now), formed[1]
                idle = not tokens
                if tokens:
                    steps.append([sum(tokens.values()), len(tokens)])
                    ended = max(now, ended) + STEP_US
                queue.append(Waiting(formed, come, ended if tokens else None))
                if len(queue) < depth and (tokens or scheduler.has_requests()):
                    now += POLL_US if idle else 0.0
                    continue
            if queue:
                oldest = queue.pop(0)
                now = now if oldest.end is None else max(now, oldest.end)
                output = self.outputs.KVConnectorOutput(finished_recving=oldest.come or None)
                self.end(scheduler, oldest.formed, kv_connector_output=output)
                now += POLL_US if idle and scheduler.has_requests() else 0.0
            elif sent < len(arrivals):
                now = max(now, float(arrivals[sent]))
            else:
                return steps
        raise RuntimeError(f"{self.version}: no end after {MOST_CALLS} calls of schedule()")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workloads", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--asynchronous", action="store_true")
    parser.add_argument("--engine-version", help="For workloads that carry none.")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--steps", action="store_true", help="Our steps of the workloads on standard input.")
    only.add_argument("--record", action="store_true", help="vLLM's steps of them.")
    only.add_argument("--random", type=int, help="Random workloads.")
    options = parser.parse_args()
    if options.random:
        for workload in with_kv(options.seed, options.random, options.asynchronous):
            print(json.dumps(workload))
        return
    if options.steps or options.record:
        vllm = VllmWithKv() if options.record else None
        for workload in read(sys.stdin):
            steps = vllm.steps(workload) if vllm else our_steps(workload, options.engine_version)
            print(json.dumps(steps), flush=True)
        return
    asked = with_kv(options.seed, options.workloads, options.asynchronous)
    sys.exit(1 if compare(asked, options.engine_version, VllmWithKv(), our_steps) else 0)


if __name__ == "__main__":
    main()
