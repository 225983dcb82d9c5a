"""The `roofml` command. Commands import what they need when they run, so that --help is quick."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

from roofml import __version__
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

app = typer.Typer(
    name="roofml",
    help="Physics-informed calibration for LLM-inference simulators.",
    no_args_is_help=True,
    add_completion=False,
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


for command in (
    doctor.doctor,
    fit.fit,
    identify.identify,
    evaluate.evaluate,
    leaderboard.leaderboard,
    replay.replay,
    predict.predict,
    pull.pull,
    pool.pool,
    inspect.inspect,
    demo.demo,
):
    app.command()(command)
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
