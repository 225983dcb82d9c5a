"""Names of the files of a catalogue."""

from __future__ import annotations

from roofml.util.outside_text import for_file_name

INDEX, PAGE, FAILURES, COEFFS = "index.parquet", "index.html", "failures.json", "coeffs"
GLOBAL = "global-"


def global_name(gpu: str) -> str:
    """The file with the fits of all models on a GPU."""
    return f"{GLOBAL}{for_file_name(gpu)}.yaml"
