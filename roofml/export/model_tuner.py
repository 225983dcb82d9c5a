"""Parameters of llm-d's model-tuner: alpha, beta and gamma of its queueing model, and how sure they are.

Source of the form: llm-inferno/queue-analysis, pkg/analyzer/queueanalyzer.go of May 2026, with n prompt and m output
tokens, B requests in service, c chunks of a prompt (`NumChunks` of its utils.go), all in ms:

    w_prefill = (beta + gamma·(c + 1)/2)·n          w_decode = beta·m + gamma·m·(n + (m + 1)/2)
    delta     = (w_prefill + w_decode)/(c + m)       rest     = alpha + (B - 1)·delta
    ITL       = rest + beta + gamma·(n + (m + 1)/2)  TTFT     = c·rest + w_prefill + ITL

Source of the files: llm-inferno/model-tuner, pkg/config/types.go (its Kalman filter begins with the covariance
diag((percentChange·initState)²), pkg/core/configurator.go), and ModelData of optimizer-light, pkg/config/types.go.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from scipy.optimize import lsq_linear  # pyright: ignore[reportUnknownVariableType]

from roofml.export.closed_loop import ClosedLoop, closed_loop, ladder
from roofml.export.decode_steps import token_of_context_us
from roofml.export.exported import Exported, Loss
from roofml.export.subject import Subject
from roofml.latency.parameters import Parameters
from roofml.util.arrays import Floats
from roofml.util.outside_text import for_line, for_shell

TARGET = "llm-d model-tuner and optimizer (alpha, beta, gamma; 2026)"
NAMES = ("alpha", "beta", "gamma")
MS = 1000.0
LEAST_STATE = 1e-9
"""ms. The tuner divides by its state: DefaultInitStateMinEpsilon of its pkg/config."""
REACH = 10.0
"""How far from its beginning the filter may move a state: DefaultInitStateFactor there."""
STUDENT = 1.96
"""tPercentile of its default configuration."""
DRAWS = 12
"""Fits of as many draws of our parameters, for how uncertain the three are."""
LEAST_CHANGE, MOST_CHANGE = 0.01, 1.0
"""Relative standard deviation of a state that the filter is told."""


@dataclass(frozen=True)
class TunerState:
    """The three parameters, ms, ms a token, ms a token."""

    values: Floats
    """(3,)"""
    covariance: Floats
    """(3, 3)"""
    error: float
    """Root mean square of the form's relative errors."""


def chunks(batch: float, budget: int, prompt: float, output: float) -> int:
    """`NumChunks`: steps that a prompt takes in a batch under a token budget."""
    phi = output * (budget - batch) - prompt * (batch + 1)
    root = math.sqrt(phi * phi + 4 * budget * prompt * output)
    return max(1, math.ceil((root - phi) / (2 * budget)))


def form(batches: Sequence[int], budget: int, prompt: float, output: float) -> tuple[Floats, Floats]:
    """TTFT and ITL, ms, as matrices (batches, 3) that multiply (alpha, beta, gamma)."""
    first: list[list[float]] = []
    later: list[list[float]] = []
    decode = np.array([0.0, 1.0, prompt + (output + 1) / 2])
    for batch in batches:
        count = chunks(batch, budget, prompt, output)
        prefill = np.array([0.0, prompt, prompt * (count + 1) / 2])
        delta = (prefill + output * decode) / (count + output)
        rest = np.array([1.0, 0.0, 0.0]) + (batch - 1) * delta
        later.append(list(rest + decode))
        first.append(list(count * rest + prefill + rest + decode))
    return np.array(first), np.array(later)


def fit_state(
    loops: Sequence[ClosedLoop], budget: int, prompt: float, output: float, gamma: float
) -> tuple[Floats, Floats]:
    """The parameters (3,) nearest to closed loops, relative to each time, and the relative errors of TTFT and ITL.

    Gamma is given: alpha and beta follow from latencies, the three of them do not.
    """
    rows = relative_rows(loops, budget, prompt, output)
    scale = np.abs(rows[:, :2]).max(axis=0)
    least = np.full(2, LEAST_STATE) * scale
    found = cast("Any", lsq_linear)(rows[:, :2] / scale, 1 - gamma * rows[:, 2], bounds=(least, np.inf), tol=1e-12)
    values = np.array([*(found.x / scale), gamma])
    return values, rows @ values - 1


def relative_rows(loops: Sequence[ClosedLoop], budget: int, prompt: float, output: float) -> Floats:
    """(2·loops, 3) TTFT, then ITL, of each loop as the form has them, over what they are."""
    rows = np.vstack(form([loop.clients for loop in loops], budget, prompt, output))
    times = [loop.mean_ttft_us for loop in loops] + [loop.mean_tpot_us for loop in loops]
    return rows / (np.array(times)[:, None] / MS)


