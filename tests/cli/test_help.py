"""`roofml --help`: every command is there, says what it does and shows how, and it comes at once."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from typing import Any

import pytest
import typer.core
import typer.main
from commandline import ROOT, ok, python, roofml

from roofml import __version__
from roofml.cli.commands import COMMANDS
from roofml.cli.main import app

HEAVY = ("jax", "jaxlib", "numba", "numpy", "scipy", "pandas", "ruamel", "huggingface_hub", "matplotlib")


def everything() -> dict[str, Any]:
    """Every command and group of commands, by its full name; the root's is empty."""
    found: dict[str, Any] = {}

    def walk(name: str, command: Any) -> None:
        found[name] = command
        for child, below in getattr(command, "commands", {}).items():
            walk(f"{name} {child}".strip(), below)

    walk("", typer.main.get_command(app))
    return found


def commands() -> dict[str, Any]:
    """Every command that does something, by its full name."""
    return {name: command for name, command in everything().items() if not hasattr(command, "commands")}


def test_the_commands_of_the_contract_are_there() -> None:
    contract = {"pull", "inspect", "doctor", "fit", "predict", "replay", "evaluate", "export blis", "demo"}
    assert contract <= set(commands())


@pytest.mark.parametrize("name", everything())
def test_every_command_and_group_says_what_it_is_for(name: str) -> None:
    command = everything()[name]
    assert command.help
    shown = ok(*name.split(), "--help").out
    assert f"Usage: roofml {name}".rstrip() in shown
    assert command.help.split("\n")[0].split(". ")[0][:60] in " ".join(shown.split())


@pytest.mark.parametrize("name", commands())
def test_every_command_and_option_has_help(name: str) -> None:
    command = commands()[name]
    assert command.help
    for parameter in command.params:
        assert parameter.help, f"{name}: {parameter.name}"
    assert {"--json", "--quiet"} <= {flag for parameter in command.params for flag in parameter.opts}
    shown = ok(*name.split(), "--help").out
    assert f"Usage: roofml {name}" in shown


@pytest.mark.parametrize("name", commands())
def test_every_command_shows_an_example_that_its_options_allow(name: str) -> None:
    command = commands()[name]
    assert command.epilog is not None
    assert command.epilog.startswith(f"Example: roofml {name}")
    words = shlex.split(command.epilog.removeprefix(f"Example: roofml {name}"))
    known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("-")} <= known
    command.make_context(name, words)  # raises for an option's value, or an argument, that it does not take
    assert command.epilog in " ".join(ok(*name.split(), "--help").out.split())


def test_the_shell_can_complete() -> None:
    shown = ok("--help").out
    assert "--install-completion" in shown
    assert "--show-completion" in shown


@pytest.mark.parametrize("name", commands())
def test_every_command_stands_in_the_readme(name: str) -> None:
    assert f"roofml {name}" in (ROOT / "README.md").read_text("utf-8")


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
import roofml.cli.start
from roofml.cli.main import run
assert run(["--help"]) == 0
assert run(["fit", "--help"]) == 0
print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)
"""
    assert python(code).stderr == "[]\n"


def test_help_is_quick() -> None:
    """Little more than Typer's own import; 0.2 s on a slow machine. Of the processor: the clock has other guests."""

    def once(*arguments: str) -> float:
        begin = os.times()
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        end = os.times()
        return end.children_user + end.children_system - begin.children_user - begin.children_system

    pairs = [(once("-m", "roofml.cli.start", "--help"), once("-c", "import typer")) for _ in range(5)]
    ours, typers = (min(column) for column in zip(*pairs, strict=True))
    assert ours < 2.5 * typers  # 1.2 with compiled modules, 1.5 without; 3.6 when it imported every command


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_what_the_command_itself_says(name: str) -> None:
    command = everything()[name]
    for room in range(20, 70):  # the help is at most 80 columns wide
        listed = typer.core.TyperCommand(name, help=COMMANDS[name].summary)
        assert listed.get_short_help_str(room) == command.get_short_help_str(room)


def test_the_list_imports_no_command() -> None:
    code = """
import sys
from roofml.cli.main import run
assert run(["--help"]) == 0
print(sorted(name for name in sys.modules if name.startswith("roofml.cli.")), "rich" in sys.modules, file=sys.stderr)
"""
    assert python(code).stderr == "['roofml.cli.commands', 'roofml.cli.main', 'roofml.cli.streams'] False\n"


def test_version() -> None:
    assert ok("--version").out == f"roofml {__version__}\n"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nonsense",
        "fit",
        "fit --bogus x",
        "fit x --train-fraction much",
        "fit x --target vidur",
        "replay",
        "predict llama-2-7b-hf",
        "doctor x --tp two",
        "demo --seed -1",
        "export",
    ],
)
def test_bad_usage_exits_with_2_and_says_why_on_stderr(line: str) -> None:
    result = roofml(*line.split())
    assert result.status == 2
    assert result.out == ""
    assert "Usage: roofml" in result.err


def test_a_word_of_a_hundred_thousand_letters_is_not_repeated_whole() -> None:
    result = roofml("inspect", "llama-2-7b-hf", "x" * 100_000, "--gpu", "H100")
    assert result.status == 2
    assert "(100000 characters)" in result.err
    assert len(result.err) < 4_000
