"""Digests: what a thing is, whatever it is called."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def digest(*parts: str | bytes | NDArray[np.generic]) -> str:
    """SHA-256 (hexadecimal) of texts, bytes and arrays, each with its length, so that no two lists of parts collide.

    Arrays count by their values, as little-endian 64-bit numbers: the same on every machine.
    """
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            raw = part.encode()
        elif isinstance(part, bytes):
            raw = part
        else:
            raw = part.astype("<f8" if part.dtype.kind == "f" else "<i8").tobytes()
        found.update(len(raw).to_bytes(8, "little") + raw)
    return found.hexdigest()
