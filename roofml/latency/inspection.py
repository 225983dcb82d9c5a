"""What `roofml inspect` reports: a model on a GPU before anything was measured. From config and datasheet alone."""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

from roofml.hardware.gpu import Gpu
from roofml.latency.kv_capacity import KvCapacity, check_options, kv_capacity
from roofml.latency.roofline import Load, Request, step_loads, step_us
from roofml.latency.server_defaults import GIB, default_batch, default_memory_utilization
from roofml.models.spec import ModelSpec
from roofml.traces.engine_version import release_of
from roofml.util.errors import InputError
from roofml.util.writing import check_writable, write_file

BATCHES = (1, 8, 32, 128, 256)
CONTEXTS = (512, 2048, 8192, 32768)
PROMPTS = (512, 2048, 8192)

Step = tuple[str, list[Request]]


def steps_of(model: ModelSpec) -> list[Step]:
    """The steps tabulated: decoding at every batch and context, and one prompt alone; as far as the model reaches."""
    reach = model.max_position_embeddings
    decodes = [
        (f"decode {batch} x {context}", [(1, context)] * batch)
        for batch in BATCHES
        for context in CONTEXTS
        if context < reach
    ]
    return decodes + [(f"prefill {new}", [(new, 0)]) for new in PROMPTS if new <= reach]


def inspect_model(
    model: ModelSpec,
    gpu: Gpu,
    tp: int,
    *,
    gpu_memory_utilization: float | None = None,
    max_num_batched_tokens: int | None = None,
    max_num_seqs: int | None = None,
    engine_version: str | None = None,
) -> dict[str, Any]:
    """Everything inspect shows, as one JSON document. What cannot be said is null, with the reason in `problems`.

    What is None is as a vLLM of this version has it on this GPU. Raises InputError for an option that no server can be
    started with, a version whose engine is not imitated, and a model that does not divide by `tp`.
    """
    release = release_of("vllm", engine_version)
    if gpu_memory_utilization is None:
        gpu_memory_utilization = default_memory_utilization(release)
    check_options(gpu_memory_utilization, max_num_batched_tokens, max_num_seqs)
    tokens, seqs = default_batch(gpu, release)
    problems: list[str] = []
    capacity: KvCapacity | None = None
    try:
        capacity = kv_capacity(
            model,
            gpu,
            tp,
            gpu_memory_utilization=gpu_memory_utilization,
            max_num_batched_tokens=tokens if max_num_batched_tokens is None else max_num_batched_tokens,
            max_num_seqs=seqs if max_num_seqs is None else max_num_seqs,
        )
    except InputError as error:
        problems.append(str(error))
    steps: list[dict[str, Any]] | None = None
    try:
        steps = [step_row(name, step_loads(model, tp, requests), gpu) for name, requests in steps_of(model)]
    except InputError as error:
        problems.append(f"no ideal step times: {error}")
    return {
        "model": model.name,
        "architecture": model.architecture,
        "config_sha256": model.config_sha256,
        "gpu": gpu.name,
        "tp": tp,
        "dtype": model.dtype,
        "kv_dtype": model.kv_dtype or model.dtype,
        "quantization": model.quantization,
        "parameters": {
            "total": model.parameters(),
            "active": model.active_parameters(),
            "embedding": model.embedding_parameters,
        },
        "layers": model.num_layers,
        "weight_bytes_per_gpu": model.weight_bytes(tp),
        "kv_bytes_per_token": model.kv_bytes_per_token(tp),
        "state_bytes_per_request": model.state_bytes(tp),
        "kv": None if capacity is None else capacity_row(capacity),
        "ideal_steps": steps,
        "gemms": [asdict(gemm) for gemm in model.gemms(tp)],
        "mixers": [asdict(op) for op in model.mixers(tp)],
        "assumptions": list(model.assumptions),
        "problems": problems,
    }


def capacity_row(capacity: KvCapacity) -> dict[str, Any]:
    """KV capacity for the document."""
    return {
        "blocks": capacity.blocks,
        "block_size": capacity.block_size,
        "block_bytes": capacity.block_bytes,
        "kv_bytes": capacity.kv_bytes,
        "usable_bytes": capacity.usable_bytes,
        "activation_bytes": capacity.activation_bytes,
        "other_bytes": capacity.other_bytes,
        "max_num_batched_tokens": capacity.max_num_batched_tokens,
        "max_num_seqs": capacity.max_num_seqs,
        "requests_by_context": {str(context): round(capacity.requests(context), 2) for context in CONTEXTS},
    }


