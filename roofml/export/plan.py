"""Which files an export changes: defaults files, the index over several of them, BLIS's hardware config."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from roofml.blis.deployment import hardware_of
from roofml.export.defaults import other_models
from roofml.export.deployment import BlisExport
from roofml.export.edit import Edit, check_apart, existing_text
from roofml.export.folder import DEFAULTS, Remark, folder_edits, planned
from roofml.export.hardware import edit_hardware
from roofml.hardware.gpu import load_gpu
from roofml.util.errors import InputError
from roofml.util.outside_text import for_shell
from roofml.util.reading import is_file, is_folder, is_there

INDEX = "blis-flags.sh"
FIRST_LINE = "# Flags of each calibrated deployment. Source this file, then: blis run $(blis_flags NAME) ..."

_WORDS = r"[A-Za-z0-9_@%+=:,./ -]*"
_CASE = re.compile(
    rf'    (?P<name>[a-z0-9._-]+)\) echo "(?P<flags>{_WORDS} --defaults-filepath \$BLIS_DEFAULTS_FOLDER/{_WORDS})" ;;'
)
"""A deployment's line. What does not look like one of ours is not kept: it could run anything."""


@dataclass(frozen=True)
class Places:
    """Where an export goes, as its command line says."""

    output: Path
    """Folder of new defaults files."""
    defaults: Path | None = None
    """The defaults file to edit; with several deployments what each new file begins with."""
    hardware_config: Path | None = None
    flags_only: bool = False
    """No defaults file is wanted."""
    replace: bool = False
    """Coefficients of another deployment may be given up."""
    into: Path | None = None
    """Folder for everything that BLIS needs of one deployment (`folder`)."""
    config: Path | None = None
    """With `into`, the model's config.json, if it is not ours."""

    def __post_init__(self) -> None:
        """Raise InputError for options that do not go together."""
        for option, given in (("--flags", self.flags_only), ("--hardware-config", self.hardware_config is not None)):
            if self.into is not None and given:
                raise InputError(f"--into and {option}: expected one of the two")

    def edits(self, exports: Sequence[BlisExport]) -> list[Edit]:
        """Return the changes that the deployments need. Raises InputError where a file must not be changed so."""
        if self.into is not None:
            if len(exports) > 1:
                raise InputError(
                    "--into: expected one COEFFS file: BLIS has one set of coefficients for all models, parallel sizes "
                    "and pools of a file; give each deployment a folder of its own"
                )
            edits = folder_edits(exports[0], self.into, self.defaults, config=self.config, replace=self.replace)
            check_apart(edit.path for edit in edits)
            return edits
        if self.config is not None:
            raise InputError("--config: expected --into FOLDER, the config is part of that")
        edits = [] if self.flags_only else self._defaults(exports)
        if self.hardware_config is not None:
            edits += _hardware(exports, self.hardware_config)
        check_apart(edit.path for edit in edits)
        return edits

    def for_these(self, exports: Sequence[BlisExport]) -> Places:
        """Return where these go: all of one deployment into the output folder, where that is not there yet."""
        others = (self.into, self.defaults, self.hardware_config)
        if len(exports) > 1 or self.flags_only or any(place is not None for place in others) or is_there(self.output):
            return self
        return replace(self, into=self.output)

    @property
    def edited(self) -> Path | None:
        """The defaults file that one deployment goes into, if its name is given."""
        return self.defaults if self.into is None else self.into / DEFAULTS

    def planned(self, exports: Sequence[BlisExport]) -> list[Remark]:
        """Return what the user should know before anything is written (`folder.planned`)."""
        told: list[Remark] = []
        for export in exports:
            others = [] if self.edited is None else other_models(self.edited, export.model.key)
            told += planned(export, self.into, self.hardware_config, others)
        return list(dict.fromkeys(told))

    def _defaults(self, exports: Sequence[BlisExport]) -> list[Edit]:
        if len(exports) > 1:
            if self.defaults is not None and not is_file(self.defaults):
                raise InputError(f"{self.defaults}: no such file")
            return edits_for_several(exports, self.output, self.defaults, replace=self.replace)
        if self.defaults is not None:
            return [exports[0].edit(self.defaults, replace=self.replace)]
        _check_folder(self.output)
        return [exports[0].edit(self.output / _file_name(exports[0].slug), replace=self.replace)]


