"""One run folder and one fit of it, for every test of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from commandline import ok
from runfolder import RunFolder, requests


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run folder, and the coefficients file of its fit."""
    folder = RunFolder(rows=requests(150)).write(tmp_path_factory.mktemp("runs") / "quiet")
    path = folder.parent / "coefficients.yaml"
    ok("fit", folder, "--gpu", "H100", "-o", path, "--quiet")
    return folder, path


@pytest.fixture(scope="session")
def folder(fitted: tuple[Path, Path]) -> Path:
    return fitted[0]


@pytest.fixture(scope="session")
def coeffs(fitted: tuple[Path, Path]) -> Path:
    return fitted[1]


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")