def tuner_state(subject: Subject, loops: Sequence[ClosedLoop]) -> TunerState:
    """The state of a subject: the fit, and the spread of fits of draws of our parameters, with what the form misses.

    Gamma is what a token of context adds to our step at a middling batch; its spread is that over all batches too.
    """
    lengths = subject.lengths
    shape = subject.server.max_num_batched_tokens, lengths.input_mean, lengths.output_mean
    middle = loops[len(loops) // 2].clients
    gamma = max(LEAST_STATE, token_of_context_us(subject, middle) / MS)
    values, errors = fit_state(loops, *shape, gamma)
    drawn: list[Floats] = []
    for draw in map(Parameters.of, subject.calibration.draws(DRAWS)):
        again = [closed_loop(subject, clients, draw) for clients in (loops[0].clients, middle, loops[-1].clients)]
        own = max(LEAST_STATE, token_of_context_us(subject, middle, draw) / MS)
        drawn.append(fit_state(again, *shape, own)[0])
    error = float(np.sqrt(np.mean(errors**2)))
    rows = relative_rows(loops, *shape)[:, :2]
    scale = np.abs(rows).max(axis=0)
    covariance = np.cov(np.array(drawn).T)
    covariance[:2, :2] += error**2 * np.linalg.pinv((rows / scale).T @ (rows / scale)) / np.outer(scale, scale)
    covariance[2, 2] += np.var([token_of_context_us(subject, loop.clients) / MS for loop in loops])
    return TunerState(values, covariance, error)


def export_model_tuner(subject: Subject, folder: Path) -> Exported:
    """`default-config-data.json` for the tuner, `model-data.json` for the optimizer, in `folder`."""
    loops = [closed_loop(subject, clients) for clients in ladder(subject.most_at_once)]
    state = tuner_state(subject, loops)
    lengths, server = subject.lengths, subject.server
    first, later = form([loop.clients for loop in loops], server.max_num_batched_tokens, lengths.input_mean,
                        lengths.output_mean)  # fmt: skip
    losses = [
        Loss.of("TTFT", first @ state.values, np.array([loop.mean_ttft_us for loop in loops]) / MS),
        Loss.of("ITL", later @ state.values, np.array([loop.mean_tpot_us for loop in loops]) / MS),
    ]
    files: dict[Path, str | bytes] = {
        folder / "default-config-data.json": _json(_filter(subject, state, loops, losses)),
        folder / "model-data.json": _json(_models(subject, state, losses)),
    }
    remarks = [
        "one time per token of a prompt whatever its length, and no time of its own for a request; contexts and "
        "batches enter by their means",
        "the filter's file takes the diagonal of the covariance, as percentChange; the rest stands under roofml",
    ]
    use = for_line(f"CONFIG_DATA_DIR={for_shell([str(folder)])} tuner")
    return Exported(TARGET, files, losses, subject.provenance, remarks, use)


def _filter(
    subject: Subject, state: TunerState, loops: Sequence[ClosedLoop], losses: Sequence[Loss]
) -> dict[str, object]:
    """ConfigData of the tuner. It ignores keys that it does not know: ours are under `roofml`."""
    middle = loops[len(loops) // 2]
    change = np.clip(np.sqrt(np.diag(state.covariance)) / state.values, LEAST_CHANGE, MOST_CHANGE)
    return {
        "filterData": {
            "gammaFactor": 1.0,
            "errorLevel": _rounded(STUDENT * max(state.error, LEAST_CHANGE)),
            "tPercentile": STUDENT,
        },
        "modelData": {
            "initState": [_rounded(value) for value in state.values],
            "percentChange": [_rounded(value) for value in change],
            "boundedState": True,
            "minState": [_rounded(max(value / REACH, LEAST_STATE)) for value in state.values],
            "maxState": [_rounded(value * REACH) for value in state.values],
            "expectedObservations": [_rounded(middle.mean_ttft_us / MS), _rounded(middle.mean_tpot_us / MS)],
        },
        "roofml": {
            **_told(subject, losses),
            "covariance": [[_rounded(value) for value in row] for row in state.covariance],
        },
    }


def _models(subject: Subject, state: TunerState, losses: Sequence[Loss]) -> dict[str, object]:
    """ModelData of the optimizer."""
    lengths = subject.lengths
    return {
        "models": [
            {
                "name": subject.deployment.hf_repo,
                "acc": subject.deployment.gpu.name,
                "accCount": subject.deployment.tp,
                "maxBatchSize": subject.most_at_once,
                "atTokens": round(lengths.input_mean + lengths.output_mean),
                "perfParms": dict(zip(NAMES, (_rounded(value) for value in state.values), strict=True)),
            }
        ],
        "roofml": _told(subject, losses),
    }


def _told(subject: Subject, losses: Sequence[Loss]) -> dict[str, object]:
    return {"provenance": list(subject.provenance), "form": [loss.sentence for loss in losses]}


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _json(document: object) -> str:
    return json.dumps(document, indent=2, allow_nan=False) + "\n"
