"""Fixtures every test may use."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of measurements beside the checkout; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("ROOFML_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the shared measurements: no folder {folder} (set ROOFML_SHARED)")
    return folder
