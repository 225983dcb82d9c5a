"""roofml predict: one step's time, component by component."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from roofml.cli import options as o
from roofml.cli.console import OUT, print_json, table, us, warn
from roofml.util.errors import InputError

MOST_TOKENS = 1_000_000
"""Most new tokens of one step: far past any engine's budget, and the tables still fit into memory."""


def predict(
    model: Annotated[str, typer.Argument(help="Name in model_configs/, Hub repository or path of a config.")],
    gpu: Annotated[str, typer.Option("--gpu", help="Name in hardware/ or path of a YAML file.")],
    tp: Annotated[int, typer.Option("--tp", help="Tensor parallel size (GPUs).")] = 1,
    coeffs: o.Coeffs = None,
    prefill: Annotated[
        list[str] | None, typer.Option(metavar="NEW@CTX", help="A prompt's chunk: NEW tokens after CTX computed ones.")
    ] = None,
    decode: Annotated[
        list[str] | None, typer.Option(metavar="CTXxCOUNT", help="COUNT requests that decode with CTX tokens each.")
    ] = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Predict the time of one engine step. Without --coeffs: from physics and other models' fits, with an interval."""
    batch = _batch(prefill or [], decode or [])

    import numpy as np

    from roofml.calibration.coefficients import read_coefficients
    from roofml.calibration.other_models import read_pooled
    from roofml.latency.batch import StepTable
    from roofml.latency.components import COMPONENTS, components
    from roofml.latency.formula import growth, step_times
    from roofml.latency.parameters import split
    from roofml.validation.cross_validation import setting, widened

    steps = StepTable.from_batches([batch])
    new_tokens = int(steps.prefill_tokens[0] + steps.decode_tokens[0])
    if new_tokens > MOST_TOKENS:
        raise InputError(f"{new_tokens} new tokens in the step: expected at most {MOST_TOKENS}")
    where = setting(model, gpu, tp, budget=new_tokens)
    interval: list[float] | None = None
    if coeffs is None:
        prior = widened(read_pooled().prior(where.model.name, where.gpu.name), where)
        step, _ = split(prior.values)
        drawn = [step_times(where.tables, steps, split(values)[0])[0] for values in prior.draws(1000)]
        interval = [float(np.quantile(drawn, share)) for share in (0.05, 0.95)]
    else:
        given = read_coefficients(coeffs)
        pairs = {"model": (where.model.name, given.model.name), "GPU": (where.gpu.name, given.gpu)}
        for name, (ours, theirs) in {**pairs, "tensor parallel size": (tp, given.tensor_parallel)}.items():
            if ours != theirs:
                raise InputError(f"{coeffs}: {name} is {theirs}, not {ours}")
        step, _ = given.parameters()
        for text in given.outside(steps):
            warn(text)
    total = float(step_times(where.tables, steps, step)[0])
    ideal = dict(zip(COMPONENTS, map(float, components(where.tables, steps)[0]), strict=True))
    grown = growth(float(new_tokens), step)
    factors = {**step._asdict(), "weights": step.weights + grown, "expert_weights": step.expert_weights + grown}
    corrected = {name: float(factors[name]) * value for name, value in ideal.items()}
    document: dict[str, Any] = {
        "model": where.model.name,
        "gpu": where.gpu.name,
        "tp": tp,
        "calibrated": coeffs is not None,
        "step_time_us": total,
        "interval_90_us": interval,
        "components_us": {name: {"physics": ideal[name], "corrected": corrected[name]} for name in COMPONENTS},
        "overheads_us": {
            "layers": step.per_layer_us * where.tables.layers,
            "step": step.per_step_us,
            "mixed": step.mixed_step_us if steps.prefill_tokens[0] > 0 else 0.0,
            "requests": step.per_request_us * float(steps.requests[0]),
        },
    }
    if as_json:
        print_json(document)
        return
    if quiet:
        OUT.print(f"{total:.1f}")
        return
    rows = [[name, us(ideal[name]), us(corrected[name])] for name in COMPONENTS]
    rows += [[f"overhead: {name}", "", us(value)] for name, value in document["overheads_us"].items()]
    rows.append(["step", "", us(total)])
    if interval is not None:
        rows.append(["90 % interval", us(interval[0]), us(interval[1])])
    how = f"with {coeffs}" if coeffs is not None else "not calibrated to any trace of this model"
    caption = f"{how}. Compute and memory of a kernel overlap, so parts sum to more than the step."
    title = f"{where.model.name} on {where.gpu.name}, TP {tp}"
    OUT.print(table(title, ["component", "physics", "corrected"], rows, caption))


def _batch(prefill: list[str], decode: list[str]) -> list[tuple[int, int, int]]:
    """The step's requests as (new tokens, context, prompt tokens)."""
    batch: list[tuple[int, int, int]] = []
    for text in prefill:
        match = re.fullmatch(r"(\d{1,9})@(\d{1,9})", text)
        if match is None or int(match[1]) == 0:
            raise InputError(f"--prefill {text!r}: expected NEW@CTX, for instance 512@0")
        batch.append((int(match[1]), int(match[2]), int(match[1]) + int(match[2])))
    for text in decode:
        match = re.fullmatch(r"(\d{1,9})x(\d{1,5})", text)
        if match is None or int(match[2]) == 0:
            raise InputError(f"--decode {text!r}: expected CTXxCOUNT, for instance 700x32")
        batch += [(1, int(match[1]), 0)] * int(match[2])
    if not batch:
        raise InputError("nothing to compute: give --prefill NEW@CTX or --decode CTXxCOUNT")
    return batch
