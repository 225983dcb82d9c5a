"""roofml design: which exact batches to time on a GPU of one's own, for `vllm bench forward`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roofml.cli import options as o
from roofml.cli.console import OUT, note, print_json, show, warn, working
from roofml.util.errors import InputError

if TYPE_CHECKING:
    from roofml.calibration.calibration import Calibration
    from roofml.calibration.forwards.cases import Limits
    from roofml.latency.batch import StepSums


def design(
    model: Annotated[str, typer.Argument(help="Name in model_configs/, Hub repository or path of a config.")],
    gpu: Annotated[str, typer.Option("--gpu", help="Name in hardware/ or path of a YAML file.")],
    tp: Annotated[int, typer.Option("--tp", help="Tensor parallel size (GPUs).")] = 1,
    coeffs: o.Coeffs = None,
    cases: Annotated[int, typer.Option("--cases", min=1, max=1000, help="How many batches to time.")] = 40,
    load: Annotated[
        str | None,
        typer.Option(
            "--for", metavar="LOAD", help="The load to predict: a run, a file, or a line. Without: steps of all sizes."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File of batches to write, for `--shapes`.")
    ] = None,
    max_num_seqs: Annotated[int | None, typer.Option("--max-num-seqs", min=1, help="Most requests in a step.")] = None,
    max_num_batched_tokens: Annotated[
        int | None, typer.Option("--max-num-batched-tokens", min=1, help="Most new tokens in a step.")
    ] = None,
    max_model_len: Annotated[
        int | None, typer.Option("--max-model-len", min=2, help="Most tokens of a request.")
    ] = None,
    kv_dtype: Annotated[
        str | None, typer.Option("--kv-dtype", help="Type of the KV cache, if not the model's.")
    ] = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Choose the exact batches that tell most about a deployment, for `vllm bench forward` to time on your own GPU."""
    from roofml.calibration.calibrate import load_for, uncalibrated
    from roofml.calibration.forwards.cases import limits_of
    from roofml.calibration.forwards.command import bench_command, fit_command
    from roofml.calibration.forwards.design import design as design_cases
    from roofml.calibration.forwards.design import said_of_open
    from roofml.latency.deployment import deploy
    from roofml.traces.forwards import FIRST_RELEASE
    from roofml.traces.server import ServerOverrides
    from roofml.util.outside_text import for_shell
    from roofml.util.writing import check_writable, write_file

    said = ServerOverrides(kv_dtype=kv_dtype)  # checks it
    if coeffs is not None and kv_dtype is not None:
        raise InputError("--coeffs: the file says the type of the KV cache: --kv-dtype has no place beside it")
    if output is not None:
        check_writable(output)
    with working(quiet or as_json, "choosing"):
        if coeffs is None:
            calibration = uncalibrated(deploy(model, gpu, tp, engine_version=FIRST_RELEASE, kv_dtype=said.kv_dtype))
        else:
            calibration = load_for(coeffs, model, gpu, tp)
        limits = limits_of(
            calibration.deployment,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            max_model_len=max_model_len,
        )
        steps = None if load is None else _steps_of(load, calibration, limits)
        found = design_cases(calibration, limits, steps, count=cases, wanted=f"steps of {load}")
    for doubt in calibration.doubts:
        warn(doubt)
    if len(found.cases) < cases:
        warn(f"{len(found.cases)} different batches are all that fit this server, for the {cases} asked for")
    if output is not None:
        write_file(output, json.dumps(found.shapes(), indent=1) + "\n")
    deployment = calibration.deployment
    bench = bench_command(deployment, limits, str(output or "shapes.json"), "out.json")
    fit = fit_command(deployment, "out.json")
    if as_json:
        commands = {"benchmark": bench, "fit": fit}
        print_json({**found.to_dict(), "output": output and str(output), "commands": commands})
        return
    if quiet:
        OUT.print(for_shell(bench), markup=False, soft_wrap=True)
        return
    show(found)
    for sentence in (said_of_open(found.open), *found.reservations):
        OUT.print(sentence, markup=False)
    OUT.print(f"about {max(1, round(found.seconds / 60))} minutes on the GPU, of which one is loading:", markup=False)
    OUT.print(f"  {for_shell(bench)}", markup=False, soft_wrap=True)
    OUT.print("and then:", markup=False)
    OUT.print(f"  {for_shell(fit)}", markup=False, soft_wrap=True)
    if output is not None:
        note(f"written: {output}")


def _steps_of(load: str, calibration: Calibration, limits: Limits) -> StepSums:
    """The steps that a load makes: of a run on its own server, or of any other load on one of these limits."""
    from roofml.calibration.forwards.command import server_within
    from roofml.calibration.forwards.design import steps_of_load
    from roofml.traces.server import ServerOverrides
    from roofml.workloads.read import read_workload

    deployment = calibration.deployment
    read = read_workload(load, overrides=ServerOverrides(gpu=deployment.gpu.name))
    run = read.workload.load().run(server_within(deployment, limits)) if read.run is None else read.run
    return steps_of_load(calibration.replay(run).schedule.steps)
