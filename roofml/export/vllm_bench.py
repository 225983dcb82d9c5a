"""A Run as a file of `vllm bench serve --save-result --save-detailed`, for tools that read that, and for examples.

Source: vllm/benchmarks/serve.py of 0.15. Times are in seconds, aggregates in ms. A run does not say when each token
came: where it is not handed in, tokens after the first come evenly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from roofml.traces.run import Run
from roofml.util.arrays import Floats

PERCENTILES = (50, 90, 95, 99)
CLOCK_S = 10_000.0
"""What the client's clock showed at the first send: it counts from the machine's start."""
DIGITS = 6
"""Decimals of a second that are written."""


def vllm_bench_json(
    run: Run,
    gaps_us: Sequence[Floats] | None = None,
    *,
    said: Mapping[str, object] | None = None,
    rate: float | None = None,
    burstiness: float = 1.0,
    date: str = "",
) -> str:
    """The file of a run, as text. `gaps_us` has for each request the µs between its tokens, (output tokens - 1,).

    Failed requests have zeros, as the tool writes them. `said` are keys of the user's `--metadata`; `rate` (requests a
    second) and `burstiness` those that were asked for, by default the mean rate of the sends; `date` is such as
    20260228-120000.
    """
    ok = run.ok & np.isfinite(run.e2e_us)
    ttft = np.where(ok, np.round(run.ttft_us / 1e6, DIGITS), 0.0)
    gaps = [np.round(one / 1e6, DIGITS) for one in (even_gaps(run) if gaps_us is None else gaps_us)]
    gaps = [one if good else one[:0] for one, good in zip(gaps, ok, strict=True)]
    prompt, output = np.where(ok, run.prompt_tokens, 0), np.where(ok, run.output_tokens, 0)
    decode = np.array([one.sum() for one in gaps])
    ends: Floats = np.where(ok, ttft + decode, 0.0) + run.arrival_us / 1e6
    duration = round(float(ends.max()), DIGITS)
    send = np.round(CLOCK_S + run.arrival_us / 1e6, DIGITS)
    document: dict[str, Any] = {
        "date": date,
        "endpoint_type": "openai",
        "backend": "openai",
        "label": None,
        "model_id": run.server.model,
        "tokenizer_id": run.server.model,
        "num_prompts": len(run),
        **dict(said or {}),
        "request_rate": _rate(run) if rate is None and not run.clients else _said_rate(rate),
        "burstiness": burstiness,
        "max_concurrency": run.clients or None,
        "duration": duration,
        "completed": int(ok.sum()),
        "failed": int((~ok).sum()),
        "total_input_tokens": int(prompt.sum()),
        "total_output_tokens": int(output.sum()),
        "request_throughput": int(ok.sum()) / duration,
        "request_goodput": None,
        "output_throughput": int(output.sum()) / duration,
        "total_token_throughput": int((prompt + output).sum()) / duration,
        "input_lens": run.prompt_tokens.tolist(),
        "output_lens": output.tolist(),
        "ttfts": ttft.tolist(),
        "itls": [one.tolist() for one in gaps],
        "start_times": send.tolist(),
        "generated_texts": [""] * len(run),
        "errors": ["" if good else "request failed" for good in ok],
    }
    several = ok & (output > 1)
    document |= _statistics("ttft", 1e3 * ttft[ok])
    document |= _statistics("tpot", 1e3 * decode[several] / (output[several] - 1))
    document |= _statistics("itl", 1e3 * (np.concatenate(gaps) if gaps else np.zeros(0)))
    document |= _statistics("e2el", 1e3 * (ttft + decode)[ok])
    return json.dumps(document) + "\n"


def even_gaps(run: Run) -> list[Floats]:
    """For each request the µs between its tokens, (output tokens - 1,), if they come evenly."""
    ok = run.ok & np.isfinite(run.e2e_us) & (run.output_tokens > 1)
    tpot = np.where(ok, run.tpot_us, 0.0)
    return [np.full(max(0, int(tokens) - 1), gap) for tokens, gap in zip(run.output_tokens, tpot, strict=True)]


def _said_rate(rate: float | None) -> float | str:
    """A rate as the tool writes it: without one, or in a closed loop, all at once."""
    return "inf" if rate is None or math.isinf(rate) else rate


def _rate(run: Run) -> float:
    """Requests a second, of the gaps between sends."""
    span = float(run.arrival_us[-1] - run.arrival_us[0]) if len(run) > 1 else 0.0
    return round(1e6 * (len(run) - 1) / span, 3) if span > 0 else 1.0


def _statistics(name: str, values_ms: Floats) -> dict[str, float]:
    """Mean, median, standard deviation and percentiles under the tool's names; zeros where nothing was measured."""
    values = values_ms if len(values_ms) else np.zeros(1)
    return {
        f"mean_{name}_ms": float(values.mean()),
        f"median_{name}_ms": float(np.median(values)),
        f"std_{name}_ms": float(values.std()),
        **{f"p{share}_{name}_ms": float(np.percentile(values, share)) for share in PERCENTILES},
    }
