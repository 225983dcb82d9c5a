"""Repeated prompts: which requests carry the same prompt. This is the first trap: a repeat is a prefix-cache hit.

A generator that cycles through p prompts sends prompt i mod p as request i. The trace holds no prompts, but their
lengths repeat with period p. Requests sent within a few milliseconds of each other may have changed places; such a
swap shows as two neighbouring mismatches that explain each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roofml.traces.finding import Evidence, Finding
from roofml.traces.raw import RawRun
from roofml.util.arrays import Bools, Floats, Ints

LEAST_MATCH = 0.6
"""Least share of requests with the prompt length of the request one period later, for a period to be tried."""
LEAST_EXPLAINED = 0.95
"""Least share of requests with their prompt's length once swaps are undone, for a period to be believed."""
LEAST_LENGTHS = 8
"""Fewest different lengths in a cycle for which a pattern of lengths is evidence of repeated text."""
LEAST_DECADES = 12.0
"""Least evidence against chance, in powers of ten."""
LONGEST_PERIOD = 10_000
LARGE, SAMPLE, SAMPLED = 50_000, 8_192, 0.05
"""Requests from which a period is first tried on so many of them, and how far the share among those may be off: nine
standard deviations."""
REACH = 8
"""Most places that a request can have slipped in the order of sending."""


@dataclass(frozen=True, eq=False)
class Cycle:
    """Prompts that were sent over and over: request i carries prompt `slot[i]`, or -1 if its length fits none."""

    period: int
    slot: Ints
    """(requests,)"""
    slot_tokens: Ints
    """Length of each prompt, tokens, shape (period,)."""
    swapped: int
    """Number of requests that had changed places with a neighbour."""
    match: float
    """Share of requests with the prompt length of the request one period later, in order of sending."""
    explained: float
    """Share of requests whose length is that of their prompt. Those of which it is not known count for neither share,
    and have the prompt of their place."""


