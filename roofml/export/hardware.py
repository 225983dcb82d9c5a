"""Adding a GPU to somebody's `hardware_config.json` of BLIS, keeping the others and their layout."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

from roofml.blis.deployment import Hardware
from roofml.export.defaults import Edit, number, read_text
from roofml.util.errors import InputError

FIELDS = {
    "TFlopsPeak": "tflops_peak",
    "TFlopsFP8": "tflops_fp8",
    "BwPeakTBs": "bandwidth_tb_per_s",
    "mfuPrefill": "mfu_prefill",
    "mfuDecode": "mfu_decode",
    "MemoryGiB": "memory_gib",
}
"""BLIS's key -> the field of Hardware."""
NEEDED = ("TFlopsPeak", "BwPeakTBs")


def edit_hardware(path: Path, gpu: str, hardware: Hardware, on: Edit | None = None) -> Edit:
    """The change that adds `gpu` to the file at `path`, which need not exist yet. A GPU that is there stays as it is.

    `on` is a change of the same file that this one adds to.
    Coefficients are fitted on certain numbers, and BLIS multiplies those of this file: raises InputError where an entry
    of that name has another peak rate or bandwidth, and for a file that is no JSON object of objects.
    """
    before = read_text(path) if on is None else on.before
    current = before if on is None else on.after
    text = current if current is not None and current.strip() else "{}\n"
    try:
        loaded: object = json.loads(text, object_pairs_hook=lambda pairs: _unique(path, pairs))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: expected a JSON object of GPUs")
    gpus = cast("dict[str, Any]", loaded)
    if gpu in gpus:
        _check_same(path, gpu, gpus[gpu], hardware)
        return Edit(path, before, text if current is None else current)
    rows = ", ".join(f'"{key}": {number(getattr(hardware, field))}' for key, field in FIELDS.items())
    newline = "\r\n" if "\r\n" in text else "\n"
    close = text.rindex("}")
    head = text[:close].rstrip()
    indent = re.search(r"\{\s*?\n([ \t]+)\"", text)
    entry = f"{newline}{indent.group(1) if indent else '    '}{json.dumps(gpu)}: {{{rows}}}{newline}"
    return Edit(path, before, f"{head}{',' if gpus else ''}{entry}{text[close:]}")


def _unique(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise InputError(f"{path}: key {key!r} is there twice")
    return dict(pairs)


def _check_same(path: Path, gpu: str, entry: object, hardware: Hardware) -> None:
    if not isinstance(entry, dict):
        raise InputError(f"{path}: {gpu}: expected an object")
    found = cast("dict[str, Any]", entry)
    for key in NEEDED:
        value, fitted = found.get(key), float(getattr(hardware, FIELDS[key]))
        same = isinstance(value, int | float) and abs(value / fitted - 1) < 1e-3
        if not same:
            raise InputError(f"{path}: {gpu}: {key} is {value}, but the coefficients were fitted on {fitted:g}")
