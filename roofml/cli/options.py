"""Options that several commands share, and the decorator that hands a command what its user said of the server."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from roofml.traces.read import Reading
    from roofml.traces.server import ServerFileFacts

from roofml.util.errors import InputError

Runs = Annotated[list[Path], typer.Argument(help="Run folders, or trace files.", metavar="RUN...")]
OneRun = Annotated[Path, typer.Argument(help="A run folder, or a trace file.", metavar="RUN")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", help="No progress and no chatter; results are still printed or written.")
]
Coeffs = Annotated[Path | None, typer.Option("--coeffs", help="Coefficients file (YAML) of `roofml fit`.")]
Gpu = Annotated[str | None, typer.Option("--gpu", help="GPU that served: a name in hardware/ or a YAML file.")]
AllowOversize = Annotated[
    bool, typer.Option("--allow-oversize", help="Warn, rather than refuse, where it cannot fit on the GPUs.")
]
Subject = Annotated[
    str | None, typer.Argument(metavar="[MODEL]", help="Name in model_configs/, Hub repository or path of a config.")
]
Slos = Annotated[
    list[str] | None, typer.Option("--slo", metavar="SLO", help="For instance 'p95 ttft < 500ms'; as often as wanted.")
]
Precision = Annotated[
    str | None,
    typer.Option("--precision", help="Format of the weights, if not the config's: bf16, fp8, fp8_block, nvfp4 ..."),
]
TrainFraction = Annotated[float, typer.Option(help="Share of each run's requests to fit, from its start.")]
Steps = Annotated[
    list[Path] | None, typer.Option(help="Steps of a run, to fit as well: parquet, OTLP, or a log (docs/steps.md).")
]

FailAbove = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        metavar="PCT",
        help="Fail only if steps surely changed by more: the whole interval lies beyond, either way.",
    ),
]
Scheduler = Annotated[
    str | None, typer.Option("--scheduler", metavar="ADDRESS", help="A Dask cluster that is there: tcp://HOST:PORT.")
]
CatalogOption = Annotated[
    str | None,
    typer.Option("--catalog", metavar="PLACE", help="Catalogue of `roofml catalog fit`: a folder or a URL."),
]

SERVER: dict[str, Any] = {
    "gpu": Gpu,
    "model": Annotated[str | None, typer.Option("--model", help="Model that was served: name, Hub repo or path.")],
    "tensor_parallel": Annotated[int | None, typer.Option("--tp", help="Tensor parallel size (GPUs).")],
    "max_num_seqs": Annotated[int | None, typer.Option("--max-num-seqs", help="Most requests in a step.")],
    "max_num_batched_tokens": Annotated[
        int | None, typer.Option("--max-num-batched-tokens", help="Most new tokens in a step.")
    ],
    "block_size": Annotated[int | None, typer.Option("--block-size", help="Tokens in a KV block.")],
    "num_gpu_blocks": Annotated[
        int | None, typer.Option("--num-gpu-blocks", help="KV blocks, as vLLM reported at start.")
    ],
    "max_model_len": Annotated[int | None, typer.Option("--max-model-len", help="Most tokens of a request.")],
    "prefix_caching": Annotated[bool | None, typer.Option("--prefix-caching/--no-prefix-caching", help="Was it on?")],
    "async_scheduling": Annotated[
        bool | None, typer.Option("--async-scheduling/--no-async-scheduling", help="Was it on?")
    ],
    "fresh": Annotated[bool | None, typer.Option("--fresh/--warm", help="Had it just started, or served before?")],
    "engine": Annotated[str | None, typer.Option("--engine", help="vllm, sglang or tensorrt-llm.")],
    "engine_version": Annotated[str | None, typer.Option("--engine-version", help="Its version, such as 0.15.1.")],
    "kv_dtype": Annotated[str | None, typer.Option("--kv-dtype", help="Type of the KV cache, if not the model's.")],
    "settings": Annotated[
        list[str] | None,
        typer.Option("--server-arg", metavar="NAME=VALUE", help="Another setting of the server, as in `vllm serve`."),
    ],
    "output_tokens": Annotated[int | None, typer.Option("--output-tokens", help="Tokens every request really made.")],
    "deadline_s": Annotated[
        float | None, typer.Option("--deadline", help="Seconds after which the client gives up; inf: never.")
    ],
    "server_file": Annotated[
        Path | None,
        typer.Option("--server", help="Facts of the server: a file of `doctor --write-server`, a log, a manifest."),
    ],
}
"""Field of `ServerOverrides` -> its option."""


def _server_file(path: Path | None) -> ServerFileFacts | None:
    """What the file of `--server` says."""
    if path is None:
        return None
    from roofml.traces.server import ServerFileFacts
    from roofml.traces.server_files import read_server

    return ServerFileFacts(path.name, read_server(path))


def check_train_fraction(share: float) -> None:
    """Raise InputError for a share of a run that is none."""
    if not 0 < share <= 1:
        raise InputError(f"--train-fraction {share:g}: expected more than 0 and at most 1")


def check_something(reading: Reading, forwards: bool = False) -> None:
    """Raise InputError where files were read and there is no run among them; with `forwards` exact batches will do."""
    if not reading.judged and not (forwards and reading.forwards):
        raise InputError("no run among what was given: files of a server, tables of steps or exact batches alone")


def server_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command that takes `overrides: ServerOverrides`, with an option for each of its fields in that place.

    A field that is an option of the command itself stays the command's.
    """
    ours = [name for name in SERVER if name not in inspect.signature(command).parameters]

    @functools.wraps(command)
    def with_options(**given: Any) -> None:
        from roofml.traces.server import ServerOverrides
        from roofml.traces.settings import read_settings

        said = {name: given.pop(name) if name in ours else None for name in SERVER}
        said["settings"] = read_settings(said["settings"], "--server-arg") if said["settings"] else None
        said["server_file"] = _server_file(said["server_file"])
        command(**given, overrides=ServerOverrides(**said))

    # The type is named for readers and checkers alone: what it imports would make --help slow.
    named = {"ServerOverrides": object}
    signature, hints = inspect.signature(command), get_type_hints(command, localns=named, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        if parameter.name != "overrides":
            parameters.append(parameter.replace(annotation=hints[parameter.name]))
            continue
        parameters += [
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=option)
            for name, option in SERVER.items()
            if name in ours
        ]
    with_options.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore[reportAttributeAccessIssue]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_options
