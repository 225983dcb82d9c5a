"""Everything that BLIS needs of one deployment in one folder, which works wherever it is copied to.

    defaults.yaml                    the coefficients, and the model's entry
    hardware_config.json             the GPU
    model_configs/<name>/config.json the model, where BLIS looks for it: beside the defaults file
    run.sh                           blis with the flags that go with them

Source of the places: resolveModelConfig and resolveHardwareConfig of cmd/hfconfig.go.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from dataclasses import replace as changed
from pathlib import Path

from roofml.blis.deployment import SHIPPED_HARDWARE, hardware_of
from roofml.export.defaults import number
from roofml.export.deployment import BlisExport
from roofml.export.edit import Edit, existing_text
from roofml.export.hardware import FIELDS, edit_hardware
from roofml.export.hub_name import config_name
from roofml.hardware.gpu import load_gpu
from roofml.models.load import load_model
from roofml.models.spec import config_path, read_model
from roofml.util.errors import InputError
from roofml.util.outside_text import for_file_name, for_line, for_shell
from roofml.util.reading import is_file, is_folder, is_there, read_text

DEFAULTS, HARDWARE, MODELS, SCRIPT = "defaults.yaml", "hardware_config.json", "model_configs", "run.sh"
HORIZON_US = 10**15
"""Long after any run's end: BLIS's own default of twice the last arrival cuts requests off under load."""
SCRIPT_MARK = "# Written by roofml: "
"""The second line of a run.sh of ours begins with this, and goes on with the deployment's name."""


def folder_edits(
    export: BlisExport,
    folder: Path,
    defaults: Path | None = None,
    *,
    config: Path | None = None,
    replace: bool = False,
) -> list[Edit]:
    """The changes that put all that BLIS needs of a deployment into `folder`, which may not exist yet.

    A defaults.yaml and a hardware_config.json that are there keep everything else; a new defaults.yaml begins as a
    copy of `defaults`. `config` is the model's config.json, by default ours. Raises InputError where the folder is of
    another deployment, unless `replace`, and for a model or GPU of which nothing is known.
    """
    if is_there(folder) and not is_folder(folder):
        raise InputError(f"{folder}: is no folder")
    edits = [
        _defaults(export, folder / DEFAULTS, defaults, replace=replace),
        edit_hardware(folder / HARDWARE, export.model.gpu, hardware_of(load_gpu(export.model.gpu))),
        _config(export, folder, config_of(export, config), replace=replace),
        script_edit(export, folder / SCRIPT, replace=replace),
    ]
    return [changed(edit, makes_folder=True, is_script=edit.path.name == SCRIPT) for edit in edits]


def config_of(export: BlisExport, given: Path | None = None) -> Path:
    """The config.json of the model: the `given` one, or ours.

    Raises InputError for none, and for another than the coefficients were fitted over.
    """
    named = next((name for name in (export.config, export.model.hf_repo, export.model.name) if name), "")
    if given is not None:
        path, digest = given, read_model(str(given)).config_sha256
    else:
        try:
            path, digest = config_path(config_name(named)), load_model(named).config_sha256
        except InputError as error:
            raise InputError(f"{error}; give --config FILE") from None
    if export.config_sha256 and digest != export.config_sha256:
        raise InputError(f"{path}: is another config than the coefficients were fitted over; give --config FILE")
    return path


@dataclass(frozen=True)
class Remark:
    """What the user should know before files are written."""

    text: str
    is_problem: bool
    """Whether BLIS will not run unless the user does something."""


def planned(
    export: BlisExport, folder: Path | None, hardware_config: Path | None, others: Sequence[str] = ()
) -> list[Remark]:
    """What BLIS does not know of itself, and how it will: from `folder`, from the user's `hardware_config`, or not.

    `others` are the other models of the defaults file, for which BLIS will use the coefficients too.
    """
    name, model = export.model.gpu, export.model
    told: list[Remark] = []
    if name not in SHIPPED_HARDWARE:
        rows = "no datasheet of it is known"
        with suppress(InputError):
            hardware = hardware_of(load_gpu(name))
            rows = ", ".join(f"{key} {number(getattr(hardware, field))}" for key, field in FIELDS.items())
        where = hardware_config if folder is None else folder / HARDWARE
        told.append(
            Remark(
                f"BLIS does not know {name} (it knows {', '.join(SHIPPED_HARDWARE)}): "
                + ("give --into FOLDER, or --hardware-config FILE" if where is None else f"{where} tells it ({rows})"),
                where is None,
            )
        )
    if others:
        shown = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        told.append(
            Remark(f"BLIS uses one set of coefficients for every model of a file: from now on also for {shown}", True)
        )
    if not model.hf_repo:
        told.append(
            Remark(
                f"nothing says the Hub repository of {model.name}, and none is written: "
                + ("give --hf-repo ORG/NAME, or --into FOLDER" if folder is None else "BLIS finds the config beside"),
                folder is None,
            )
        )
    return told


