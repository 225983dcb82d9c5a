"""A configuration of llm-d-inference-sim whose latencies are nearest to those of our replay.

Source of the schema and the form: llm-d/llm-d-inference-sim, docs/latency-simulation.md (1794454), pkg/common/config.go
and RandomNormDuration of pkg/common/utils.go, of 2026. With n prompt tokens, r requests running and s seats:

    F    = 1 + (time-factor-under-load - 1)·(r - 1)/(s - 1)
    TTFT = F·(prefill-overhead + (n - cached)·prefill-time-per-token)
    ITL  = F·inter-token-latency

A duration is cut to whole milliseconds before it is slept, and once more where it has a standard deviation, which is
cut as well. Nothing waits for a step, and neither contexts nor other prompts make a token longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from scipy.optimize import minimize_scalar, nnls  # pyright: ignore[reportUnknownVariableType]

from roofml.export.closed_loop import ClosedLoop, closed_loop, ladder
from roofml.export.exported import Exported, Loss
from roofml.export.subject import Subject
from roofml.latency.kv_capacity import kv_groups
from roofml.util.arrays import Floats
from roofml.util.errors import InputError
from roofml.util.outside_text import for_line, for_shell, for_yaml

TARGET = "llm-d-inference-sim, per-token calculator (2026)"
MS = 1000.0
CUT_US = MS / 2
"""What cutting to whole milliseconds takes on average."""
MOST_SD = 0.3
"""Of the mean: larger standard deviations are refused by the simulator."""
MOST_FACTOR = 1000.0
BLOCK_SIZES = (8, 16, 32, 64, 128)
"""Of its KV cache; for others that part is left out."""
THIRDS = 3
"""Groups of prompts, by length, whose mean TTFT is fitted at each load."""


@dataclass(frozen=True)
class SimLatencies:
    """The simulator's constants, µs."""

    prefill_overhead_us: float
    prefill_per_token_us: float
    inter_token_us: float
    load_factor: float
    prefill_sd_us: float
    inter_token_sd_us: float
    seats: int

    def ttft_us(self, running: Floats, uncached_tokens: Floats) -> Floats:
        """Mean TTFT as the simulator sleeps it, of shape as the arguments."""
        mean = self.prefill_overhead_us + uncached_tokens * self.prefill_per_token_us
        return slept_us(under_load(self.load_factor, running, self.seats) * mean, self.prefill_sd_us)

    def itl_us(self, running: Floats) -> Floats:
        """Mean time per output token as it sleeps it."""
        return slept_us(under_load(self.load_factor, running, self.seats) * self.inter_token_us, self.inter_token_sd_us)


def under_load(factor: float, running: Floats, seats: int) -> Floats:
    """How many times as long a time is with so many requests running."""
    return np.ones_like(running) if seats <= 1 else 1 + (factor - 1) * (running - 1) / (seats - 1)


def slept_us(mean_us: Floats, sd_us: float) -> Floats:
    """The mean of what is slept: whole milliseconds, and the half that is lost of a random value."""
    whole = MS * np.floor(mean_us / MS)
    return whole if sd_us < MS else np.maximum(whole - CUT_US, 0.0)


