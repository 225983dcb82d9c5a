"""Reader: what `vllm bench serve` and the scripts before it write: one JSON object a run, a list, or one a line.

Source: vllm/benchmarks/serve.py (before mid-2025 benchmarks/benchmark_serving.py). Times are in seconds, those of the
aggregates in ms. With --save-detailed there is a list for each field, over all requests in order of sending; E2E is
the first token's time and all gaps after it. The client sends its first prompt to the server before the run.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from roofml.traces.finding import Finding
from roofml.traces.formats import values
from roofml.traces.formats.documents import read_documents, run_name
from roofml.traces.formats.lists import (
    BUNDLED,
    SEVERAL_TOKENS,
    Lists,
    bundled,
    check_unit,
    read_aggregates,
    read_lists,
    read_load,
)
from roofml.traces.formats.peek import peek
from roofml.traces.formats.values import Object
from roofml.traces.recording import Facts, LoadSaid, Recording
from roofml.util.errors import InputError

SERVER_KEYS = {
    **dict.fromkeys(("tensor_parallel_size", "tp"), "tensor_parallel"),
    **{key: key for key in ("max_num_seqs", "max_num_batched_tokens", "block_size", "max_model_len")},
    "enable_prefix_caching": "prefix_caching",
    "async_scheduling": "async_scheduling",
    "vllm_version": "engine_version",
    "gpu": "gpu",
}
"""Keys of a swept flag, or of --metadata -> field of `Server`."""
COLD_RATIO = 2.0
"""How many times as long first tokens took in the first of two runs of the same prompts, where the second hit."""
FEWEST_LENGTHS = 8
"""Different lengths of prompts, in one order, that are the same prompts."""


def detect(path: Path) -> bool:
    """Whether `path` is such a file, by the names in its first object."""
    shown = peek(path)
    return shown.has("model_id", "num_prompts", "completed") or shown.has("model_id", "request_rate", "num_prompts")


def read(path: Path) -> list[Recording]:
    """The runs in `path`, in its order. Raises InputError naming file and field."""
    documents = read_documents(path)
    runs = [_run(path, source, document) for source, document in documents]
    return _warmed_by_others(runs)


def _run(path: Path, source: str, document: Object) -> Recording:
    completed = values.count(source, document, "completed")
    if completed is None:
        raise InputError(f"{source}: completed is missing, expected what `vllm bench serve` writes")
    failed = values.count(source, document, "failed") or 0
    detail = read_lists(source, document)
    sent = values.count(source, document, "num_prompts") or max(completed + failed, detail.requests if detail else 0)
    aggregates = read_aggregates(source, document) if completed else {}
    load = replace(read_load(source, document, completed), burstiness=values.number(source, document, "burstiness"))
    findings = bundled(aggregates)
    unfit = None
    each = None
    if detail is not None:
        check_unit(source, detail, aggregates, sent)
        findings += _findings(document, detail)
        each = detail.tokens_alone().each(np.arange(detail.requests) == 0)
        if detail.requests < sent:
            unfit = f"{detail.requests} of {sent} requests are in it, and the load of the others is not"
            findings.append(_cut(detail.requests, sent))
    if any(finding.code == "bundled-chunks" for finding in findings):
        unfit = unfit or SEVERAL_TOKENS
    if load.max_concurrency is not None and load.requests_per_s is not None and math.isfinite(load.requests_per_s):
        findings.append(_two_limits(load))
    model = values.word(document, "model_id")
    return Recording(
        name=run_name(path),
        source=source,
        format="vllm-bench",
        requests=sent,
        completed=completed,
        each=each if completed else None,
        aggregates=aggregates,
        load=load,
        facts={path.name: _facts(document)},
        hints={path.name: {"model": model}} if model is not None else {},
        findings=tuple(findings),
        refused=None if completed else f"all {sent} requests failed: every time in it is 0",
        unfit=unfit,
    )


def _facts(document: Object) -> Facts:
    """What the keys say of the server. It has served the client's test request, so that it had not just started."""
    found: dict[str, object] = {"fresh": False}
    for key, name in SERVER_KEYS.items():
        value: object = document.get(key)
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        if value is not None:
            found[name] = value
    if any(key.startswith("spec_decode_") for key in document):
        found["speculative_config"] = "spec_decode_..."
    return found


def _findings(document: Object, lists: Lists) -> list[Finding]:
    found = [_first_prompt()]
    chat = "chat" in str(document.get("endpoint_type") or document.get("backend") or "")
    ok = lists.ok & (lists.chunks > 0)
    if ok.any():
        extra = lists.chunks[ok] - lists.output_tokens[ok]
        if float(np.median(extra)) == 1:
            found.append(_role_chunk(int((extra == 1).sum()), chat))
        elif lists.chunks[ok].sum() * BUNDLED < lists.output_tokens[ok].sum():
            found.append(_several_tokens(float(lists.chunks[ok].sum() / lists.output_tokens[ok].sum())))
    if not np.isfinite(lists.e2e_us).any():
        found.append(_no_gaps())
    if chat and "queue_times" not in document:  # the newest count as the server does
        found.append(_template())
    if document.get("queue_times"):
        found.append(_client_queue())
    return found


