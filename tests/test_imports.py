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

LAYERS: tuple[tuple[str, ...], ...] = (
    ("util",),
    ("models", "hardware", "traces"),
    ("latency", "microbench"),
    ("engine",),
    ("calibration", "blis"),
    ("validation", "export"),
    ("cli",),
)
"""From the bottom up; a package stands for all its modules. Those of one layer do not know each other."""

LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part_of(path: Path) -> str:
    """The module or package of the top level that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level part of every import from this package, also those inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            names = [f"roofml.{alias.name}" for alias in node.names] if module == "roofml" else [module]
        for name in names:
            if name.split(".")[0] == "roofml":
                yield node.lineno, name.split(".")[1]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_point_down(path: Path) -> None:
    part = part_of(path)
    assert part in LEVEL, f"{path}: say in LAYERS where {part} stands"
    for line, other in imported(path):
        if other not in {part, "__version__"}:
            assert LEVEL[other] < LEVEL[part], f"{path}:{line}: {part} imports {other}, which does not lie below it"


def test_every_layer_exists() -> None:
    assert set(LEVEL) == {part_of(path) for path in FILES}


def modules_after(statement: str) -> set[str]:
    """Names in sys.modules of a fresh interpreter, with warnings as errors, after `statement`."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["roofml", "roofml.cli", "roofml.cli.main"])
def test_the_command_starts_without_what_is_heavy(module: str) -> None:
    heavy = {"jax", "numba", "pandas", "scipy", "numpy", "torch", "transformers", "matplotlib", "pyarrow"}
    assert not heavy & modules_after(f"import {module}")


def test_a_replay_needs_no_jax_and_a_fit_imports_it_when_it_runs() -> None:
    """So no import sets JAX's global flags either."""
    assert "jax" not in modules_after(
        "import roofml.engine.replay, roofml.calibration.fit, roofml.validation.cross_validation, roofml.blis.fit"
    )
