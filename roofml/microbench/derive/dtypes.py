"""Data types of measurements, as roofml calls them."""

from __future__ import annotations

DTYPES = {"bfloat16": ("bfloat16", 2), "fp8": ("fp8", 1)}
"""aiconfigurator's data type -> roofml's, and bytes of a weight. Types in blocks or of 4 bits are not imported yet."""
