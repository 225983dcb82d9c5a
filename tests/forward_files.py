"""Files as `vllm bench forward --output-json` writes them, made up: the layout of vLLM 0.33."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from roofml.traces.forwards import Forwards


def latency(median: float, spread_pct: float = 0.3, ranks: int = 1) -> dict[str, Any]:
    """As `ForwardBench._time` returns it."""
    samples = [round(median * (1 + 0.0001 * (number % 7 - 3)), 2) for number in range(100)]
    return {
        "timer": "graph_events" + ("_rank_max" if ranks > 1 else ""),
        "median": median,
        "sample_spread_pct": spread_pct,
        "mean": median,
        "std": 0.0002 * median,
        "min": samples[0],
        "p90": max(samples),
        "count": len(samples),
        "samples_us": samples,
    }


def case(
    name: str,
    requests: Sequence[tuple[int, int, int, bool]],
    median: float,
    *,
    spread_pct: float = 0.3,
    routing: str = "balanced",
    ranks: int = 1,
    **more: Any,
) -> dict[str, Any]:
    """A case of requests (query_len, kv_len, num_draft_tokens, chunked)."""
    new = sum(request[0] for request in requests)
    rank: dict[str, Any] = {
        "num_tokens": new,
        "kv_blocks": 1 + sum(-(-request[1] // 16) for request in requests),
        "routing": routing,
        "timing_scope": "target_only",
        "num_local_tokens": new,
        "num_tokens_after_padding": new,
        "batch_order": [f"bench-{number}" for number in range(len(requests))],
        "eager_repeat": {"max_abs": 0.0, "relative_rms": 0.0},
        "graph_vs_eager": {"max_abs": 0.0, "relative_rms": 0.0},
        "graph_deterministic": True,
        "finite": True,
        "state_reset_bytes": 4096,
        "latency_us": latency(median, spread_pct, ranks),
        **more,
    }
    names = ("query_len", "kv_len", "num_draft_tokens", "chunked")
    return {
        "case": name,
        "requests": [dict(zip(names, request, strict=True)) for request in requests],
        "median_us": median,
        "ranks": [rank] * ranks,
    }


def write(path: Path, cases: Sequence[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(list(cases), indent=2))
    return path


def written(path: Path, forwards: Forwards) -> Path:
    """The file that says what `forwards` hold."""
    cases = [
        case(
            each.name,
            [(r.new_tokens, r.context + r.new_tokens, r.drafts, r.chunked) for r in each.requests],
            each.median_us,
            spread_pct=each.spread_pct,
            routing=each.routing,
            ranks=forwards.ranks,
        )
        for each in forwards.cases
    ]
    return write(path, cases)
