"""Adding a GPU to a user's `hardware_config.json` of BLIS. The other GPUs and their layout stay."""

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
FITTED_ON = ("TFlopsPeak", "BwPeakTBs")
"""The keys whose values decide what coefficients mean."""


def edit_hardware(path: Path, gpu: str, hardware: Hardware, earlier: Edit | None = None) -> Edit:
    """Return the change that adds `gpu` to the file at `path`, which may not exist yet. An existing entry stays.

    `earlier` is a change of the same file that this one adds to. Raises InputError for a file that is not a JSON object
    of objects, and if an entry of that name has another peak rate or bandwidth: BLIS multiplies the numbers of this
    file, and the coefficients were fitted on ours.
    """
    before = read_text(path) if earlier is None else earlier.before
    current = before if earlier is None else earlier.after
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
    fields = cast("dict[str, Any]", entry)
    for key in FITTED_ON:
        value, fitted = fields.get(key), float(getattr(hardware, FIELDS[key]))
        same = isinstance(value, int | float) and abs(value / fitted - 1) < 1e-3
        if not same:
            raise InputError(f"{path}: {gpu}: {key} is {value}, but the coefficients were fitted on {fitted:g}")
