"""One synthetic run in every format and back: the same fit; where a file loses facts, a wider interval and no bias."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from client_files import WRITERS, Client

from roofml.calibration.calibrate import fit
from roofml.calibration.calibration import Calibration
from roofml.export.vllm_bench import vllm_bench_json
from roofml.latency.batch import Batch
from roofml.latency.deployment import deploy
from roofml.latency.parameters import NAMES, PRIOR_VALUES
from roofml.traces.read import read_all, read_run
from roofml.traces.run import Run
from roofml.traces.server import ServerOverrides
from roofml.validation.demo import GPU, MODEL, TP, synthetic_run

pytestmark = pytest.mark.slow

REQUESTS = 300
STEP = Batch(decode=[(700, 16)])
SAME_US, SAME = 10.0, 2e-4
"""Clients write times with at least six decimals of a second; sums of a token's times are rounded as often."""


@cache
def truth() -> tuple[Run, float]:
    """The run, of prompts that are all different, and the time of a step on its server, which is 3 % slow, µs."""
    deployment = deploy(MODEL, GPU, TP, 2048)
    values = PRIOR_VALUES.copy()
    values[NAMES.index("weights")] *= 1.05
    run = synthetic_run(np.random.default_rng(5), deployment, values)
    run = run.take(np.arange(len(run)) < REQUESTS)
    nobody = np.full(REQUESTS, -1)
    run = replace(run, prefix_group=nobody, prefix_tokens=np.zeros(REQUESTS, np.int64), identity="")
    return run, fitted(run).step_time(STEP).total_us


@cache
def fitted(run: Run) -> Calibration:
    return fit([run])


def written(form: str, run: Run) -> bytes:
    """The run as a client writes it."""
    if form == "vllm-bench":
        return vllm_bench_json(run).encode()
    if form == "csv":
        columns = (run.arrival_us, run.prompt_tokens, run.output_tokens, run.ttft_us, run.e2e_us)
        rows = [f"{a / 1e6:.6f},{p},{o},{t / 1e6:.6f},{e / 1e6:.6f}" for a, p, o, t, e in zip(*columns, strict=True)]
        return "\n".join(["send_s,input_tokens,output_tokens,ttft_s,e2e_s", *rows]).encode()
    seconds = Client(
        send_s=run.arrival_us / 1e6,
        ttft_s=run.ttft_us / 1e6,
        tpot_s=run.tpot_us / 1e6,
        prompt=run.prompt_tokens,
        output=run.output_tokens,
        ok=run.ok,
    )
    return WRITERS[form][1](seconds)


def told(run: Run) -> dict[str, Any]:
    """What no client file says of a server."""
    server = run.server
    names = ("model", "tensor_parallel", "max_num_seqs", "max_num_batched_tokens", "block_size", "num_gpu_blocks")
    return {name: getattr(server, name) for name in (*names, "max_model_len", "gpu")}


WHOLE = sorted({"vllm-bench", "csv", *WRITERS} - {"llmperf"})
"""Formats with the time of each request; llmperf has none."""


@pytest.mark.parametrize("form", WHOLE)
def test_what_is_read_back_is_the_run_and_so_is_its_fit(tmp_path: Path, form: str) -> None:
    run, _ = truth()
    path = tmp_path / "run"
    path.write_bytes(written(form, run))
    back = read_run(path, **told(run))
    assert np.array_equal(back.output_tokens, run.output_tokens)
    extra = back.prompt_tokens - run.prompt_tokens  # usage counts the chat template
    assert np.ptp(extra) == 0
    for ours, theirs in ((back.arrival_us, run.arrival_us), (back.ttft_us, run.ttft_us), (back.e2e_us, run.e2e_us)):
        np.testing.assert_allclose(ours[back.ok], theirs[back.ok], atol=SAME_US, rtol=SAME)
    assert int((~back.ok).sum()) <= 1  # the first prompt of a client that tests the server with it is a cache hit


def test_a_run_read_back_is_fitted_alike(tmp_path: Path) -> None:
    """Of a client that writes all down; its first request is no measurement there, and microseconds are rounded."""
    run, step_us = truth()
    path = tmp_path / "run"
    path.write_bytes(written("vllm-bench", run))
    assert fit([read_run(path, **told(run))]).step_time(STEP).total_us == pytest.approx(step_us, rel=2e-3)


def test_means_alone_leave_a_wider_interval_that_holds_the_truth(tmp_path: Path) -> None:
    run, step_us = truth()
    path = tmp_path / "run"
    document = written("vllm-bench", run).decode()
    lists = ("input_lens", "output_lens", "ttfts", "itls", "start_times", "generated_texts", "errors")
    path.write_text(json.dumps({name: value for name, value in json.loads(document).items() if name not in lists}))
    (means,) = read_all([path], ServerOverrides(**told(run))).aggregates
    weak = fit([], means=[means])
    total = weak.step_time(STEP).total
    assert total.interval_90 is not None
    assert total.interval_90[0] < step_us < total.interval_90[1]
    place = NAMES.index("weights")
    assert weak.posterior.sd[place] > 1.5 * fitted(run).posterior.sd[place]
