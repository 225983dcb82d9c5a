"""Data types of measurements, as roofml calls them."""

from __future__ import annotations

FORMATS_MEASURED = {
    "bfloat16": "bfloat16",
    "fp8": "fp8",
    "fp8_block": "fp8_block",
    "int8": "int8",
    "nvfp4": "nvfp4",
    "int4_wo": "int4",
    "w4a16_mxfp4": "mxfp4",
    "w4a8_mxfp4_mxfp8": "mxfp4_mxfp8",
}
"""aiconfigurator's format of weights -> that of `roofml/hardware/formats.py`, the widest first."""
CACHE_DTYPES = {"bfloat16": ("bfloat16", 2), "fp8": ("fp8", 1)}
"""Type of the KV cache -> roofml's name, and bytes of an element."""
