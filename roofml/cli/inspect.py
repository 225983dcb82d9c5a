"""roofml inspect: parameters, bytes, KV blocks and ideal step times of a model on a GPU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from roofml.cli.console import OUT
from roofml.util.errors import InputError


def inspect(
    model: Annotated[str, typer.Argument(help="Name in model_configs/, Hub repository or path of a config.")],
    gpu: Annotated[str, typer.Option(help="Name in hardware/ or path of a YAML file.")],
    tp: Annotated[int, typer.Option(help="Tensor parallel size.")] = 1,
    gpu_memory_utilization: Annotated[
        float | None, typer.Option(help="vLLM's share of the GPU's memory. Default: vLLM's.")
    ] = None,
    max_num_batched_tokens: Annotated[int | None, typer.Option(help="Default: vLLM's for this GPU.")] = None,
    max_num_seqs: Annotated[int | None, typer.Option(help="Default: vLLM's for this GPU.")] = None,
    engine_version: Annotated[str | None, typer.Option(help="Version of vLLM whose defaults hold, 0.15.1.")] = None,
    kv_cache_dtype: Annotated[str | None, typer.Option(help="Default: the checkpoint's.")] = None,
    precision: Annotated[str | None, typer.Option(help="Format of the weights. Default: the checkpoint's.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the roofline to this file (.png, .svg, .pdf).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")] = False,
) -> None:
    """Show a model's parameters, bytes, KV blocks and ideal step times on a GPU, and what was assumed."""
    from roofml.hardware.gpu import load_gpu
    from roofml.latency.arithmetic import weight_only
    from roofml.latency.inspection import as_text, inspect_model, plot_roofline
    from roofml.models.load import load_model
    from roofml.models.weights import KV_DTYPE_BYTES
    from roofml.util.outside_text import for_terminal

    spec, sheet = load_model(model, precision), load_gpu(gpu)
    spec = replace(spec, assumptions=(*spec.assumptions, *weight_only(spec, sheet)))
    if kv_cache_dtype is not None:
        if kv_cache_dtype not in KV_DTYPE_BYTES:
            raise InputError(f"--kv-cache-dtype {kv_cache_dtype!r}: expected one of {', '.join(KV_DTYPE_BYTES)}")
        spec = replace(spec, kv_dtype=kv_cache_dtype)
    document = inspect_model(
        spec,
        sheet,
        tp,
        gpu_memory_utilization=gpu_memory_utilization,
        max_num_batched_tokens=max_num_batched_tokens,
        max_num_seqs=max_num_seqs,
        engine_version=engine_version,
    )
    if plot is not None:
        plot_roofline(spec, sheet, tp, plot)
    if as_json:
        typer.echo(json.dumps(document, indent=2))
    elif not quiet:
        OUT.print(for_terminal(as_text(document)), markup=False)
