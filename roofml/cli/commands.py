"""The commands by name. Each is imported when it is asked for, so that a page of help costs no other command's imports.

A new command is a module of this folder, with a function or a group `app` in it, and a row of `COMMANDS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple, cast

import typer
import typer.core
import typer.main


class Row(NamedTuple):
    """What the list of commands says of one, which is what its own help begins with, and an example for that help."""

    summary: str
    example: str = ""
    """Empty: a group of commands, which have their own."""


COMMANDS: dict[str, Row] = {
    "doctor": Row(
        "Say what traces, or sampled steps, really contain: traps found, what was corrected, what could not be.",
        "roofml doctor runs/codegen",
    ),
    "fit": Row(
        "Fit coefficients to the runs of one model, GPU and TP, and write them as YAML (to stdout without -o).",
        "roofml fit runs/* --gpu H100 -o coefficients.yaml",
    ),
    "identify": Row(
        "Fit runs of one model, GPU and TP; say what they decide, what they leave open, and which load would tell.",
        "roofml identify runs/codegen --gpu H100",
    ),
    "design": Row(
        "Choose the exact batches that tell most about a deployment, for `vllm bench forward` to time on your own GPU.",
        "roofml design meta-llama/Llama-3.1-8B-Instruct --gpu H100 --cases 40 -o shapes.json",
    ),
    "evaluate": Row(
        "Judge predictions on held-out requests: fit the first part of each run, or take --coeffs as they are.",
        "roofml evaluate runs/* --gpu H100 --protocol temporal",
    ),
    "check": Row(
        "Say whether a calibration still holds on a new run: it holds, or what changed, by how much and since when.",
        "roofml check runs/today --coeffs coefficients.yaml",
    ),
    "leaderboard": Row(
        "Judge our model, its variants and the baselines on held-out requests, and test who is better.",
        "roofml leaderboard runs/* --gpu H100 -o leaderboard.md",
    ),
    "replay": Row(
        "Serve a run's requests again, with vLLM's scheduler and the coefficients' step times, and compare.",
        "roofml replay runs/codegen --coeffs coefficients.yaml",
    ),
    "report": Row(
        "Write one HTML page, readable offline, on a phone and in print: what was measured and mended, how far"
        " predictions are off, where a step's time goes.",
        "roofml report runs/* --coeffs coefficients.yaml -o report.html",
    ),
    "simulate": Row(
        "Serve a load that nobody has run: TTFT, TPOT, ITL, E2E, rates and queues, with 90 % intervals.",
        "roofml simulate llama-2-7b-hf --gpu H100 --tp 1 --load poisson:rate=8,input=1024,output=256",
    ),
    "plan": Row(
        "The largest rate, or number of clients, that meets every SLO, with its interval; replicas and cost of --rate.",
        "roofml plan llama-2-7b-hf --gpu H100,L40S --load poisson:rate=1,input=512,output=99 --slo 'p95 ttft < 1s'",
    ),
    "predict": Row(
        "Predict the time of one engine step.",
        "roofml predict codellama-34b-instruct-hf --gpu H100 --tp 2 --decode 700x64 --prefill 16@560",
    ),
    "pull": Row(
        "Bring the config of a Hub model to model_configs/, pinned to a commit.",
        "roofml pull mistralai/Mistral-7B-v0.1",
    ),
    "pool": Row(
        "Fit every model of the runs by itself, and write the fits as the prior of models without a trace.",
        "roofml pool runs/* --gpu H100 -o global.yaml",
    ),
    "inspect": Row(
        "Show a model's parameters, bytes, KV blocks and ideal step times on a GPU, and what was assumed.",
        "roofml inspect mixtral-8x7b-v0.1 --gpu H100 --tp 2",
    ),
    "demo": Row(
        "Make a run from known parameters, fit it, and compare known with recovered. Needs no file and no network.",
        "roofml demo",
    ),
    "export": Row("Write what other simulators load."),
    "bench": Row("Kernel efficiencies: import measurements, or measure this GPU."),
    "catalog": Row("Calibrations of many deployments: make, keep up to date, check."),
}
"""In the order of the help."""


class _Imported(Mapping[str, Any]):
    """The commands as Typer has them, by name, each from its module when it is first asked for."""

    def __getitem__(self, name: str) -> Any:
        return _imported(name)

    def __contains__(self, name: object) -> bool:
        return name in COMMANDS

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


@cache
def _imported(name: str) -> Any:
    row = COMMANDS[name]
    module = import_module(f"roofml.cli.{name}")
    alone = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    if row.example:
        alone.command(name, epilog=f"Example: {row.example}")(getattr(module, name))
    else:
        alone.add_typer(module.app, name=name)
    return typer.main.get_group(alone).commands[name]


class Commands(typer.core.TyperGroup):
    """The root of them, which lists them without importing any."""

    def __init__(self, **attributes: Any) -> None:
        """Take what Typer makes a group of; it has no commands of its own."""
        super().__init__(**attributes)
        self.commands = cast("Any", _Imported())

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of the help: as Typer does, of the summaries."""
        room = formatter.width - 6 - max(map(len, COMMANDS))
        rows = [
            (name, typer.core.TyperCommand(name, help=row.summary).get_short_help_str(room))
            for name, row in COMMANDS.items()
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
