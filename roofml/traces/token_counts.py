"""Token counts as the server saw them: the client's counts can be wrong, and the times show it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roofml.traces.finding import Finding
from roofml.traces.limits import MOST_TOKENS
from roofml.traces.raw import RawRun
from roofml.traces.server import FLAGS
from roofml.util.arrays import Bools, Floats, Ints
from roofml.util.errors import InputError
from roofml.util.outside_text import for_line

FEWEST = 50
"""Fewest requests whose times are compared with the counts."""


@dataclass(frozen=True)
class Elasticity:
    """Relative change of decode time for a relative change of the reported count: 1 for right counts, 0 for noise."""

    value: float
    error: float
    """Standard error."""

    def __str__(self) -> str:
        return f"{round(self.value, 2) + 0.0:.2f} ± {self.error:.2f}"

    @property
    def confirms(self) -> bool:
        """The times follow the counts."""
        return self.value - 3 * self.error > 0.5

    @property
    def refutes(self) -> bool:
        """The times do not follow the counts."""
        return self.value + 3 * self.error < 0.5


def elasticity(counts: Ints, decode_us: Floats) -> Elasticity | None:
    """Slope of decode time over count, both relative to their means; None if the data cannot tell."""
    spread = counts - counts.mean()
    power = float((spread**2).sum())
    if len(counts) < FEWEST or power == 0 or decode_us.mean() <= 0 or counts.mean() <= 1:
        return None
    slope = float((spread * decode_us).sum()) / power
    residual = decode_us - decode_us.mean() - slope * spread
    error = float(np.sqrt((residual**2).sum() / (len(counts) - 2) / power))
    scale = float((counts.mean() - 1) / decode_us.mean())
    return Elasticity(slope * scale, error * scale)


def prompt_counts(raw: RawRun) -> tuple[Ints, Bools, list[Finding]]:
    """(prompt tokens, rows with a count, findings). Raises InputError if no row has a count."""
    named = (raw.prefix_group >= 0) & (raw.prefix_length > 0)
    client: Ints = raw.input_tokens + np.where(named, raw.prefix_length, 0)
    reported = raw.server_input_tokens > 0
    prompt: Ints = np.where(reported, raw.server_input_tokens, client)
    findings: list[Finding] = []
    differs = reported & (client > 0) & (client != raw.server_input_tokens)
    if differs.any():
        ratio = float(np.median(raw.server_input_tokens[differs] / np.maximum(client[differs], 1)))
        summary = (
            f"The server counted other prompt lengths than the client for {int(differs.sum())} of {len(raw)} requests"
        )
        evidence = {"requests": int(differs.sum()), "median_ratio": ratio}
        advice = "The server's counts are used; they include chat template and special tokens."
        findings.append(
            Finding("prompt-count-differs", "corrected", f"{summary} (median ratio {ratio:.3f}).", evidence, advice)
        )
    has_count = prompt > 0
    if not has_count.any():
        raise InputError(f"{for_line(raw.name)}: input_tokens is 0 in every row, expected the prompt lengths")
    typical = int(np.median(prompt[has_count]))
    prompt = np.where(has_count, prompt, typical)
    number = int((~has_count & raw.ok).sum())  # a failed request has none to report
    if number:
        summary = f"{number} of {len(raw)} requests report a prompt of 0 tokens."
        advice = f"They are replayed with the median of the others ({typical}) and not measured."
        evidence = {"requests": number, "tokens_assumed": typical}
        findings.append(Finding("zero-prompt-tokens", "corrected", summary, evidence, advice))
    return prompt.astype(np.int64), has_count, findings


def output_counts(raw: RawRun, prompt: Ints, late: Bools) -> tuple[Ints, Bools, list[Finding]]:
    """(output tokens, rows with a count, findings).

    If the user gives a number, every request made that many tokens. Else, if the generator forbade an early end
    (`ignore_eos`) and asked for one length, every request made that length, unless the times follow the reported
    counts. Else the reported counts hold. A request that was given up `late` asked for as many as the others made.
    Raises InputError if no measured request has a count.
    """
    usable = raw.measured
    decode = raw.e2e_us - raw.ttft_us
    trend = elasticity(raw.output_tokens[usable], decode[usable])
    reported: Ints = raw.output_tokens
    findings: list[Finding] = []
    length = _length(raw, trend, findings)
    if length is None:
        if trend is not None and trend.refutes:
            findings.append(_unrelated(reported[usable], trend))
        counts, has_count = reported, reported > 0
    else:
        room = raw.server.max_model_len - prompt
        if raw.output_tokens_override is not None and length > room.max():
            raise InputError(
                f"{FLAGS['output_tokens']}: {length}, expected at most {max(1, int(room.max()))}: max_model_len is "
                f"{raw.server.max_model_len} and the shortest prompt {int(prompt.min())}"
            )
        counts = np.where(room > 0, np.minimum(length, room), length)
        has_count = np.ones(len(raw), dtype=np.bool_)
        cut = int((counts < length).sum())
        if cut:
            summary = f"{cut} requests had no room for {length} output tokens within max_model_len."
            advice = "They are taken to have ended at max_model_len."
            severity = "corrected" if raw.output_tokens_override is None else "warning"
            findings.append(Finding("output-cut-by-context", severity, summary, {"requests": cut}, advice))
    if not (has_count & usable).any():
        raise InputError(f"{for_line(raw.name)}: output_tokens is 0 in every row, expected counts or --output-tokens")
    return *_fill_unknown(raw, counts, has_count, np.where(late, np.nan, decode), findings), findings


def _length(raw: RawRun, trend: Elasticity | None, findings: list[Finding]) -> int | None:
    """The number of tokens that every request made; None if it is not known."""
    usable = raw.measured
    reported = raw.output_tokens[usable]
    if raw.output_tokens_override is not None:
        length, reason = raw.output_tokens_override, "--output-tokens says so"
    elif raw.generator is not None and raw.generator.ignore_eos and raw.generator.output_tokens is not None:
        length, reason = raw.generator.output_tokens, f"{raw.generator.source} asked for that many with ignore_eos"
    else:
        return None
    mismatches = int((reported != length).sum())
    if not mismatches:
        return length
    evidence = {
        "requests": mismatches,
        "output_tokens": length,
        "reported_min": int(reported.min()),
        "reported_median": float(np.median(reported)),
        "reported_max": int(reported.max()),
        "elasticity": trend.value if trend is not None else None,
        "elasticity_error": trend.error if trend is not None else None,
    }
    if trend is not None and trend.confirms and raw.output_tokens_override is None:
        findings.append(
            Finding(
                "generator-contradicts-times",
                "warning",
                f"{reason}, but decode times follow the reported counts ({reported.min()}-{reported.max()}, elasticity "
                f"{trend}).",
                evidence,
                f"The reported counts are used. If they are wrong, give --output-tokens {length}.",
            )
        )
        return None
    times = "the times cannot tell"
    if trend is not None:
        scaled = f"elasticity {trend}; 1 if the counts were right"
        times = f"decode time does not depend on them ({scaled})" if trend.refutes else f"the times allow it ({scaled})"
    findings.append(
        Finding(
            "output-count-wrong",
            "corrected",
            f"Every request made {length} tokens ({reason}), but {mismatches} of {len(reported)} report another count, "
            f"{reported.min()}-{reported.max()}; {times}.",
            evidence,
            f"All requests are taken to have made {length} tokens. Clients that tokenize the answer's text again "
            "miscount; record the server's usage.completion_tokens.",
        )
    )
    return length


def _unrelated(reported: Ints, trend: Elasticity) -> Finding:
    return Finding(
        "output-count-doubtful",
        "warning",
        f"Decode time does not depend on the reported output counts ({reported.min()}-{reported.max()}): elasticity "
        f"{trend}, where true counts give 1.",
        {
            "elasticity": trend.value,
            "elasticity_error": trend.error,
            "reported_median": float(np.median(reported)),
        },
        "They are used all the same, for want of better. If every request made the same number (ignore_eos), give "
        "--output-tokens; else record the server's usage.completion_tokens.",
    )


def _fill_unknown(
    raw: RawRun, counts: Ints, has_count: Bools, decode: Floats, findings: list[Finding]
) -> tuple[Ints, Bools]:
    """Estimate the tokens of failed requests and of those that report 0 from decode time. They only load the server."""
    certain = has_count & raw.measured & (counts > 1)
    pace = float(np.median(decode[certain] / (counts[certain] - 1))) if certain.any() else 0.0
    failed = ~raw.ok & np.isfinite(decode)
    unknown = ~has_count & np.isfinite(decode)
    estimate = np.ones(len(raw), dtype=np.int64)
    if pace > 0:
        estimate = np.where(np.isfinite(decode), 1 + np.nan_to_num(decode) / pace, 1)
        estimate = np.minimum(estimate, MOST_TOKENS).round().astype(np.int64)
    # A failed request ended early: it made at most as many tokens as it asked for.
    filled = np.where(unknown, estimate, counts)
    filled = np.where(failed & has_count, np.clip(estimate, 1, np.maximum(counts, 1)), filled)
    if certain.any():
        filled = np.where(~has_count & (~raw.timed | ~np.isfinite(decode)), int(np.median(counts[certain])), filled)
    zero = int((unknown & raw.ok).sum())
    if zero:
        summary = f"{zero} of {len(raw)} requests succeeded with 0 reported output tokens."
        advice = "They are replayed with counts estimated from their decode time, and not measured."
        evidence = {"requests": zero, "pace_us": pace}
        findings.append(Finding("zero-output-tokens", "corrected", summary, evidence, advice))
    return np.maximum(filled, 1).astype(np.int64), has_count
