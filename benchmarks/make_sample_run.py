"""Make `sample_run/`: a run of `vllm bench serve` and the log of its server, that every clone has to try things on.

    python benchmarks/make_sample_run.py [FOLDER]

Nothing was measured: the run is served by roofml's own replay with known parameters, drawn from their priors, and what
a client measures has noise as in real traces. One test request with the first prompt goes before it, as the tool sends
one, and is not in the file.
"""

from __future__ import annotations

import gzip
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from roofml.engine.replay import Replay, replay
from roofml.export.server_log import server_log
from roofml.export.vllm_bench import vllm_bench_json
from roofml.latency.deployment import Deployment, deployment_of
from roofml.latency.kv_capacity import kv_capacity
from roofml.latency.parameters import NAMES, Parameters
from roofml.latency.server_defaults import graphs_of
from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.util.arrays import Floats
from roofml.util.package_data import data_folder
from roofml.validation.demo import DECODE_NOISE, TTFT_NOISE, known_parameters

SEED = 16
MODEL, GPU, VERSION = "meta-llama/Llama-3.1-8B-Instruct", "H100", "0.15.1"
DEVICE = "NVIDIA H100 80GB HBM3, 81559 MiB, 570.86.15"
REQUESTS = 800
FIRST_RATE, LAST_RATE = 4, 40
"""`--ramp-up-strategy linear --ramp-up-start-rps 4 --ramp-up-end-rps 40`: sends a second, Poisson."""
INPUT, OUTPUT, SPREAD = 600, 110, 0.8
"""`--random-input-len`, `--random-output-len`, `--random-range-ratio`: uniform in (1 ± 0.8) of the length."""
SETTLED_US = 2e6
"""From the test request to the first of the run."""
JITTER_US = 100.0
"""Noise of a chunk's arrival at the client."""
BENCH, LOG, ABOUT = "bench.json.gz", "server.log", "README.md"
TEXT = """# A sample run

`bench.json.gz` is what `vllm bench serve --save-result --save-detailed` writes of 800 random prompts at 4, and in
the end 40, requests a second, `server.log` the start of the vLLM server. Neither was measured:
`benchmarks/make_sample_run.py` served the requests with roofml's replay and the parameters below, drawn from their
priors, and put noise on what the client sees.

| parameter | value |
|---|---|
"""


def sent(rng: np.random.Generator) -> Run:
    """What the client sends: the test request, and then the run."""
    rate = np.linspace(FIRST_RATE, LAST_RATE, REQUESTS)
    gaps = rng.exponential(1e6 / rate)
    arrival = np.concatenate([[0.0], SETTLED_US + np.cumsum(gaps) - gaps[0]])
    prompt = rng.integers(int(INPUT * (1 - SPREAD)), int(INPUT * (1 + SPREAD)) + 1, REQUESTS)
    output = rng.integers(int(OUTPUT * (1 - SPREAD)), int(OUTPUT * (1 + SPREAD)) + 1, REQUESTS)
    prompt, output = np.concatenate([prompt[:1], prompt]), np.concatenate([output[:1], output])
    first = np.arange(REQUESTS + 1) < 2
    server = Server(
        model=MODEL,
        tensor_parallel=1,
        max_num_seqs=128,
        max_num_batched_tokens=2048,
        block_size=16,
        num_gpu_blocks=1,
        max_model_len=4096,
        gpu=GPU,
        engine_version=VERSION,
    )
    unknown = np.full(REQUESTS + 1, np.nan)
    return Run(
        name="sample_run",
        server=server,
        request_id=np.arange(REQUESTS + 1),
        arrival_us=arrival,
        prompt_tokens=prompt,
        output_tokens=output,
        prefix_group=np.where(first, 0, -1),
        prefix_tokens=np.where(first, prompt, 0),
        ttft_us=unknown,
        e2e_us=unknown,
        ok=np.ones(REQUESTS + 1, np.bool_),
    )


def with_cache(run: Run, deployment: Deployment) -> Run:
    """The run on a server with as many KV blocks as fit."""
    capacity = kv_capacity(deployment.model, deployment.gpu, 1, max_num_batched_tokens=2048, max_num_seqs=128)
    return replace(run, server=replace(run.server, num_gpu_blocks=capacity.blocks))


def seen_by_client(run: Run, served: Replay, rng: np.random.Generator) -> tuple[Run, list[Floats]]:
    """The run with what its client measures, and the µs between the tokens of each request."""
    ttft = served.ttft_us * np.exp(rng.normal(0, TTFT_NOISE, len(run)))
    slower = np.exp(rng.normal(0, DECODE_NOISE, len(run)))
    schedule = served.schedule
    end = schedule.step_start_us + schedule.step_time_us
    gaps: list[Floats] = []
    for first, last, factor in zip(schedule.first_step, schedule.last_step, slower, strict=True):
        at = end[first : last + 1] - end[first]
        late = np.abs(rng.normal(0, JITTER_US, len(at)))
        late[0] = late[-1] = 0.0
        gaps.append(np.diff(np.maximum.accumulate(at * factor + late)))
    e2e = ttft + np.array([gap.sum() for gap in gaps])
    return replace(run, ttft_us=ttft, e2e_us=e2e), gaps


def make(folder: Path) -> None:
    """Write the sample into `folder`. The same files on every machine but for the last digit of a time."""
    rng = np.random.default_rng(SEED)
    run = sent(rng)
    run = with_cache(run, deployment_of([run], allow_oversize=True))
    deployment = deployment_of([run])
    truth = known_parameters(rng)
    served = replay(run, deployment.tables, Parameters.of(truth))
    if served.schedule.preemptions.any():
        raise RuntimeError("a request was preempted: its tokens are not one a step")
    measured, gaps = seen_by_client(run, served, rng)
    body = measured.take(np.arange(len(run)) > 0)
    said: dict[str, object] = {
        "note": "made by roofml from known parameters (benchmarks/make_sample_run.py); not measured"
    }
    said |= {"ramp_up_strategy": "linear", "ramp_up_start_rps": FIRST_RATE, "ramp_up_end_rps": LAST_RATE}
    text = vllm_bench_json(body, gaps[1:], said=said, rate=math.inf, date="20260228-120000")
    folder.mkdir(exist_ok=True)
    (folder / BENCH).write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    log = server_log(run.server, graphs_of(run.server, deployment.gpu), device=DEVICE)
    (folder / LOG).write_text(log, encoding="utf-8")
    rows = "".join(f"| `{name}` | {value:.6g} |\n" for name, value in zip(NAMES, truth, strict=True))
    (folder / ABOUT).write_text(TEXT + rows, encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else data_folder("hardware").parent / "sample_run")
