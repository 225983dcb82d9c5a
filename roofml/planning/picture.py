"""Pictures of loads and plans: what every one of them needs."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from roofml.util.errors import InputError
from roofml.util.names import shown
from roofml.util.writing import check_writable, write_file

NO_MATPLOTLIB = "a picture needs matplotlib: pip install 'roofml[plot]'"
BLUE, RED, DARK, GREEN, AMBER = "#3b6ea5", "#c0392b", "#34495e", "#3a8f5c", "#c98a1b"


DPI = 110
"""Points of an inch, of pictures that are made of points."""
KINDS = ("png", "svg", "pdf", "jpg", "jpeg", "webp", "eps", "ps", "tif", "tiff")
"""Suffixes of pictures that can be drawn."""


def check_picture(path: Path) -> None:
    """Raise InputError where a picture cannot be written to `path`, before anything is computed for it."""
    check_writable(path)
    if path.suffix.lower().removeprefix(".") not in KINDS:
        raise InputError(f"--plot {shown(str(path))}: expected a name that ends in {', '.join(KINDS)}")
    if find_spec("matplotlib") is None:
        raise InputError(NO_MATPLOTLIB)


def new_figure(path: Path, width: float, height: float) -> Any:
    """An empty figure, inches. Raises InputError where matplotlib (extra `plot`) is missing or `path` cannot be."""
    check_writable(path)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(NO_MATPLOTLIB) from None
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    """Write it in one piece; the suffix of `path` gives the format. Raises InputError for one that cannot be drawn."""
    picture, kind = io.BytesIO(), path.suffix.removeprefix(".") or "png"
    try:
        figure.savefig(picture, format=kind, dpi=DPI, metadata={"Software": None} if kind == "png" else None)
    except ValueError as error:
        raise InputError(f"{path}: cannot draw: {str(error).splitlines()[0]}") from None
    write_file(path, picture.getvalue())
