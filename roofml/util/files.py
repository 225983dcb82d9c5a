"""Finding packaged data, and writing files whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from roofml.util.errors import InputError


def data_folder(name: str) -> Path:
    """Folder `name` (model_configs, hardware, bench_data, coeffs) of the checkout or of the installed package.

    A wheel carries these folders inside the package (pyproject, force-include); a checkout has them beside it.
    """
    package = Path(__file__).resolve().parents[1]
    for parent in (package / "data", package.parent):
        if (parent / name).is_dir():
            return parent / name
    raise FileNotFoundError(f"packaged folder {name!r} is missing: reinstall roofml")


def check_writable(path: Path) -> None:
    """Raise InputError where `write_atomically` could not write: asked before long work, not after."""
    if not path.parent.is_dir():
        raise InputError(f"{path}: folder {path.parent} does not exist")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a file name")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path}: cannot write in {path.parent}: permission denied")


def write_atomically(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path` through a temporary file beside it, so no half-written file is ever seen.

    Raises InputError where the folder does not exist or cannot be written to.
    """
    check_writable(path)
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise InputError(f"{path}: cannot write in {path.parent}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
