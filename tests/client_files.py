"""One made-up run as the clients that people have would write it down: the truth is known, and so are the traps."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from roofml.util.arrays import Bools, Floats, Ints

EPOCH_S = 1_790_000_000.0


@dataclass(frozen=True, eq=False)
class Client:
    """Requests in order of sending, each (requests,)."""

    send_s: Floats
    ttft_s: Floats
    tpot_s: Floats
    prompt: Ints
    output: Ints
    ok: Bools

    def __len__(self) -> int:
        return len(self.send_s)

    @property
    def e2e_s(self) -> Floats:
        return self.ttft_s + self.tpot_s * (self.output - 1)


def client(requests: int = 40, failed: tuple[int, ...] = (3,), seed: int = 0, output: int | None = None) -> Client:
    """A short run at five requests a second."""
    random = np.random.default_rng(seed)
    ok = np.ones(requests, np.bool_)
    ok[list(failed)] = False
    return Client(
        send_s=np.cumsum(random.exponential(0.2, requests)),
        ttft_s=random.uniform(0.02, 0.08, requests),
        tpot_s=random.uniform(0.009, 0.012, requests),
        prompt=random.integers(50, 900, requests),
        output=np.full(requests, output) if output is not None else random.integers(20, 60, requests),
        ok=ok,
    )


def by_end(run: Client) -> list[int]:
    """Places of the requests in order of completion."""
    return np.argsort(run.send_s + np.where(run.ok, run.e2e_s, 0.0), kind="stable").tolist()


def guidellm_old(run: Client) -> bytes:
    """GuideLLM 0.3: no metadata, time_per_output_token_ms is (last - first)/n."""
    requests: dict[str, list[Any]] = {"successful": [], "errored": [], "incomplete": []}
    for i in range(len(run)):
        start = EPOCH_S + run.send_s[i]
        first, last = start + run.ttft_s[i], start + run.e2e_s[i]
        entry: dict[str, Any] = {
            "type_": "generative_text_response",
            "request_id": f"r{i}",
            "scheduler_info": {
                "targeted_start_time": start - 0.001,
                "queued_time": start - 0.002,
                "request_start": start,
                "request_end": last,
            },
            "prompt_tokens": int(run.prompt[i]),
            "output_tokens": int(run.output[i]),
            "start_time": start,
            "end_time": last,
            "first_token_time": first,
            "last_token_time": last,
            "time_per_output_token_ms": 1e3 * (last - first) / run.output[i],
        }
        if not run.ok[i]:
            entry |= {"first_token_time": None, "last_token_time": None}
        requests["successful" if run.ok[i] else "incomplete"].append(entry)
    args = {"strategy": {"type_": "constant", "rate": 5.0}, "profile": {"random_seed": 42}}
    benchmark = {"type_": "generative_benchmark", "args": args, "run_stats": {}, "requests": requests}
    return json.dumps({"benchmarks": [benchmark]}).encode()


def guidellm(run: Client, version: int = 1) -> bytes:
    """GuideLLM 0.5 on: time_per_output_token_ms holds the prefill."""
    requests: dict[str, list[Any]] = {"successful": [], "incomplete": [], "errored": []}
    for i in range(len(run)):
        start = EPOCH_S + run.send_s[i]
        timings: dict[str, Any] = {"targeted_start": start - 0.001, "request_start": start, "token_iterations": None}
        if run.ok[i]:
            timings |= {"first_token_iteration": start + run.ttft_s[i], "last_token_iteration": start + run.e2e_s[i]}
            timings |= {"token_iterations": int(run.output[i])}
        status = "successful" if run.ok[i] else "errored"
        inside: dict[str, Any] = {"text_tokens": int(run.prompt[i]), "total_tokens": int(run.prompt[i])}
        requests[status].append(
            {
                "type_": "generative_request_stats",
                "request_id": f"r{i}",
                "info": {"status": status, "timings": timings},
                "input_metrics": inside | ({"cached_tokens": 16} if version == 2 else {}),
                "output_metrics": {"total_tokens": int(run.output[i])},
                "time_per_output_token_ms": 1e3 * run.e2e_s[i] / run.output[i],
            }
        )
    metadata = {"version": version, "guidellm_version": "0.6.0", "platform": "Linux"}
    config = {"strategy": {"type_": "poisson", "rate": 5.0}, "prefer_response_metrics": True}
    benchmark = {"type_": "generative_benchmark", "config": config, "metrics": {}, "requests": requests}
    asked = {"args": {"random_seed": 42}} if version == 1 else {"config": {"spec": {"seed": {"value": 42}}}}
    return json.dumps({"metadata": metadata, **asked, "benchmarks": [benchmark]}).encode()


def inference_perf(run: Client, layout: str = "0.6") -> bytes:
    """A list in order of completion, in one of the four layouts. Every request forbids an early end."""
    entries: list[Any] = []
    for i in by_end(run):
        start = 2596.6 + run.send_s[i]
        count = int(run.output[i])
        times = (start + run.ttft_s[i] + run.tpot_s[i] * np.arange(count)).tolist() if run.ok[i] else []
        made = count if run.ok[i] else 0
        usage = {"prompt_tokens": int(run.prompt[i]), "completion_tokens": count}
        chunks = ["{}"] * made
        prompt = int(run.prompt[i]) if run.ok[i] else 0
        if layout == "0.2":
            info: dict[str, Any] = {"input_tokens": prompt, "output_tokens": made}
            info |= {"output_token_times": [time for time in times for _ in range(2)]}
        elif layout == "0.3":
            info = {"input_tokens": prompt, "output_tokens": made, "output_token_times": times + times[-1:] * 2}
        elif layout == "0.5":
            twice = {"output_tokens": 2 * made, "output_token_times": sorted(times * 2), "chunk_times": times}
            info = {"input_tokens": prompt, "response_info": None}
            info |= {"response_info": {"response_chunks": chunks, "server_usage": usage, **twice}} if run.ok[i] else {}
        else:
            response = {"output_tokens": made - 1, "chunk_times": times[:-1], "output_token_times": times[:-1]}
            response |= {"response_chunks": chunks[:-1], "server_usage": usage}
            info = {"request_metrics": {"text": {"input_tokens": prompt}}}
            info |= {"response_metrics": response if run.ok[i] else None}
        body = {"prompt": f"p{i % 12}", "max_tokens": count, "ignore_eos": True}
        end = start + run.e2e_s[i] if run.ok[i] else start + 0.001
        error = None if run.ok[i] else {"error_type": "500", "error_msg": ""}
        entry = {"start_time": start, "end_time": end, "request": json.dumps(body), "response": "", "info": info}
        entries.append(entry | {"error": error})
    return json.dumps(entries).encode()


def aiperf(run: Client, usage: bool = False, phase: str = "profiling") -> bytes:
    """A record a line, in order of completion."""
    lines: list[bytes] = []
    for i in by_end(run):
        start = int(1e9 * (EPOCH_S + run.send_s[i]))
        metadata: dict[str, Any] = {"session_num": i, "x_request_id": f"r{i}", "turn_index": 0}
        metadata |= {"request_start_ns": start, "request_end_ns": start + int(1e9 * run.e2e_s[i])}
        metadata |= {"benchmark_phase": phase, "was_cancelled": False}
        metrics: dict[str, Any] = {}
        if run.ok[i]:
            metrics = {
                "time_to_first_token": {"value": 1e3 * run.ttft_s[i], "unit": "ms"},
                "request_latency": {"value": 1e3 * run.e2e_s[i], "unit": "ms"},
                "inter_chunk_latency": {"value": [1e3 * run.tpot_s[i]] * int(run.output[i] - 1), "unit": "ms"},
                "input_sequence_length": {"value": int(run.prompt[i]), "unit": "tokens"},
                "output_sequence_length": {"value": int(run.output[i]), "unit": "tokens"},
            }
            if usage:
                metrics |= {
                    "usage_prompt_tokens": {"value": int(run.prompt[i]) + 9, "unit": "tokens"},
                    "usage_completion_tokens": {"value": int(run.output[i]), "unit": "tokens"},
                    "usage_prompt_cache_read_tokens": {"value": 16, "unit": "tokens"},
                }
        error = None if run.ok[i] else {"code": 500, "message": "overloaded"}
        lines.append(json.dumps({"metadata": metadata, "metrics": metrics, "error": error}).encode() + b"\n")
    return b"".join(lines)


def llmperf(run: Client) -> bytes:
    """In order of completion; rows of errors carry times too."""
    entries = [
        {
            "error_code": None if run.ok[i] else 500,
            "error_msg": "",
            "inter_token_latency_s": run.e2e_s[i] / run.output[i],
            "ttft_s": run.ttft_s[i],
            "end_to_end_latency_s": run.e2e_s[i],
            "number_output_tokens": int(run.output[i]),
            "number_input_tokens": int(run.prompt[i]),
        }
        for i in by_end(run)
    ]
    return json.dumps([*entries, "a bare text"], indent=4).encode()


def llmservingsim(run: Client) -> bytes:
    """As the engine timed them."""
    lines: list[bytes] = []
    for i in range(len(run)):
        queued = 27536.6 + run.send_s[i]
        times = {"first_token_ts": queued + run.ttft_s[i], "last_token_ts": queued + run.e2e_s[i]}
        entry = {
            "request_id": f"bench-{i}",
            "input_toks": int(run.prompt[i]),
            "output_toks": int(run.output[i]),
            "arrival_time": EPOCH_S + run.send_s[i],
            "queued_ts": queued,
            "scheduled_ts": queued,
            **(times if run.ok[i] else dict.fromkeys(times)),
        }
        lines.append(json.dumps(entry).encode() + b"\n")
    return b"".join(lines)


def otel_spans(run: Client) -> bytes:
    """Stock vLLM's spans; requests that were aborted leave none."""
    lines: list[bytes] = []
    for i in by_end(run):
        if not run.ok[i]:
            continue
        start = int(1e9 * (EPOCH_S + run.send_s[i]))
        attributes = {
            "gen_ai.latency.time_to_first_token": {"doubleValue": run.ttft_s[i]},
            "gen_ai.latency.e2e": {"doubleValue": run.e2e_s[i]},
            "gen_ai.usage.prompt_tokens": {"intValue": str(run.prompt[i])},
            "gen_ai.usage.completion_tokens": {"intValue": str(run.output[i])},
            "gen_ai.request.n": {"intValue": "1"},
        }
        pairs = [{"key": key, "value": value} for key, value in attributes.items()]
        span = {"spanId": f"{i:016x}", "name": "llm_request", "startTimeUnixNano": str(start), "attributes": pairs}
        document = {"resourceSpans": [{"scopeSpans": [{"scope": {"name": "vllm"}, "spans": [span]}]}]}
        lines.append(json.dumps(document).encode() + b"\n")
    return b"".join(lines)


WRITERS: dict[str, tuple[str, Callable[[Client], bytes]]] = {
    "guidellm 0.3": ("guidellm", guidellm_old),
    "guidellm 1": ("guidellm", guidellm),
    "guidellm 2": ("guidellm", lambda run: guidellm(run, 2)),
    **{
        f"inference-perf {layout}": ("inference_perf", lambda run, layout=layout: inference_perf(run, layout))
        for layout in ("0.2", "0.3", "0.5", "0.6")
    },
    "aiperf 2025": ("aiperf", aiperf),
    "aiperf 0.10": ("aiperf", lambda run: aiperf(run, usage=True)),
    "llmperf": ("llmperf", llmperf),
    "llmservingsim": ("llmservingsim", llmservingsim),
    "otel-spans": ("otel_spans", otel_spans),
}
"""Format and version -> the module that reads it, and what writes it."""