def edits_for_several(
    exports: Sequence[BlisExport], folder: Path, defaults: Path | None = None, *, replace: bool = False
) -> list[Edit]:
    """Return the changes that make one defaults file for each deployment, and `blis-flags.sh` for all of them.

    BLIS reads one set of coefficients a file. A new file begins as a copy of `defaults` if that is given. Raises
    InputError if two deployments would have the same file name, or the index could not hold a name.
    """
    _check_folder(folder)
    names = [export.slug for export in exports]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name}: given twice; one set of coefficients for a model, GPU and tensor parallel size")
    edits: list[Edit] = []
    for export in exports:
        path = folder / _file_name(export.slug)
        if is_there(path) or defaults is None:
            edits.append(export.edit(path, replace=replace))
        else:
            edits.append(Edit(path, None, export.edit(defaults, replace=True).after))
    index = folder / INDEX
    before = existing_text(index)
    return [*edits, Edit(index, before, index_of(exports, _others(index, before)))]


def index_of(exports: Sequence[BlisExport], others: Mapping[str, str] | None = None) -> str:
    """Return a shell file that defines `blis_flags NAME`, for `blis run $(blis_flags llama-2-7b-hf-h100-tp1) ...`.

    `others` are deployments that the file had before and keeps: name -> flags.

    Raises InputError for a name that a shell would not take as one plain word: what it prints is split at spaces.
    """
    flags_of: dict[str, str] = {}
    for export in exports:
        for word in export.server_flags():
            if for_shell([word]) != word:
                raise InputError(f"{INDEX}: cannot hold the name {word!r}, expected letters, digits and ._/-")
        file = f"--defaults-filepath $BLIS_DEFAULTS_FOLDER/{_file_name(export.slug)}"
        flags_of[export.slug] = f"{for_shell(export.server_flags())} {file}"
    flags_of |= {name: flags for name, flags in (others or {}).items() if name not in flags_of}
    cases = "".join(f'    {name}) echo "{flags}" ;;\n' for name, flags in flags_of.items())
    return (
        f"{FIRST_LINE}\n"
        "# BLIS_DEFAULTS_FOLDER is where the defaults files are (default: the current folder).\n"
        ': "${BLIS_DEFAULTS_FOLDER:=.}"\n'
        f'BLIS_DEPLOYMENTS="{" ".join(flags_of)}"\n'
        "blis_flags() {\n"
        '  case "$1" in\n'
        f"{cases}"
        '    *) echo "blis_flags: no deployment $1, expected one of: $BLIS_DEPLOYMENTS" >&2; return 2 ;;\n'
        "  esac\n"
        "}\n"
    )


def _others(index: Path, text: str | None) -> dict[str, str]:
    """Return the deployments that an index of ours has and whose files are still beside it: name -> flags."""
    if text is None:
        return {}
    if not text.startswith(FIRST_LINE):
        raise InputError(f"{index}: was not written by roofml, expected no other file of that name")
    matches = map(_CASE.fullmatch, text.splitlines())
    found = {match["name"]: match["flags"] for match in matches if match is not None}
    return {name: flags for name, flags in found.items() if is_file(index.parent / _file_name(name))}


def _file_name(slug: str) -> str:
    return f"{slug}.defaults.yaml"


def _check_folder(folder: Path) -> None:
    if not is_folder(folder):
        raise InputError(f"{folder}: no such folder")


def _hardware(exports: Sequence[BlisExport], path: Path) -> list[Edit]:
    """Return one edit of a `hardware_config.json` that adds the GPUs of all deployments."""
    edit: Edit | None = None
    for name in dict.fromkeys(export.model.gpu for export in exports):
        edit = edit_hardware(path, name, hardware_of(load_gpu(name)), edit)
    return [] if edit is None else [edit]
