"""Fixtures used by more than one test file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command has it (`roofml.cli.start`)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # commands in processes of their own find the package compiled
os.environ.pop("COLUMNS", None)  # test workers have it, and what is printed would be as narrow as their terminal

settings.register_profile("roofml", deadline=None)  # the first example may compile, and cores are shared
settings.load_profile("ci" if os.environ.get("CI") else "roofml")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real measurements, which are not part of this repository: $ROOFML_SHARED or ../shared."""
    folder = Path(os.environ.get("ROOFML_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not (folder / "groundtruth").is_dir():
        pytest.skip(f"real measurements are not here: {folder} (set ROOFML_SHARED)")
    return folder
