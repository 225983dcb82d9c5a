"""The `roofml` command. Commands import what they need when they run, so that --help is quick."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from roofml.cli import (
    bench,
    demo,
    doctor,
    evaluate,
    export,
    fit,
    identify,
    inspect,
    leaderboard,
    pool,
    predict,
    pull,
    replay,
)
from roofml.util.errors import InputError
from roofml.util.version import __version__

COMMANDS: dict[str, tuple[Callable[..., None], str]] = {
    "doctor": (doctor.doctor, "roofml doctor runs/codegen"),
    "fit": (fit.fit, "roofml fit runs/* --gpu H100 -o coefficients.yaml"),
    "identify": (identify.identify, "roofml identify runs/codegen --gpu H100"),
    "evaluate": (evaluate.evaluate, "roofml evaluate runs/* --gpu H100 --protocol temporal"),
    "leaderboard": (leaderboard.leaderboard, "roofml leaderboard runs/* --gpu H100 -o leaderboard.md"),
    "replay": (replay.replay, "roofml replay runs/codegen --coeffs coefficients.yaml"),
    "predict": (
        predict.predict,
        "roofml predict codellama-34b-instruct-hf --gpu H100 --tp 2 --decode 700x64 --prefill 16@560",
    ),
    "pull": (pull.pull, "roofml pull mistralai/Mistral-7B-v0.1"),
    "pool": (pool.pool, "roofml pool runs/* --gpu H100 -o global.yaml"),
    "inspect": (inspect.inspect, "roofml inspect mixtral-8x7b-v0.1 --gpu H100 --tp 2"),
    "demo": (demo.demo, "roofml demo"),
}
"""Name -> command, and an example of it for its help."""

app = typer.Typer(
    name="roofml",
    help="Physics-informed calibration for LLM-inference simulators.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"roofml {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say it.")] = False,
) -> None:
    """Physics-informed calibration for LLM-inference simulators."""


for _name, (_command, _example) in COMMANDS.items():
    app.command(_name, epilog=f"Example: {_example}")(_command)
app.add_typer(export.app, name="export")
app.add_typer(bench.app, name="bench")


def run(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit status: 0, 2 for bad usage or input, 1 for any other failure."""
    try:
        app(args=arguments, prog_name="roofml")
    except SystemExit as end:  # typer ends every command this way, and says itself what is wrong with a command line
        return end.code if isinstance(end.code, int) else 0
    except InputError as error:
        print(f"roofml: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except Exception as error:
        if os.environ.get("ROOFML_TRACEBACK"):
            raise
        message = " ".join(str(error).split()) or "no message"
        print(f"roofml: {type(error).__name__}: {message} (ROOFML_TRACEBACK=1 shows where)", file=sys.stderr)
        return 1
    return 0


def main() -> None:
    """Console entry point."""
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show is no reason to fail
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    status = run()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has gone: nothing is left to say, to stdout least of all.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)


if __name__ == "__main__":
    main()