def fit_latencies(loops: Sequence[ClosedLoop], seats: int) -> SimLatencies:
    """The constants that bring the form nearest to closed loops, relative to each time; TTFT and ITL weigh alike."""
    middle = loops[len(loops) // 2]
    itl_sd = _standard_deviation(middle.mean_tpot_us, middle.step_sd)
    clients, prompts, ttft = _by_length(loops)
    itl = np.array([loop.mean_tpot_us for loop in loops])
    running = np.array([float(loop.clients) for loop in loops])
    spread = np.concatenate([_beside_line(loop) for loop in loops])
    ttft_sd = _standard_deviation(float(ttft.mean()), float(spread.std()))
    offsets = [CUT_US + (CUT_US if sd >= MS else 0.0) for sd in (ttft_sd, itl_sd)]

    def at(factor: float) -> tuple[float, Floats, float]:
        """Squared relative error, prefill constants and inter-token latency of a load factor."""
        first, later = (under_load(factor, count, seats) for count in (clients, running))
        matrix = np.column_stack((first, first * prompts)) / ttft[:, None]
        prefill, miss = cast("tuple[Floats, float]", nnls(matrix, (ttft + offsets[0]) / ttft))
        row, wanted = later / itl, (itl + offsets[1]) / itl
        token = float(row @ wanted / (row @ row))
        return miss**2 / len(ttft) + float(np.mean((row * token - wanted) ** 2)), prefill, token

    def loss(log_factor: float) -> float:
        return at(float(np.exp(log_factor)))[0]

    most = np.log(MOST_FACTOR)
    found = cast("Any", minimize_scalar)(loss, bounds=(0.0, most), method="bounded", options={"xatol": 1e-6})
    factor = float(np.exp(found.x)) if seats > 1 else 1.0
    _, prefill, token = at(factor)
    return SimLatencies(float(prefill[0]), float(prefill[1]), token, factor, ttft_sd, itl_sd, seats)


def export_llm_d_sim(subject: Subject, path: Path, link_gbs: float | None = None) -> Exported:
    """The configuration of a subject as a file at `path`.

    `link_gbs`, GB/s, is the link over which a decode instance fetches the KV cache of a prompt, if there are two.
    Raises InputError for one that is none.
    """
    if link_gbs is not None and not 0 < link_gbs < np.inf:
        raise InputError(f"--kv-link {link_gbs:g}: expected a bandwidth in GB/s")
    server = subject.server
    loops = [closed_loop(subject, clients) for clients in ladder(subject.most_at_once)]
    fitted = fit_latencies(loops, server.max_num_seqs)
    clients, prompts, ttft = _by_length(loops)
    running = np.array([float(loop.clients) for loop in loops])
    losses = [
        Loss.of("TTFT", fitted.ttft_us(clients, prompts), ttft),
        Loss.of("ITL", fitted.itl_us(running), np.array([loop.mean_tpot_us for loop in loops])),
    ]
    text = _yaml(subject, fitted, losses, link_gbs)
    return Exported(TARGET, {path: text}, losses, subject.provenance, _remarks(subject, loops), _use(path))


def _use(path: Path) -> str:
    return for_line(for_shell(["llm-d-inference-sim", "--config", str(path)]))


def _remarks(subject: Subject, loops: Sequence[ClosedLoop]) -> list[str]:
    most, seats = loops[-1].clients, subject.server.max_num_seqs
    remarks = [
        "a token's time does not depend on contexts or on prompts beside it; no request waits for the step in flight",
        "times are slept in whole milliseconds",
    ]
    if most < seats:
        remarks.append(f"fitted to 1 to {most} requests at once; from there to {seats} the load factor is extrapolated")
    return remarks


def _yaml(subject: Subject, fitted: SimLatencies, losses: Sequence[Loss], link_gbs: float | None) -> str:
    server = subject.server
    model = subject.deployment.hf_repo
    comments = [*subject.provenance, f"for {TARGET}", *(loss.sentence for loss in losses)]
    lines = [f"# {for_line(text)}" for text in comments]
    lines += [
        "engine: vllm",
        f"model: {for_yaml(model)}",
        "mode: random",
        f"max-num-seqs: {server.max_num_seqs}",
        f"max-model-len: {server.max_model_len}",
        "latency-calculator: per-token",
        "latencies:",
        f"  prefill-overhead: {duration(fitted.prefill_overhead_us)}",
        f"  prefill-time-per-token: {duration(fitted.prefill_per_token_us)}",
    ]
    if fitted.prefill_sd_us >= MS:
        lines.append(f"  prefill-time-std-dev: {duration(fitted.prefill_sd_us)}")
    lines.append(f"  inter-token-latency: {duration(fitted.inter_token_us)}")
    if fitted.inter_token_sd_us >= MS:
        lines.append(f"  inter-token-latency-std-dev: {duration(fitted.inter_token_sd_us)}")
    lines.append(f"  time-factor-under-load: {fitted.load_factor:.6g}")
    if link_gbs is not None:
        lines.append(f"  kv-cache-transfer-time-per-token: {duration(_kv_bytes(subject) / (1e3 * link_gbs))}")
    if server.block_size in BLOCK_SIZES:
        lines += [
            "kvcache:",
            "  enable-kvcache: false  # true: prompts are looked up in a cache of this size",
            f"  kv-cache-size: {server.num_gpu_blocks}",
            f"  block-size: {server.block_size}",
        ]
    return "\n".join(lines) + "\n"


def duration(us: float) -> str:
    """A duration as Go reads it, to a nanosecond."""
    return f"{us:.3f}".rstrip("0").rstrip(".") + "us"


def _kv_bytes(subject: Subject) -> float:
    """Bytes that a token of a prompt takes in the KV cache of all ranks together."""
    _, size, block_bytes = kv_groups(subject.deployment.model, subject.deployment.tp)
    return subject.deployment.tp * block_bytes / size


def _standard_deviation(mean_us: float, relative: float) -> float:
    """What the simulator takes: whole milliseconds, at most MOST_SD of the mean; 0 for less than one."""
    value = min(relative, MOST_SD) * mean_us
    return MS * float(np.floor(value / MS))


def _by_length(loops: Sequence[ClosedLoop]) -> tuple[Floats, Floats, Floats]:
    """Clients, mean prompt tokens and mean TTFT, µs, of each third of the prompts of each loop, by length."""
    rows: list[tuple[float, float, float]] = []
    for loop in loops:
        for part in np.array_split(np.argsort(loop.prompt_tokens, kind="stable"), THIRDS):
            if len(part):
                rows.append(
                    (float(loop.clients), float(loop.prompt_tokens[part].mean()), float(loop.ttft_us[part].mean()))
                )
    clients, prompts, ttft = np.array(rows).T
    return clients, prompts, ttft


def _beside_line(loop: ClosedLoop) -> Floats:
    """(requests,) TTFT beside the straight line over prompt tokens, over its mean."""
    basis = np.column_stack((np.ones(len(loop.prompt_tokens)), loop.prompt_tokens))
    line = basis @ np.linalg.lstsq(basis, loop.ttft_us, rcond=None)[0]
    return (loop.ttft_us - line) / loop.mean_ttft_us
