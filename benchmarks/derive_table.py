"""How far BLIS's form is from our step times where no trace was taken: claimed by the export, and found.

    python benchmarks/derive_table.py FOLDER

By model, GPU and number of decodes in a step. What is claimed is what `roofml export blis --derive` writes into its
file, of all batches and of a load (Poisson, prompts of 100 to 2,000 tokens, outputs of 50 to 400); what is found is
measured here on other batches: drawn at random, and of the same load with another seed. Writes FOLDER/derive.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from roofml.blis.deployment import BlisDeployment, hardware_of
from roofml.blis.latency import BlisSteps, step_times_us
from roofml.blis.model_view import blis_model
from roofml.calibration.calibrate import physics
from roofml.calibration.calibration import Calibration
from roofml.export.derive import RANGES, Claim, Derived, derived_export
from roofml.export.hub_name import config_name
from roofml.export.matched_batches import load_batches
from roofml.hardware.gpu import load_gpu
from roofml.latency.batch import StepSums
from roofml.latency.formula import step_times
from roofml.latency.server_defaults import default_batch
from roofml.models.spec import config_path
from roofml.traces.server import Server
from roofml.util.arrays import Floats
from roofml.util.reading import read_json_object
from roofml.util.writing import write_file
from roofml.workloads.load import Load, poisson_load

DEPLOYMENTS = (
    ("llama-2-7b-hf", "H100", 1, 4.0),
    ("qwen3-8b", "H100", 1, 15.0),
    ("codellama-34b-instruct-hf", "H100", 2, 8.0),
    ("llama-3.1-70b-instruct", "H200", 4, 8.0),
    ("llama-3.1-8b-instruct", "A100-SXM", 1, 6.0),
    ("qwen3-32b", "B200", 1, 8.0),
    ("mixtral-8x7b-v0.1", "H100", 2, 8.0),
    ("qwen3-30b-a3b", "H100", 2, 15.0),
    ("deepseek-v2-lite", "H100", 1, 15.0),
)
"""Model, GPU, TP, and requests a second of the load."""
DRAWN = 400
"""Batches that are drawn at random."""


def a_load(rate: float, seed: int) -> Load:
    """Requests of many lengths at this rate."""
    random = np.random.default_rng(seed)
    return poisson_load("a load", rate, random.integers(100, 2000, 1500), random.integers(50, 400, 1500), seed)


def drawn(native: Calibration, blis: BlisDeployment, betas: tuple[float, ...], seats: int) -> tuple[Floats, Floats]:
    """Decodes of random batches, and how far BLIS's form is from our times of them, %."""
    random = np.random.default_rng(7)
    sizes = np.exp(random.uniform(0, np.log(seats), DRAWN)).astype(int)
    ours: list[list[tuple[int, int, int]]] = []
    theirs: list[list[tuple[int, int, int, int]]] = []
    size: int
    for size in sizes.tolist():
        longest = int(random.integers(128, 4096))
        contexts: list[int] = np.rint(longest * random.uniform(0.3, 1.0, int(size))).astype(np.int64).tolist()
        ours.append([(1, context, 0) for context in contexts])
        theirs.append([(0, 1, context, 1) for context in contexts])
    tables = native.deployment.tables
    times = step_times(tables, StepSums.from_requests(ours, tables.reaches), native.parameters.step)
    return sizes, 100 * np.abs(step_times_us(blis, BlisSteps.from_batches(theirs), betas) / times - 1)


def rows(name: str, what: str, derived: Derived, decodes: Floats, error: Floats) -> list[str]:
    """A row for each range of decodes that is both claimed and found."""
    lines: list[str] = []
    claims = [(claim, np.searchsorted(RANGES[1:], claim.batch[0])) for claim in derived.by_batch]
    place = np.searchsorted(RANGES[1:], decodes)
    for claim, number in claims:
        found = error[place == number]
        if len(found):
            lines.append(f"| {name} | {what} | {row(claim)} | {np.median(found):.1f} / {found.max():.1f} |")
    return lines


def row(claim: Claim) -> str:
    """What is claimed of a range of decodes."""
    return f"{claim.batch[0]}-{claim.batch[1]} | {claim.median_pct:.1f} / {claim.worst_pct:.1f}"


def in_all(derived: Derived, error: Floats) -> str:
    """What is claimed of all judged steps, and found: two cells."""
    claim = f"{derived.usual.median_pct:.1f} / {derived.usual.worst_pct:.0f}"
    return f"{claim if derived.is_near else f'refused ({claim})'} | {np.median(error):.1f} / {error.max():.0f}"


def deployment(model: str, gpu: str, tp: int, rate: float) -> tuple[str, list[str]]:
    """The row of one deployment, and its rows by decodes."""
    budget, seats = default_batch(load_gpu(gpu))
    native = physics(model, gpu, tp, budget=budget)
    raw = read_json_object(config_path(config_name(model)))
    blis = BlisDeployment(blis_model(raw, native.deployment.model.name), hardware_of(native.deployment.gpu), tp)
    name = f"{model}, {gpu}, TP {tp}"
    export, derived = derived_export(model, gpu, tp, None, None, accept_error=True)
    decodes, error = drawn(native, blis, export.coefficients.betas, seats)
    cells, lines = [name, in_all(derived, error)], rows(name, "all batches", derived, decodes, error)
    export, derived = derived_export(model, gpu, tp, None, None, a_load(rate, 1), accept_error=True)
    other = a_load(rate, 2)
    longest = int((other.prompt_tokens + other.output_tokens).max())
    server = Server(model, tp, seats, budget, 16, export.total_kv_blocks, longest, gpu=gpu, fresh=False)
    batches = load_batches(native, other.run(server))
    error = 100 * np.abs(step_times_us(blis, batches.steps, export.coefficients.betas) / batches.times_us - 1)
    means = derived.latencies
    assert means is not None
    cells += [f"{rate:g}/s", in_all(derived, error), f"{means.e2e_pct:+.1f}", f"{means.ttft_pct:+.1f}"]
    return f"| {' | '.join(cells)} |", lines + rows(name, "a load", derived, batches.steps.decodes, error)


def main(folder: Path) -> None:
    """Write the tables."""
    whole = [
        "| deployment | all batches: claimed | found | load | claimed | found | E2E | TTFT |",
        "|---|---|---|---|---|---|---|---|",
    ]
    ranges = ["| deployment | matched to | decodes in a step | claimed | found |", "|---|---|---|---|---|"]
    for model, gpu, tp, rate in DEPLOYMENTS:
        row_of_all, rows_by_decodes = deployment(model, gpu, tp, rate)
        whole.append(row_of_all)
        ranges += rows_by_decodes
        print(row_of_all, flush=True)
    write_file(folder / "derive.md", "\n".join([*whole, "", *ranges]) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
