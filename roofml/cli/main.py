"""The `roofml` command. Commands import what they need when they run, so that --help is quick."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer

from roofml.cli import streams
from roofml.cli.commands import Commands
from roofml.util.errors import InputError, JobFailedError
from roofml.util.interrupts import wait_if_ending
from roofml.util.outside_text import for_line
from roofml.util.reading import remembered
from roofml.util.version import __version__

app = typer.Typer(
    name="roofml",
    cls=Commands,
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


MOST_OF_A_MESSAGE = 2_000
"""Characters of an error's line: what was refused may be megabytes."""
INTERRUPTED = 130
"""Exit status, as shells give it to a command that Ctrl-C ended."""

_ClickException: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""What a wrong command line raises. Typer has it of a package click of its own, or of the one that is installed."""


def run(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit status: 0, 2 for bad usage or input, 1 for any other failure."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        with remembered():
            status = app(args=arguments, prog_name="roofml", standalone_mode=False)
        if status == INTERRUPTED:  # typer makes this of a KeyboardInterrupt
            return _fail("interrupted", INTERRUPTED)
        return status if isinstance(status, int) else 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", INTERRUPTED)
    except _ClickException as error:
        return _fail_usage(error, given)
    except streams.OutputError as error:
        streams.abandon()
        return _fail(str(error), 1) if str(error) else 1
    except InputError as error:
        return _fail(str(error), 2)
    except JobFailedError as error:
        return _fail(str(error), 1)
    except Exception as error:
        if os.environ.get("ROOFML_TRACEBACK"):
            raise
        said = str(error) or "no message"
        return _fail(f"{type(error).__name__}: {said}", 1, " (ROOFML_TRACEBACK=1 shows where)")


def _fail(message: str, status: int, remedy: str = "") -> int:
    """Say in one line why the command ends, and return its exit status."""
    _say(f"roofml: {_shortened(for_line(message))}{remedy}")
    return status


def _shortened(line: str) -> str:
    """A line as it is, or its ends: what was refused stands first, and why at the end."""
    if len(line) <= MOST_OF_A_MESSAGE:
        return line
    half = MOST_OF_A_MESSAGE // 2
    return f"{line[:half]} ... ({len(line)} characters) ... {line[-half:]}"


def _fail_usage(error: Any, arguments: Sequence[str]) -> int:
    """Say how the command line is wrong, as typer says it, and return the exit status."""
    text = io.StringIO()
    error.show(file=text)
    shown = text.getvalue()
    words = {part for argument in arguments for part in (argument, argument.partition("=")[0])}
    for word in sorted(words, key=lambda word: (-len(word), word)):  # a short one may be part of a long one
        said = _shortened(for_line(word))
        if word.strip() and said != word:  # a line break in it would begin a line of its own
            shown = shown.replace(word, said)
    _say(shown.removesuffix("\n"))
    return int(error.exit_code)


def _say(text: str) -> None:
    """Say it on standard error, if that can still be written to."""
    from roofml.cli.console import say_why  # rich takes as long to import as all that help needs

    wait_if_ending()
    with suppress(OSError, ValueError):
        say_why(text)


def command() -> int:
    """Run the process's command line, and return its exit status when what it printed is out."""
    streams.fill_closed()
    streams.replace()
    status = run()
    problem = streams.finish()
    if problem is not None:
        status = _fail(problem, 1) if problem else 1
    sys.stderr.flush()
    wait_if_ending()
    return status


def main() -> None:
    """Console entry point, without the care of `roofml.cli.start` for signals and the environment."""
    sys.exit(command())


if __name__ == "__main__":
    main()
