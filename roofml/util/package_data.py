"""Finding the data that comes with the package."""

from __future__ import annotations

from pathlib import Path


def data_folder(name: str) -> Path:
    """Folder `name` (model_configs, hardware, bench_data, coeffs, sample_run) of the checkout or installed package.

    A wheel carries these folders inside the package (pyproject, force-include); a checkout has them beside it.
    """
    package = Path(__file__).resolve().parents[1]
    for parent in (package / "data", package.parent):
        if (parent / name).is_dir():
            return parent / name
    raise FileNotFoundError(f"packaged folder {name!r} is missing: reinstall roofml")
