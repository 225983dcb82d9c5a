"""What the benchmarks use for random inputs is used here as well."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2]))  # `benchmarks` is no part of the package


@pytest.fixture(scope="session", autouse=True)
def folder_of_cases() -> Iterator[None]:
    """Nothing is left of the files that cases were put into: a parallel worker runs no exit handlers."""
    from benchmarks.fuzzing.making import work_folder

    yield
    shutil.rmtree(work_folder(), ignore_errors=True)