def step_row(name: str, loads: tuple[Load, ...], gpu: Gpu) -> dict[str, Any]:
    """One step: its least time, what it computes and moves, and the operation that takes longest."""
    longest = max(loads, key=lambda load: load.ideal_us(gpu))
    total = step_us(loads, gpu)
    return {
        "step": name,
        "us": total,
        "flops": sum(load.flops for load in loads),
        "bytes": sum(load.bytes for load in loads),
        "longest": longest.name,
        "longest_share": longest.ideal_us(gpu) / total,
    }


def as_text(document: dict[str, Any]) -> str:
    """The document for people: facts, a table of ideal step times, assumptions and problems."""
    count, gib = document["parameters"], 1 / GIB
    active = f", {count['active'] / 1e9:.2f} B active" if count["active"] != count["total"] else ""
    lines = [
        f"{document['model']} ({document['architecture']}) on {document['gpu']}, tensor parallel {document['tp']}",
        f"parameters      {count['total'] / 1e9:.2f} B{active}",
        f"weights         {document['weight_bytes_per_gpu'] * gib:.2f} GiB a GPU"
        f" ({document['dtype']}, quantization {document['quantization']})",
        f"KV cache        {document['kv_bytes_per_token']} bytes a token and GPU ({document['kv_dtype']})",
    ]
    if document["state_bytes_per_request"]:
        lines.append(f"state           {document['state_bytes_per_request'] / 2**20:.1f} MiB a request and GPU")
    kv = document["kv"]
    if kv is not None:
        held = ", ".join(f"{requests:g} of {context}" for context, requests in kv["requests_by_context"].items())
        lines += [
            f"KV blocks       {kv['blocks']} of {kv['block_size']} tokens, {kv['kv_bytes'] * gib:.2f} GiB: of"
            f" {kv['usable_bytes'] * gib:.2f} usable, activations take {kv['activation_bytes'] * gib:.2f}"
            f" and libraries {kv['other_bytes'] * gib:.2f}"
            f" (max_num_batched_tokens {kv['max_num_batched_tokens']}, max_num_seqs {kv['max_num_seqs']})",
            f"requests held   {held} tokens",
        ]
    if document["ideal_steps"] is not None:
        lines += ["", f"{'ideal step':<20}{'ms':>10}{'TFLOP':>10}{'GB':>10}  longest operation"]
        for row in document["ideal_steps"]:
            lines.append(
                f"{row['step']:<20}{row['us'] / 1e3:>10.3f}{row['flops'] / 1e12:>10.3f}{row['bytes'] / 1e9:>10.2f}"
                f"  {row['longest']} ({row['longest_share']:.0%})"
            )
    for title in ("assumptions", "problems"):
        if document[title]:
            lines += ["", title, *(f"  {line}" for line in document[title])]
    return "\n".join(lines)


def plot_roofline(model: ModelSpec, gpu: Gpu, tp: int, path: Path) -> None:
    """Draw the roofs of `gpu` and where the operations of four steps lie under them; the suffix gives the format.

    Raises InputError where matplotlib (extra `plot`) is missing or cannot write that format.
    """
    check_writable(path)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("a picture needs matplotlib: pip install 'roofml[plot]'") from None
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes: Any = figure.add_subplot()
    intensities = [10 ** (power / 10) for power in range(-10, 45)]
    bandwidth = gpu.bandwidth_bytes_per_us
    for dtype in sorted({gpu.computes_in(gemm.flops_dtype) for gemm in model.gemms(tp)}):
        rate = gpu.flops_rate(dtype)
        axes.plot(intensities, [min(rate, bandwidth * x) / 1e6 for x in intensities], label=f"{dtype} roof")
    steps: list[Step] = [("decode 1 x 2048", [(1, 2048)]), ("decode 32 x 2048", [(1, 2048)] * 32)]
    steps += [("decode 256 x 2048", [(1, 2048)] * 256), ("prefill 2048", [(2048, 0)])]
    for (name, requests), marker in zip(steps, "osD^", strict=True):
        loads = [load for load in step_loads(model, tp, requests) if load.flops]
        times = [load.ideal_us(gpu) for load in loads]
        reached = [load.flops / time / 1e6 for load, time in zip(loads, times, strict=True)]
        area = [20 + 400 * time / sum(times) for time in times]
        axes.scatter([load.intensity for load in loads], reached, area, marker=marker, label=name, alpha=0.5)
    axes.set(xscale="log", yscale="log", xlabel="FLOP per byte", ylabel="TFLOP/s")
    axes.set_title(f"{model.name} on {gpu.name}, tensor parallel {tp}: ideal (area: share of the step)")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend()
    picture = io.BytesIO()
    try:
        figure.savefig(picture, format=path.suffix.removeprefix(".") or "png")
    except ValueError as error:
        raise InputError(f"{path}: cannot draw: {str(error).splitlines()[0]}") from None
    write_file(path, picture.getvalue())
