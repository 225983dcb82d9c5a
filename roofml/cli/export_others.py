"""roofml export llm-d-sim, latency-predictor, model-tuner, dynamo, aiconfigurator: other tools' files and forms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roofml.cli import options as o
from roofml.cli.console import OUT, note, print_json, show, warn, warn_of, working

if TYPE_CHECKING:
    from roofml.export.exported import Exported
    from roofml.export.subject import Subject
    from roofml.traces.server import ServerOverrides

Sources = Annotated[
    list[Path], typer.Argument(help="A coefficients file, a run, or one of each.", metavar="COEFFS|RUN...")
]
Lengths = Annotated[
    str | None,
    typer.Option(
        metavar="INPUTxOUTPUT", help="Mean tokens of prompts and answers. Default: the run's, or 1024x256 without one."
    ),
]
File = Annotated[Path, typer.Option("-o", "--output", help="File to write.")]
Folder = Annotated[Path, typer.Option("-o", "--output", help="Folder to write into; made if it is not there.")]


@o.server_options
def llm_d_sim(
    sources: Sources,
    overrides: ServerOverrides,
    output: File = Path("llm-d-sim.yaml"),
    lengths: Lengths = None,
    kv_link: Annotated[
        float | None,
        typer.Option(min=0.001, max=1e6, metavar="GB/S", help="Link that brings a decode instance its KV cache."),
    ] = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Write a configuration of llm-d-inference-sim: first token, tokens and load factor as our replay has them."""
    from roofml.export.llm_d_sim import export_llm_d_sim

    _export(sources, overrides, lengths, output, as_json, quiet, lambda what: export_llm_d_sim(what, output, kv_link))


@o.server_options
def latency_predictor(
    sources: Sources,
    overrides: ServerOverrides,
    output: File = Path("latency-predictor.json"),
    lengths: Lengths = None,
    rate: Annotated[
        str | None, typer.Option(metavar="R[,R..]", help="Rows of loads nobody has run, at these requests a second.")
    ] = None,
    requests: Annotated[int, typer.Option(min=10, max=100_000, help="Requests of each --rate.")] = 2000,
    predicted: Annotated[
        bool, typer.Option("--predicted", help="Latencies as replayed, where the run's measured ones are not wanted.")
    ] = False,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Write training rows of llm-d's latency predictor: the queue as each request came, and its TTFT and TPOT.

    A file that ends in .jsonl has a row a line, any other the document that the training server takes.
    """
    from roofml.export.latency_predictor import export_latency_predictor, parse_rates

    rates = parse_rates(rate)
    _export(
        sources, overrides, lengths, output, as_json, quiet,
        lambda what: export_latency_predictor(what, output, predicted=predicted, rates=rates, requests=requests),
    )  # fmt: skip


@o.server_options
def model_tuner(
    sources: Sources,
    overrides: ServerOverrides,
    output: Folder = Path("model-tuner"),
    lengths: Lengths = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Write alpha, beta and gamma of llm-d's model-tuner, and how sure they are, with the optimizer's model data."""
    from roofml.export.model_tuner import export_model_tuner

    _export(sources, overrides, lengths, output, as_json, quiet, lambda what: export_model_tuner(what, output))


@o.server_options
def dynamo(
    sources: Sources,
    overrides: ServerOverrides,
    output: Folder = Path("dynamo-profile"),
    lengths: Lengths = None,
    disaggregated: Annotated[
        bool, typer.Option("--disaggregated", help="Prompts are computed by instances of their own.")
    ] = False,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Write a profile that NVIDIA Dynamo's mocker interpolates, and what its planner reads of a profiler."""
    from roofml.export.dynamo import export_dynamo

    _export(
        sources, overrides, lengths, output, as_json, quiet,
        lambda what: export_dynamo(what, output, aggregated=not disaggregated),
    )  # fmt: skip


@o.server_options
def aiconfigurator(
    sources: Sources,
    overrides: ServerOverrides,
    output: Folder = Path("systems"),
    lengths: Lengths = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Write a folder of systems that AIConfigurator and AISimulate load: kernel tables that sum up to our steps.

    For dense models alone; it takes pyarrow (extra `bench`).
    """
    from roofml.export.aiconfigurator import export_aiconfigurator

    _export(sources, overrides, lengths, output, as_json, quiet, lambda what: export_aiconfigurator(what, output))


def _export(
    sources: list[Path],
    overrides: ServerOverrides,
    lengths: str | None,
    output: Path,
    as_json: bool,
    quiet: bool,
    make: Callable[[Subject], Exported],
) -> None:
    """Read what is exported, make the files, write them, and say what their form loses."""
    from roofml.export.subject import parse_lengths, read_subject
    from roofml.util.writing import check_writable

    asked = parse_lengths(lengths)
    if not output.is_dir():
        check_writable(output)
    with working(quiet or as_json, "reading"):
        subject = read_subject(sources, overrides, asked)
    if subject.run is not None:
        warn_of([subject.run])
    for text in subject.warnings:
        warn(text)
    with working(quiet or as_json, "fitting the form"):
        exported = make(subject)
    exported.write()
    if as_json:
        print_json(exported.to_dict())
        return
    if quiet:
        return
    show(exported)
    for text in exported.remarks:
        note(text)
    for path in exported.files:
        OUT.print(f"written: {path}", markup=False)
    if exported.use:
        OUT.print(f"use it with: {exported.use}", markup=False)


COMMANDS: dict[str, tuple[Callable[..., None], str]] = {
    "llm-d-sim": (llm_d_sim, "roofml export llm-d-sim coefficients.yaml -o sim.yaml"),
    "latency-predictor": (latency_predictor, "roofml export latency-predictor coefficients.yaml runs/codegen"),
    "model-tuner": (model_tuner, "roofml export model-tuner coefficients.yaml -o config-data"),
    "dynamo": (dynamo, "roofml export dynamo coefficients.yaml -o profile"),
    "aiconfigurator": (aiconfigurator, "roofml export aiconfigurator coefficients.yaml -o systems"),
}
"""Name -> command, and an example of it for its help."""
