"""Steps: tables of the engine steps that an instrumented server recorded.

A reader turns a file into `SampledSteps` (`table`); `cycles` takes cycle times from them, `sampling` judges the sample.
"""

from __future__ import annotations

from pathlib import Path

from roofml.traces.steps import forward_pass, iteration_log, otlp, parquet
from roofml.traces.steps.table import SampledSteps as SampledSteps
from roofml.util.errors import InputError
from roofml.util.reading import MOST_BYTES_OF_A_TABLE, is_folder, open_file

READERS = {
    "parquet": (parquet.detect, parquet.read),
    "OTLP JSON lines": (otlp.detect, otlp.read),
    "vLLM's iteration log": (iteration_log.detect, iteration_log.read),
    "Dynamo's forward-pass metrics": (forward_pass.detect, forward_pass.read),
}
"""Format name -> the functions that recognise and read it."""


def is_steps(path: Path) -> bool:
    """Whether `path` looks like a file of sampled steps and not like a run."""
    return any(detect(path) for detect, _ in READERS.values())


def read_steps(path: Path) -> SampledSteps:
    """The sampled steps in `path`. Raises InputError if there is no file, no format fits or the content is impossible.

    The message is one line with file, row or line, and attribute.
    """
    if is_folder(path):
        raise InputError(f"{path}: is a folder, expected a table of steps")
    open_file(path, MOST_BYTES_OF_A_TABLE).close()  # says it if it is no file at all
    for detect, read in READERS.values():
        if detect(path):
            return read(path)
    raise InputError(f"{path}: not a table of steps; expected {', '.join(READERS)}")