def _warmed_by_others(runs: list[Recording]) -> list[Recording]:
    """The runs of one file, of which later ones that sent the same prompts as an earlier one are told."""
    result: list[Recording] = []
    for run in runs:
        found, unfit = list(run.findings), run.unfit
        for place, before in enumerate(result):
            said = _same_prompts(before, run)
            if said is None:
                continue
            found.append(_warm_cache(place, said))
            if said >= COLD_RATIO:
                unfit = unfit or "its prompts were in the server's cache: the run before it had sent them"
            break
        result.append(replace(run, findings=tuple(found), unfit=unfit))
    return result


def _same_prompts(before: Recording, after: Recording) -> float | None:
    """How many times as long a first token took in the run before; None where the prompts differ, or are unknown."""
    if before.each is None or after.each is None or not after.completed or not before.completed:
        return None
    size = min(len(before.each.ok), len(after.each.ok))
    ours, theirs = after.each.input_tokens[:size], before.each.input_tokens[:size]
    if not np.array_equal(ours, theirs) or len(np.unique(ours)) < min(FEWEST_LENGTHS, size):
        return None
    return float(np.nanmedian(before.each.ttft_us) / np.nanmedian(after.each.ttft_us))


def _warm_cache(place: int, ratio: float) -> Finding:
    hit = f"its first tokens took 1/{ratio:.1f} of the time" if ratio >= COLD_RATIO else "its first tokens took as long"
    return Finding(
        "warm-cache",
        "warning",
        f"Run {place + 1} of the file sent prompts of the same lengths in the same order, and {hit}.",
        {"run": place + 1, "ttft_ratio": ratio},
        "The client draws its prompts from a fixed seed (--seed): on the same server the second run finds them in the "
        "prefix cache. Give another seed, or start the server again, for a run to fit.",
    )


def _first_prompt() -> Finding:
    return Finding(
        "first-prompt-cached",
        "corrected",
        "The client sends the first prompt to the server before the run: request 1 finds it in the prefix cache.",
        {"requests": 1},
        "It loads the server and is not measured.",
    )


def _role_chunk(requests: int, chat: bool) -> Finding:
    what = "the chunk that names the role comes first" if chat else "an empty one comes first or last"
    return Finding(
        "role-chunk",
        "info",
        f"{requests} requests have one chunk more than tokens: {what}.",
        {"requests": requests},
        "TPOT is taken as (E2E - TTFT) / (tokens - 1) and does not need chunks; the client's mean ITL is below it.",
    )


def _several_tokens(ratio: float) -> Finding:
    return Finding(
        "bundled-chunks",
        "warning",
        f"Only {ratio:.2f} chunks came per output token: several tokens came at once.",
        {"chunks_per_token": ratio},
        "TPOT is taken as (E2E - TTFT) / (tokens - 1). If the server speculated, no fit here describes it; if it "
        "streamed every so many tokens, give --server-arg stream_interval=N.",
    )


def _no_gaps() -> Finding:
    return Finding(
        "no-token-times",
        "warning",
        "The file has first tokens of each request, and neither the gaps after them (itls) nor latencies.",
        {},
        "It is judged by its means. vLLM's own client writes them with --save-detailed.",
    )


def _template() -> Finding:
    return Finding(
        "chat-template-uncounted",
        "info",
        "input_lens may be the client's count of a chat prompt, without the template that the server adds.",
        {},
        "Newer clients write the server's count. Prompts are then longer by some tens of tokens.",
    )


def _client_queue() -> Finding:
    return Finding(
        "client-queue",
        "info",
        "Requests waited in the client for a place under --max-concurrency (queue_times).",
        {},
        "TTFT and E2E begin after that, when the request was sent.",
    )


def _cut(there: int, sent: int) -> Finding:
    return Finding(
        "requests-missing",
        "warning",
        f"The lists hold {there} of {sent} requests; the means of the header are of all.",
        {"requests_in_lists": there, "requests": sent},
        "The means are the header's. The run cannot be fitted on: what else loaded the server is not in it.",
    )


def _two_limits(load: LoadSaid) -> Finding:
    return Finding(
        "concurrency-limited",
        "info",
        f"The client sent {load.requests_per_s:g} requests a second, never more than {load.max_concurrency} at once.",
        {"requests_per_s": load.requests_per_s, "max_concurrency": load.max_concurrency},
        "Where the limit is reached, requests queue in the client, unseen by TTFT; times of sending are after that.",
    )
