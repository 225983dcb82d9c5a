"""What is exported to another simulator: a calibration, the server it is asked of, and the lengths of its requests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roofml.calibration.calibrate import load, load_for_runs, uncalibrated
from roofml.calibration.calibration import Calibration
from roofml.calibration.servers import server_for
from roofml.latency.deployment import Deployment, deployment_of
from roofml.traces.read import read_runs
from roofml.traces.run import Run
from roofml.traces.server import Server, ServerOverrides
from roofml.util.arrays import Ints
from roofml.util.errors import InputError
from roofml.util.names import shown
from roofml.util.outside_text import for_line
from roofml.util.reading import read_text
from roofml.util.version import __version__

INPUT, OUTPUT = 1024, 256
"""Tokens of a request on average where nobody says."""
SPREAD = 0.5
"""Lengths are drawn evenly from so much below their mean to so much above: equal ones would end in waves."""
MOST_TOKENS = 1_000_000
"""Of one request's prompt or answer."""
FIT_BYTES = 2_000_000


@dataclass(frozen=True)
class Lengths:
    """Prompt and output tokens of requests, to draw from. Arrays of shape (requests,)."""

    prompt_tokens: Ints
    output_tokens: Ints
    source: str
    """Where they are from, for people."""

    @property
    def input_mean(self) -> float:
        """Mean prompt tokens."""
        return float(self.prompt_tokens.mean())

    @property
    def output_mean(self) -> float:
        """Mean output tokens."""
        return float(self.output_tokens.mean())

    def drawn(self, count: int) -> tuple[Ints, Ints]:
        """Prompt and output tokens of so many requests; the same every time."""
        chosen = np.random.default_rng(0).integers(0, len(self.prompt_tokens), count)
        return self.prompt_tokens[chosen], self.output_tokens[chosen]


@dataclass(frozen=True)
class Subject:
    """A calibrated deployment with its server and its requests' lengths."""

    calibration: Calibration
    server: Server
    lengths: Lengths
    run: Run | None = None
    """The run that the server and the lengths are of."""

    @property
    def deployment(self) -> Deployment:
        """Model and GPUs."""
        return self.calibration.deployment

    @property
    def most_at_once(self) -> int:
        """Requests that the server computes at once: its seats, or fewer where the KV cache holds no more."""
        server, mean = self.server, self.lengths.input_mean + self.lengths.output_mean
        held = int(server.num_gpu_blocks * server.block_size / mean)
        return max(1, min(server.max_num_seqs, held))

    @property
    def warnings(self) -> list[str]:
        """What is taken on trust."""
        return self.calibration.doubts if self.run is None else self.calibration.warnings_for(self.run)

    @property
    def provenance(self) -> tuple[str, ...]:
        """Where the figures are from, a line each, for comments and fields of the files."""
        source = self.calibration.source if self.calibration.fitted else "physics and what other models taught"
        told = f"made by roofml {__version__} from {for_line(Path(source).name)}: {for_line(self.deployment.title)}"
        return (told, f"requests: {for_line(self.lengths.source)}", *map(for_line, self.calibration.doubts))


def read_subject(paths: Sequence[Path], overrides: ServerOverrides, lengths: tuple[int, int] | None = None) -> Subject:
    """What COEFFS, a RUN, or both of them say.

    A run gives the server and the lengths; without one the server is what the coefficients file says of it, then
    vLLM's defaults for the GPU. `lengths` are mean prompt and output tokens in place of the run's. Raises InputError
    for more than one of either, and for what `load_for_runs` refuses.
    """
    fits = [path for path in paths if is_fit(path)]
    recorded = [path for path in paths if path not in fits]
    if len(fits) > 1 or len(recorded) > 1 or not paths:
        raise InputError(
            f"expected one coefficients file, one run, or one of each; found {len(fits)} and {len(recorded)}"
        )
    if not recorded:
        calibration = load(fits[0], model=overrides.model, gpu=overrides.gpu)
        server = server_of(calibration, overrides)
        return Subject(calibration, server, _around(*(lengths or (INPUT, OUTPUT)), server))
    runs = read_runs(recorded, overrides)
    if fits:
        calibration, runs = load_for_runs(fits[0], runs)
    else:
        calibration = uncalibrated(deployment_of(runs))
    run = runs[0]
    measured = Lengths(run.prompt_tokens, run.output_tokens, f"prompts and answers as long as those of {run.name}")
    return Subject(calibration, run.server, measured if lengths is None else _around(*lengths, run.server), run)


def is_fit(path: Path) -> bool:
    """Whether a path is a coefficients file: YAML that says its schema is one of ours."""
    if path.suffix.lower() not in {".yaml", ".yml"} or not path.is_file():
        return False
    return re.search(r"(?m)^schema:\s*['\"]?roofml/", read_text(path, FIT_BYTES)) is not None


def server_of(calibration: Calibration, overrides: ServerOverrides) -> Server:
    """The server of a calibration alone (`server_for`).

    Raises InputError for a tensor parallel size that the calibration is not of.
    """
    ours, asked = calibration.deployment, overrides.tensor_parallel
    if asked is not None and asked != ours.tp:
        raise InputError(f"--tp {asked}: {calibration.source} is of tensor parallel size {ours.tp}")
    return server_for(calibration, overrides)


def parse_lengths(text: str | None) -> tuple[int, int] | None:
    """Mean prompt and output tokens of `--lengths INPUTxOUTPUT`. Raises InputError for anything else."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,9})x(\d{1,9})", text.strip())
    if found is None:
        raise InputError(f"--lengths {shown(text)}: expected tokens of prompt and answer as INPUTxOUTPUT, as 1024x256")
    prompt, output = int(found[1]), int(found[2])
    if not (1 <= prompt <= MOST_TOKENS and 2 <= output <= MOST_TOKENS):
        raise InputError(f"--lengths {text}: expected at least 1 and 2 tokens, and at most {MOST_TOKENS}")
    return prompt, output


def _around(prompt: int, output: int, server: Server) -> Lengths:
    """Lengths around a mean. Raises InputError for requests that the server cannot answer."""
    random = np.random.default_rng(1)
    spread = [random.uniform(1 - SPREAD, 1 + SPREAD, 512) for _ in range(2)]
    prompts, outputs = (
        np.maximum(least, np.rint(mean * factor)).astype(np.int64)
        for least, mean, factor in zip((1, 2), (prompt, output), spread, strict=True)
    )
    longest = int((prompts + outputs).max())
    room = min(server.max_model_len, (server.num_gpu_blocks - 1) * server.block_size)
    if longest > room:
        raise InputError(
            f"requests of {prompt} and {output} tokens on average, up to {longest} together, expected at most {room}, "
            "which is what the server takes: give --lengths, or its --max-model-len and --num-gpu-blocks"
        )
    text = f"{prompt} prompt and {output} output tokens on average, each half as many to half as many more"
    return Lengths(prompts, outputs, text)
