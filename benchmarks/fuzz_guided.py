"""One parser, guided by coverage: `fuzz.py --coverage` runs this in a process for each."""

from __future__ import annotations

import sys
from pathlib import Path

from fuzzing.coverage import guide

if __name__ == "__main__":
    guide(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]))
