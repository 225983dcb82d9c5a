"""roofml predict: one step's time, component by component."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roofml.cli import options as o
from roofml.cli.console import OUT, print_json, show, warn
from roofml.util.errors import InputError

if TYPE_CHECKING:
    from roofml.latency.batch import Batch


def predict(
    model: Annotated[str, typer.Argument(help="Name in model_configs/, Hub repository or path of a config.")],
    gpu: Annotated[str, typer.Option("--gpu", help="Name in hardware/ or path of a YAML file.")],
    tp: Annotated[int, typer.Option("--tp", help="Tensor parallel size (GPUs).")] = 1,
    pp: Annotated[int, typer.Option("--pp", help="Pipeline stages.")] = 1,
    dp: Annotated[int, typer.Option("--dp", help="Data-parallel engines; the step is that of one of them.")] = 1,
    ep: Annotated[int, typer.Option("--ep", help="Ranks that experts are dealt to: tp x dp, or 1.")] = 1,
    coeffs: o.Coeffs = None,
    catalog: o.CatalogOption = None,
    prefill: Annotated[
        list[str] | None, typer.Option(metavar="NEW@CTX", help="A prompt's chunk: NEW tokens after CTX computed ones.")
    ] = None,
    decode: Annotated[
        list[str] | None, typer.Option(metavar="CTXxCOUNT", help="COUNT requests that decode with CTX tokens each.")
    ] = None,
    engine: Annotated[str, typer.Option("--engine", help="vllm, sglang or tensorrt-llm.")] = "vllm",
    kv_dtype: Annotated[
        str | None, typer.Option("--kv-dtype", help="Type of the KV cache, if not the model's.")
    ] = None,
    drafts: Annotated[
        int | None, typer.Option("--num-speculative-tokens", help="Drafts of a request that a step verifies.")
    ] = None,
    acceptance: Annotated[
        float | None, typer.Option("--acceptance-length", help="Tokens that a request keeps of a step, on average.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option("--precision", help="Format of the weights, if not the config's: bf16, fp8, fp8_block, nvfp4 ..."),
    ] = None,
    allow_oversize: o.AllowOversize = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Picture of the step's parts (extra `plot`).")
    ] = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Predict the time of one engine step. Without --coeffs: from physics and other models' fits, with an interval.

    With --catalog: by the deployment's own calibration in it, or the nearest, with what that costs.
    """
    batch = _batch(prefill or [], decode or [])

    from roofml.calibration.calibrate import load_for, physics
    from roofml.latency.speculation import speculation
    from roofml.traces.server import ServerOverrides

    said = ServerOverrides(engine=engine, kv_dtype=kv_dtype)  # checks both
    if plot is not None:
        from roofml.planning.picture import check_picture

        check_picture(plot)
    if catalog is not None:
        from roofml.catalog.catalog import open_catalog
        from roofml.catalog.nearest import nearest
        from roofml.latency.deployment import deploy

        if coeffs is not None:
            raise InputError("--coeffs and --catalog: expected one of them")
        deployment = deploy(
            model, gpu, tp, engine=engine, kv_dtype=said.kv_dtype, precision=precision, pp=pp, dp=dp, ep=ep
        )
        found = nearest(open_catalog(catalog), deployment)
        calibration = found.calibration
        if not found.exact:
            warn(found.sentence)
    elif coeffs is None:
        calibration = physics(
            model, gpu, tp, engine=engine, kv_dtype=said.kv_dtype, precision=precision, pp=pp, dp=dp, ep=ep
        )
        if engine != "vllm":
            warn(f"{engine}: its kernels were not measured, vLLM's stand for them: the interval is wider")
    elif (pp, dp, ep) != (1, 1, 1):
        raise InputError("--coeffs: a fit is of tensor parallelism alone: --pp, --dp and --ep have no place beside it")
    else:
        calibration = load_for(coeffs, model, gpu, tp, precision)
    if drafts is not None or acceptance is not None:
        drafting = calibration.deployment.speculating(speculation(drafts, acceptance, "speculative decoding"))
        calibration = replace(calibration, deployment=drafting)
    step = replace(calibration, allow_oversize=allow_oversize).step_time(batch)
    for text in step.outside:
        warn(text)
    if plot is not None:
        from roofml.planning.step_picture import plot_step

        plot_step(step, plot)
    if as_json:
        print_json({**step.to_dict(), **({} if plot is None else {"plot": str(plot)})})
    elif quiet:
        OUT.print(f"{step.total_us:.1f}")
    else:
        show(step)
        if plot is not None:
            OUT.print(f"written: {plot}", markup=False)


def _batch(prefill: list[str], decode: list[str]) -> Batch:
    """The step that the command line describes."""
    chunks: list[tuple[int, int]] = []
    for text in prefill:
        match = re.fullmatch(r"(\d{1,9})@(\d{1,9})", text, re.ASCII)
        if match is None or int(match[1]) == 0:
            raise InputError(f"--prefill {text!r}: expected NEW@CTX, for instance 512@0")
        chunks.append((int(match[1]), int(match[2])))
    decodes: list[tuple[int, int]] = []
    for text in decode:
        match = re.fullmatch(r"(\d{1,9})x(\d{1,5})", text, re.ASCII)
        if match is None or int(match[2]) == 0:
            raise InputError(f"--decode {text!r}: expected CTXxCOUNT, for instance 700x32")
        decodes.append((int(match[1]), int(match[2])))
    if not chunks and not decodes:
        raise InputError("nothing to compute: give --prefill NEW@CTX or --decode CTXxCOUNT")

    from roofml.latency.batch import Batch

    return Batch(chunks, decodes)
