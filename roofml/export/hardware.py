"""Adding a GPU to a user's `hardware_config.json` of BLIS. The other GPUs and their layout stay."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from roofml.blis.deployment import Hardware
from roofml.export.defaults import number
from roofml.export.edit import Edit, existing_text
from roofml.util.errors import InputError
from roofml.util.reading import as_object, parse_json

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
    before = existing_text(path) if earlier is None else earlier.before
    current = before if earlier is None else earlier.after
    text = current if current is not None and current.strip() else "{}\n"
    gpus = as_object(parse_json(text, path), path)
    for name, entry in gpus.items():
        if not isinstance(entry, dict):
            raise InputError(f"{path}: {name}: expected an object, BLIS reads nothing but GPUs from this file")
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


def _check_same(path: Path, gpu: str, fields: dict[str, Any], hardware: Hardware) -> None:
    for key in FITTED_ON:
        value, fitted = fields.get(key), float(getattr(hardware, FIELDS[key]))
        same = isinstance(value, int | float) and not isinstance(value, bool) and abs(value / fitted - 1) < 1e-3
        if not same:
            raise InputError(f"{path}: {gpu}: {key} is {value}, but the coefficients were fitted on {fitted:g}")