def find_cycle(prompt_tokens: Ints, request_id: Ints) -> Cycle | None:
    """The smallest period in the sequence of prompt lengths that chance cannot explain, or None.

    A length of 0 is not known: a request that failed has none, and stands in its place all the same.
    """
    requests = len(prompt_tokens)
    if not prompt_tokens.any():
        return None
    chance = _chance(prompt_tokens)
    if chance >= LEAST_MATCH:
        return None
    rejected = 0
    looked_at = np.sort(np.random.default_rng(0).integers(0, requests, SAMPLE)) if requests > LARGE else None
    for period in range(2, min(requests // 2, LONGEST_PERIOD) + 1):
        if looked_at is not None and _match_of(prompt_tokens, period, looked_at) < LEAST_MATCH - SAMPLED:
            continue
        match, pairs = _match(prompt_tokens, period)
        if match < LEAST_MATCH or _decades(match, chance, pairs) < LEAST_DECADES:
            continue
        cycle = align(prompt_tokens, request_id, period)
        if cycle.explained >= LEAST_EXPLAINED and len(np.unique(cycle.slot_tokens)) >= LEAST_LENGTHS:
            return cycle
        rejected += 1
        if rejected == 5:
            return None
    return None


def align(prompt_tokens: Ints, request_id: Ints, period: int) -> Cycle:
    """Assign every request to one of `period` prompts, by its place in the order of sending or by its id.

    The id is right if rows are missing from the trace. The assignment that explains more requests is taken.
    """
    places: Ints = np.arange(len(prompt_tokens), dtype=np.int64)
    cycles = [_align(prompt_tokens, place, period) for place in (places, request_id - request_id.min())]
    return max(cycles, key=lambda cycle: cycle.explained)


def _align(prompt_tokens: Ints, place: Ints, period: int) -> Cycle:
    slot = place % period
    slot_tokens = _modes(prompt_tokens, slot, period)
    known: Bools = prompt_tokens > 0
    fits: Bools = (prompt_tokens == slot_tokens[slot]) | ~known
    misfits = np.flatnonzero(~fits)
    assigned = np.where(fits, slot, -1)
    used: set[int] = set()
    # So many misfits are not swaps, and not worth the time.
    for row in misfits if len(misfits) <= len(prompt_tokens) // 2 else ():
        low, high = np.searchsorted(misfits, (row - REACH, row + REACH + 1))
        for neighbour in sorted(misfits[low:high].tolist(), key=lambda neighbour: abs(neighbour - int(row))):
            if neighbour not in used and slot_tokens[slot[neighbour]] == prompt_tokens[row]:
                assigned[row] = slot[neighbour]
                used.add(neighbour)
                break
    match, _ = _match(prompt_tokens, period)
    explained = float((assigned[known] >= 0).mean())
    return Cycle(period, assigned.astype(np.int64), slot_tokens, len(used), match, explained)


def _match(prompt_tokens: Ints, period: int) -> tuple[float, int]:
    """(share of pairs one period apart whose lengths are equal, number of pairs of known lengths)."""
    if period >= len(prompt_tokens):
        return 0.0, 0
    first, second = prompt_tokens[:-period], prompt_tokens[period:]
    known = (first > 0) & (second > 0)
    pairs = int(known.sum())
    return (float((first == second)[known].mean()) if pairs else 0.0), pairs


def _match_of(prompt_tokens: Ints, period: int, places: Ints) -> float:
    """The same share of the requests at some `places`."""
    first = places[: np.searchsorted(places, len(prompt_tokens) - period)]
    ours, theirs = prompt_tokens[first], prompt_tokens[first + period]
    known = (ours > 0) & (theirs > 0)
    return float((ours == theirs)[known].mean()) if known.any() else 0.0


def _modes(prompt_tokens: Ints, slot: Ints, period: int) -> Ints:
    """Most frequent length of each slot; 0 for a slot no request of known length fell into."""
    prompt_tokens, slot = prompt_tokens[prompt_tokens > 0], slot[prompt_tokens > 0]
    lengths, code = np.unique(prompt_tokens, return_inverse=True)
    pairs, counts = np.unique(slot * len(lengths) + code, return_counts=True)
    order = np.lexsort((pairs, -counts, pairs // len(lengths)))
    slots, first = np.unique(pairs[order] // len(lengths), return_index=True)
    modes = np.zeros(period, dtype=np.int64)
    modes[slots] = lengths[pairs[order][first] % len(lengths)]
    return modes


def _chance(prompt_tokens: Ints) -> float:
    """Probability that two requests drawn at random have prompts of the same length."""
    _, counts = np.unique(prompt_tokens[prompt_tokens > 0], return_counts=True)
    shares: Floats = counts / counts.sum()
    return float((shares**2).sum())


def _decades(match: float, chance: float, pairs: int) -> float:
    """Powers of ten by which chance falls short of this match (Chernoff bound, pairs taken as independent)."""
    if match <= chance:
        return 0.0
    mismatch = (1 - match) * np.log((1 - match) / (1 - chance)) if match < 1 else 0.0
    return float(pairs * (match * np.log(match / chance) + mismatch) / np.log(10))


def shared_prompts(raw: RawRun, prompt_tokens: Ints, known: Bools) -> tuple[Ints, Ints, Ints, list[Finding]]:
    """(prefix_group, prefix_tokens, prompt_tokens, findings): which requests share how much of their prompts.

    All arrays have shape (requests,). Lengths are as they are given, but where they are not `known` and prompts repeat:
    there they are those of the prompt whose turn it was.
    """
    unique: tuple[Ints, Ints, Ints] = np.full(len(raw), -1), np.zeros(len(raw), np.int64), prompt_tokens
    findings: list[Finding] = []
    named = raw.prefix_group >= 0
    if (named & (raw.prefix_length > 0)).any():
        return *_named(raw, prompt_tokens, findings), prompt_tokens, findings
    if named.any():
        advice = "Nothing is shared in the replay. Record prefix_length, or fit on another run."
        summary = f"{int(named.sum())} requests name a prefix_group, but every prefix_length is 0."
        findings.append(Finding("prefix-length-missing", "warning", summary, {"requests": int(named.sum())}, advice))
    if len(raw.prompt):
        return *_told(raw, prompt_tokens, findings), prompt_tokens, findings
    if len(raw.cached_tokens):
        return *_cached(raw, prompt_tokens, findings), prompt_tokens, findings
    generator = raw.generator
    configured = generator.prompts if generator is not None and generator.prompts is not None else 0
    counted = np.where(known, prompt_tokens, 0)
    cycle = find_cycle(counted, raw.request_id)
    support = "the trace alone shows it"
    if generator is not None and configured:
        by_settings = align(counted, raw.request_id, configured)
        if cycle is not None and cycle.period == configured:
            support = f"{generator.source} says so too"
        elif cycle is None and by_settings.explained >= LEAST_EXPLAINED:
            cycle = by_settings
            support = f"{generator.source} says so, and the prompt lengths do not contradict it"
        else:
            findings.append(_contradiction(generator.source, configured, by_settings, cycle))
            if cycle is None:
                return *unique, findings
    if cycle is None or cycle.period >= len(raw):
        return *unique, findings
    turn: Ints = np.where(cycle.slot >= 0, cycle.slot_tokens[cycle.slot], 0)  # 0: of that prompt no length is known
    prompt_tokens = np.where(known | (turn == 0), prompt_tokens, turn)
    findings.append(_repeated(raw, prompt_tokens, cycle, support))
    if generator is not None and generator.system_prompt_tokens and generator.prompts_per_group:
        findings.append(_system_prompt(raw, cycle, generator.system_prompt_tokens, generator.prompts_per_group))
    return cycle.slot, np.where(cycle.slot >= 0, prompt_tokens, 0), prompt_tokens, findings


def _named(raw: RawRun, prompt_tokens: Ints, findings: list[Finding]) -> tuple[Ints, Ints]:
    """(prefix_group, prefix_tokens) from the prefixes that the trace names."""
    sharing = (raw.prefix_group >= 0) & (raw.prefix_length > 0)
    group = np.where(sharing, raw.prefix_group, -1)
    tokens = np.where(sharing, np.minimum(raw.prefix_length, prompt_tokens), 0)
    groups = np.unique(group[sharing])
    evidence: Evidence = {"requests": int(sharing.sum()), "groups": len(groups)}
    summary = f"{int(sharing.sum())} of {len(raw)} requests share a named prefix, in {len(groups)} groups."
    advice = "The replay serves a group's prefix from the cache after its first request."
    findings.append(Finding("named-prefixes", "info", summary, evidence, advice))
    uneven = sum(len(np.unique(tokens[group == number])) > 1 for number in groups)
    if uneven:
        summary = f"prefix_length differs between the requests of {uneven} of {len(groups)} prefix groups."
        advice = "The shortest counts as shared. BLIS takes the first row's for the whole group."
        findings.append(Finding("prefix-length-differs", "warning", summary, {"groups": uneven}, advice))
    return group.astype(np.int64), tokens.astype(np.int64)


def _told(raw: RawRun, prompt_tokens: Ints, findings: list[Finding]) -> tuple[Ints, Ints]:
    """(prefix_group, prefix_tokens) where the trace tells which prompts are equal."""
    _, place, times = np.unique(raw.prompt, return_inverse=True, return_counts=True)
    repeated = times[place] > 1
    if not repeated.any():
        return np.full(len(raw), -1), np.zeros(len(raw), np.int64)
    # Equal prompts of a failed request, or counted otherwise, still share what both have.
    group = np.where(repeated, place, -1).astype(np.int64)
    number = len(times)
    share = 1 - number / len(raw)
    findings.append(
        Finding(
            "repeated-prompts",
            "corrected",
            f"{number} different prompts were sent in {len(raw)} requests: the file says which are equal.",
            {"prompts": number, "requests": len(raw), "expected_hit_share": share if raw.server.prefix_caching else 0},
            "Requests with the same prompt are grouped: after the first the replay takes it from the cache.",
        )
    )
    return group, np.where(repeated, prompt_tokens, 0)


def _cached(raw: RawRun, prompt_tokens: Ints, findings: list[Finding]) -> tuple[Ints, Ints]:
    """(prefix_group, prefix_tokens) from the prompt tokens that the server said it found in its cache.

    Which request they were shared with is not said: all that hit are one group, with the first request of the run.
    """
    cached = np.minimum(raw.cached_tokens, prompt_tokens)
    hits = cached > 0
    nobody = np.full(len(raw), -1), np.zeros(len(raw), np.int64)
    if not hits.any():
        return nobody
    evidence: Evidence = {
        "requests": int(hits.sum()),
        "share_of_prompt_tokens": float(cached.sum() / max(int(prompt_tokens.sum()), 1)),
        "first_was_cached": bool(hits[0]),
    }
    summary = f"The server found prompt tokens of {int(hits.sum())} of {len(raw)} requests in its cache"
    share = f"{100 * float(cached.sum() / max(int(prompt_tokens.sum()), 1)):.0f} % of all prompt tokens"
    if hits[0]:
        advice = "The replay starts with an empty cache and computes the first of them: leave the first requests out."
        findings.append(Finding("warm-cache", "warning", f"{summary}, the first's too ({share}).", evidence, advice))
    else:
        advice = "The replay takes as many from the cache, as if all shared one beginning with the first request."
        findings.append(Finding("cached-tokens", "corrected", f"{summary} ({share}).", evidence, advice))
    group = np.where(hits, 0, -1).astype(np.int64)
    tokens = np.where(hits, cached, 0).astype(np.int64)
    group[0], tokens[0] = 0, max(int(tokens[0]), int(min(prompt_tokens[0], cached.max())))
    return group, tokens


def _repeated(raw: RawRun, prompt_tokens: Ints, cycle: Cycle, support: str) -> Finding:
    requests = len(raw)
    unknown = int((cycle.slot < 0).sum())
    first_time = len(np.unique(cycle.slot[cycle.slot >= 0]))
    hits = 1 - (first_time + unknown) / requests
    block = raw.server.block_size
    # vLLM never takes the whole prompt from the cache: at least one token is computed for the logits.
    computed = prompt_tokens - (prompt_tokens - 1) // block * block
    work = "Prefix caching was off, so each was computed in full all the same."
    if raw.server.prefix_caching:
        work = f"A cached prompt computes only about {computed.mean():.0f} of its {prompt_tokens.mean():.0f} tokens."
    odd = f" {unknown} requests fit no prompt and are taken as unique." if unknown else ""
    return Finding(
        "repeated-prompts",
        "corrected",
        f"{cycle.period} prompts were sent over and over: {100 * cycle.match:.1f} % of requests have the prompt length "
        f"of the one {cycle.period} later ({100 * _chance(prompt_tokens):.1f} % by chance), and {support}.",
        {
            "period": cycle.period,
            "match": cycle.match,
            "chance": _chance(prompt_tokens),
            "explained": cycle.explained,
            "swapped_requests": cycle.swapped,
            "unassigned_requests": unknown,
            "expected_hit_share": hits if raw.server.prefix_caching else 0.0,
            "prompt_tokens_mean": float(prompt_tokens.mean()),
            "computed_tokens_mean_on_hit": float(computed.mean()),
        },
        f"Requests with the same prompt are grouped; {cycle.swapped} that had changed places with a neighbour were put "
        f"back.{odd} {work}",
    )


def _contradiction(source: str, configured: int, by_settings: Cycle, cycle: Cycle | None) -> Finding:
    pattern = f"they repeat every {cycle.period}" if cycle is not None else "they do not repeat"
    period = cycle.period if cycle is not None else None
    return Finding(
        "repeats-contradict-generator",
        "warning",
        f"{source} says {configured} prompts were sent in turn, but by the prompt lengths {pattern} "
        f"({100 * by_settings.explained:.0f} % of requests fit a cycle of {configured}).",
        {"asked": configured, "explained": by_settings.explained, "period": period},
        "The trace is believed. Check that the settings belong to this run and that no rows are missing from it.",
    )


def _system_prompt(raw: RawRun, cycle: Cycle, tokens: int, per_group: int) -> Finding:
    return Finding(
        "shared-system-prompt",
        "info",
        f"Each group of {per_group} prompts starts with the same {tokens} tokens, but which prompt belongs to which "
        "group is not in the trace.",
        {"system_prompt_tokens": tokens, "prompts_per_group": per_group, "requests_affected": cycle.period},
        f"Not modelled: it matters only the first time a prompt is sent, {min(cycle.period, len(raw))} of {len(raw)} "
        "requests.",
    )
