"""Imports only point down, and what is heavy is imported where it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import roofml

PACKAGE = Path(roofml.__file__).parent

LAYERS = (
    ("util",),
    ("models", "hardware", "traces", "jobs"),
    ("latency", "workloads", "microbench"),
    ("engine",),
    ("calibration", "blis"),
    ("validation", "export"),
    ("planning", "emulator"),
    ("report", "catalog"),
    ("cli",),
)
"""From the bottom up; a room stands for all its modules. Those of one row do not know each other."""

TO_COME = ("emulator",)
"""Rooms that stand in LAYERS and are not built yet. (The picture in the docs is drawn from these two literals.)"""

MOST_LINES = 400
"""Of one file: what has more holds more than one thing."""

LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part_of(path: Path) -> str:
    """The room, or module of the top level, that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def modules_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that is imported, also inside functions: `from a import b` is a and a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and room of every import from this package, also those inside functions."""
    for line, name in modules_of(path):
        package, _, rest = name.partition(".")
        if package == "roofml" and rest:
            yield line, rest.split(".")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_point_down(path: Path) -> None:
    part = part_of(path)
    assert part in LEVEL, f"{path}: say in LAYERS where {part} stands"
    for line, other in imported(path):
        if other not in {part, "__version__"}:
            assert LEVEL[other] < LEVEL[part], f"{path}:{line}: {part} imports {other}, which does not lie below it"


def test_every_room_stands_in_one_row_and_exists_unless_it_is_to_come() -> None:
    rooms = [name for names in LAYERS for name in names]
    assert len(rooms) == len(set(rooms))
    assert set(TO_COME) < set(rooms)
    assert {part_of(path) for path in FILES} == set(rooms) - set(TO_COME)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_is_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


CALCULATION = ("numpy", "scipy", "numba", "jax", "math", "statistics")
"""Who computes a figure imports one of these, or what in roofml does so."""
FORMULAS = (
    "roofml.engine",
    "roofml.latency.components",
    "roofml.latency.formula",
    "roofml.validation.statistics",
)
PROGRESS = {"replay.py": {"numpy"}}
"""The compiled loop counts finished requests in an array that `roofml replay` holds, to show them."""


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").glob("**/*.py")), ids=lambda path: path.name)
def test_a_command_has_no_formula_and_no_statistic(path: Path) -> None:
    """It reads options, calls one thing of the library, and prints."""
    for line, module in modules_of(path):
        top = module.split(".")[0]
        assert top not in set(CALCULATION) - PROGRESS.get(path.name, set()), f"{path}:{line}: imports {top}"
        inside = [formula for formula in FORMULAS if f"{module}.".startswith(f"{formula}.")]
        assert not inside, f"{path}:{line}: imports {module}"


def modules_after(statement: str) -> set[str]:
    """Names in sys.modules of a fresh interpreter, with warnings as errors, after `statement`."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["roofml", "roofml.cli", "roofml.cli.main"])
def test_the_command_starts_without_what_is_heavy(module: str) -> None:
    heavy = {"jax", "numba", "pandas", "scipy", "numpy", "torch", "transformers", "matplotlib", "pyarrow"}
    assert not heavy & modules_after(f"import {module}")


def test_the_library_is_imported_in_no_time() -> None:
    """What is heavy, and what only a terminal needs, waits until a name is used."""
    assert not {"numpy", "jax", "numba", "pandas", "scipy", "rich", "typer"} & modules_after("import roofml")


def test_a_replay_needs_no_jax_and_a_fit_imports_it_when_it_runs() -> None:
    """So no import sets JAX's global flags either."""
    assert "jax" not in modules_after(
        "import roofml.engine.replay, roofml.calibration.fit, roofml.validation.cross_validation, roofml.blis.fit"
    )