def model_folder(export: BlisExport) -> str:
    """The folder below model_configs/ in which BLIS looks: its name of the model after the first slash.

    Raises InputError for a name that is no folder's.
    """
    name = export.model.key.split("/", 1)[-1]
    if for_file_name(name) != name:
        raise InputError(f"model {export.model.name!r}: expected a name that a folder can have, for BLIS looks for one")
    return name


def path_flags(export: BlisExport, folder: Path) -> list[str]:
    """The flags that tell BLIS of the files in `folder`."""
    return [
        *("--defaults-filepath", str(folder / DEFAULTS), "--hardware-config", str(folder / HARDWARE)),
        *("--model-config-folder", str(folder / MODELS / model_folder(export))),
    ]


def _defaults(export: BlisExport, path: Path, base: Path | None, *, replace: bool) -> Edit:
    if base is not None and not is_file(base):
        raise InputError(f"{base}: no such file")
    if base is None or is_there(path):
        return export.edit(path, replace=replace)
    return Edit(path, None, export.edit(base, replace=True).after)


def _config(export: BlisExport, folder: Path, source: Path, *, replace: bool) -> Edit:
    path = folder / MODELS / model_folder(export) / "config.json"
    before, after = existing_text(path), read_text(source)
    if before is not None and before != after and not replace:
        raise InputError(f"{path}: is another config than {source}: say --replace, or give another folder")
    return Edit(path, before, after)


def script_edit(export: BlisExport, path: Path, *, replace: bool = False) -> Edit:
    """The change that makes `path` the script of a deployment, with the files beside it.

    Raises InputError, unless `replace`, for a script of another deployment or one that is not ours.
    """
    before = existing_text(path)
    mark = f"{SCRIPT_MARK}{export.slug}\n"
    second = "".join((before or "").splitlines(keepends=True)[1:2])
    if before is not None and not replace and second != mark:
        if not second.startswith(SCRIPT_MARK):
            raise InputError(f"{path}: was not written by roofml: give another folder, or say --replace")
        raise InputError(
            f"{path}: runs {for_line(second.removeprefix(SCRIPT_MARK))}, and BLIS has one set of coefficients for all "
            f"models, parallel sizes and pools of a file: give {export.slug} a folder of its own, or say --replace"
        )
    return Edit(path, before, _script_text(export, mark))


def _script_text(export: BlisExport, mark: str) -> str:
    files = [
        f'--defaults-filepath "$folder/{DEFAULTS}" --hardware-config "$folder/{HARDWARE}"',
        f'--model-config-folder "$folder"/{MODELS}/{for_shell([model_folder(export)])}',
    ]
    return (
        "#!/bin/sh\n"
        f"{mark}"
        "# BLIS on this deployment, with the files of this folder and whatever you add:\n"
        "#   sh run.sh --workload-spec workload.yaml           blis run\n"
        "#   sh run.sh replay --trace-header ...               blis replay, to its end\n"
        "# ROOFML_BLIS is the binary, by default the blis on PATH.\n"
        "set -eu\n"
        'folder=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)\n'
        "command=run\n"
        'case "${1-}" in\n'
        "  run) shift ;;\n"
        f'  replay) command=replay; shift; set -- --horizon {HORIZON_US} "$@" ;;\n'
        "esac\n"
        'exec "${ROOFML_BLIS:-blis}" "$command" \\\n'
        f"  {for_shell(export.server_flags())} \\\n"
        f"  {files[0]} \\\n"
        f'  {files[1]} "$@"\n'
    )
