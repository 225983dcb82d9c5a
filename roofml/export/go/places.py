"""Where a Go package goes: a module of its own, a folder of a module that is there, or a checkout of BLIS."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from roofml.util.errors import InputError
from roofml.util.reading import is_file, is_folder, read_text

BLIS_MODULE = "github.com/inference-sim/inference-sim"
IN_BLIS = "sim/roofml"
"""Folder of the package in a BLIS checkout."""
ADAPTER = "zz_roofml.go"
"""Sorts behind BLIS's own files, so that Go initialises them before."""
_MODULE = re.compile(r'^[ \t]*module[ \t]+"?([A-Za-z0-9._~/-]+)"?[ \t]*(?://.*)?$', re.MULTILINE)


@dataclass(frozen=True)
class Places:
    """Where the files go, and under which paths Go imports them."""

    package: Path
    """Folder of the package."""
    adapter: Path
    """The adapter's file."""
    import_path: str
    """Of the package, as the adapter imports it."""
    blis_module: str
    """Of BLIS."""
    own_module: bool
    """The package is a module of its own, with a go.mod."""
    in_blis: bool
    """The adapter is in its place in a BLIS checkout."""


def in_folder(folder: Path) -> Places:
    """A package in a folder: of the Go module around it if there is one, else a module of its own.

    The adapter lies beside it in `_blis`, a folder that Go does not look into. Raises InputError where the folder's
    parent is not there.
    """
    place = folder.resolve()
    if not is_folder(place) and not is_folder(place.parent):
        raise InputError(f"{folder}: no such folder, nor the one it would be in")
    for parent in place.parents:
        if is_file(parent / "go.mod"):
            module = module_of(parent / "go.mod")
            path = f"{module}/{place.relative_to(parent).as_posix()}"
            blis = module if is_folder(parent / "sim" / "latency") else BLIS_MODULE
            return Places(folder, folder / "_blis" / ADAPTER, path, blis, own_module=False, in_blis=False)
    path = f"{BLIS_MODULE}/{IN_BLIS}"
    return Places(folder, folder / "_blis" / ADAPTER, path, BLIS_MODULE, own_module=True, in_blis=False)


def in_checkout(checkout: Path, folder: Path | None = None) -> Places:
    """A package in a BLIS checkout, in `sim/roofml` or a folder that is given, with the adapter in its place.

    Raises InputError for what is no BLIS checkout, and for a folder outside of it.
    """
    if not is_file(checkout / "go.mod") or not is_folder(checkout / "sim" / "latency"):
        raise InputError(f"{checkout}: is no BLIS checkout, expected go.mod and sim/latency in it")
    module = module_of(checkout / "go.mod")
    package = checkout / IN_BLIS if folder is None else folder
    root, place = checkout.resolve(), package.resolve()
    if place == root or not place.is_relative_to(root):
        raise InputError(f"{package}: is not in {checkout}, where BLIS could import it")
    path = f"{module}/{place.relative_to(root).as_posix()}"
    adapter = checkout / "sim" / "latency" / ADAPTER
    return Places(package, adapter, path, module, own_module=False, in_blis=True)


def module_of(file: Path) -> str:
    """The module that a go.mod names. Raises InputError where it names none."""
    found = _MODULE.search(read_text(file))
    if found is None:
        raise InputError(f"{file}: names no module")
    return found[1]
