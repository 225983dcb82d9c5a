"""Traps that several clients set: one finding for each, with its numbers and what the user can do."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

import numpy as np

from roofml.traces.finding import Finding
from roofml.util.arrays import Bools, Floats, Ints
from roofml.util.outside_text import for_line

LEAST_LATE = 0.05
"""Mean lateness of the client, as a share of the mean E2E, from which it is told."""
BUNDLED = 1.05
"""Output tokens a chunk from which chunks hold several."""


def seeded_prompts(tool: str, seed: object) -> Finding:
    """Prompts drawn from a seed are those of every other run with it."""
    return Finding(
        "seeded-prompts",
        "info",
        f"{tool} draws its prompts from a seed (here {for_line(str(seed))[:40]}): another run with it sends the same.",
        {"seed": str(seed)[:40]},
        "If the server served such a run before and caches prefixes, every prompt was a hit: restart it between runs.",
    )


def asked_for_counts(number: int, requests: int, kind: str) -> Finding:
    """Counts of requests that were cut off are what was asked for, not what was made."""
    return Finding(
        "asked-for-counts",
        "corrected",
        f"{number} of {requests} requests are {kind}: their output counts are what was asked for, not what was made.",
        {"requests": number, "of": requests},
        "Their counts and latencies are left out; they load the server.",
    )


def retokenized(tool: str, advice: str) -> Finding:
    """Counts are those of a tokenizer that read the answer's text again."""
    return Finding(
        "retokenized-lengths",
        "warning",
        f"{tool} counted tokens by reading the answers' text again, not by the server's usage.",
        {},
        advice,
    )


def late_client(late_us: Floats, e2e_us: Floats, what: str) -> list[Finding]:
    """The finding about a client that sent later than planned: a limit on its own requests, or too few workers.

    `late_us` (requests,) is the time from plan to send.
    """
    late_us, e2e_us = late_us[np.isfinite(late_us)], e2e_us[np.isfinite(e2e_us)]
    if not len(late_us) or not len(e2e_us):
        return []
    late, usual = float(late_us.mean()), float(e2e_us.mean())
    return [client_queue(late, what)] if late > LEAST_LATE * usual else []


def client_queue(late_us: float, what: str) -> Finding:
    """Requests waited in the client, which no latency holds."""
    return Finding(
        "client-queue",
        "warning",
        f"Requests were sent {late_us / 1e3:.0f} ms after their plan on average: {what}.",
        {"mean_late_us": round(late_us, 1)},
        "Latencies count from the send, so this wait is in none of them; the rate that was asked for was not offered.",
    )


def remote_client(target: object, platform: object) -> list[Finding]:
    """The finding about a client that is far from the server, by the address it sent to or the machine it ran on."""
    host = urlsplit(str(target)).hostname if isinstance(target, str) else None
    desktop = isinstance(platform, str) and platform.lower().startswith(("macos", "windows", "darwin"))
    far = host is not None and _is_public(host)
    if not far and not (desktop and host not in (None, "localhost", "127.0.0.1", "::1")):
        return []
    where = f"the client sent to {for_line(str(host))[:80]}" if far else f"it ran on {for_line(str(platform))[:40]}"
    return [
        Finding(
            "remote-client",
            "warning",
            f"The client was not beside the server: {where}. TTFT and E2E hold the network, TTFT perhaps little else.",
            {"host": host, "platform": str(platform) if platform else None},
            "Fit on TPOT's evidence with care, and run the client on the server's own host to measure TTFT.",
        )
    ]


def _is_public(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        pass
    parts = host.rstrip(".").split(".")
    inside = ("local", "internal", "svc", "cluster", "lan", "localhost", "localdomain", "test", "example")
    return len(parts) > 1 and not set(parts) & set(inside)


def bundled_chunks(chunks: Ints, tokens: Ints, ok: Bools) -> list[Finding]:
    """The finding about chunks that hold several tokens: speculation, or a server that streams in intervals."""
    known = ok & (chunks > 1) & (tokens > 1)
    if not known.any():
        return []
    share = float(tokens[known].sum() / chunks[known].sum())
    if share < BUNDLED:
        return []
    return [
        Finding(
            "bundled-chunks",
            "warning",
            f"A chunk holds {share:.2f} tokens on average: speculative decoding, or stream_interval.",
            {"tokens_per_chunk": round(share, 4), "requests": int(known.sum())},
            "TPOT is that of the first and last chunk and of the server's counts. Speculation cannot be fitted.",
        )
    ]


def later_turns(number: int, requests: int) -> Finding:
    """Requests that repeat the conversation before them."""
    return Finding(
        "later-turns",
        "warning",
        f"{number} of {requests} requests are later turns: their prompts begin with the conversation so far.",
        {"requests": number, "of": requests},
        "With prefix caching that part is a hit. The server's cached tokens are used where the file has them.",
    )


def weighted_tpot() -> Finding:
    """GuideLLM weighs each request's TPOT by its tokens."""
    return Finding(
        "weighted-tpot",
        "warning",
        "The mean inter_token_latency_ms weighs each request by its tokens, as no mean TPOT does.",
        {},
        "They are the same where all requests made equally many tokens; longer requests pull it else.",
    )
