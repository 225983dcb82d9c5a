"""A calibrated deployment for BLIS: coefficients, the flags that belong to them, and an index of deployments."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from roofml.blis.deployment import BlisCoefficients, hardware_of
from roofml.calibration.coefficients import read_coefficients
from roofml.export.defaults import Edit, ModelEntry, edit_defaults, number
from roofml.export.hardware import edit_hardware
from roofml.hardware.gpu import load_gpu
from roofml.util.errors import InputError


@dataclass(frozen=True)
class BlisExport:
    """What a BLIS user needs of one fit. It always holds the KV blocks, because BLIS counts them wrongly."""

    model: ModelEntry
    coefficients: BlisCoefficients
    total_kv_blocks: int
    block_size: int = 16
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_model_len: int | None = None
    provenance: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise InputError for counts that BLIS would refuse."""
        for field in ("total_kv_blocks", "block_size", "max_num_seqs", "max_num_batched_tokens", "max_model_len"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise InputError(f"{self.model.name}: {field} {value}: expected at least 1")

    @property
    def slug(self) -> str:
        """The deployment's name in file names: model, GPU and tensor parallel size."""
        name = re.sub(r"[^a-z0-9._-]+", "-", self.model.name.lower().rsplit("/", 1)[-1])
        return f"{name}-{self.model.gpu.lower()}-tp{self.model.tensor_parallel}"

    def server_flags(self) -> list[str]:
        """Return the flags, without coefficients, that make BLIS run the measured deployment."""
        model = self.model
        flags = ["--model", model.name.lower(), "--hardware", model.gpu, "--tp", str(model.tensor_parallel)]
        flags += ["--latency-model", "trained-physics", "--total-kv-blocks", str(self.total_kv_blocks)]
        flags += ["--block-size-in-tokens", str(self.block_size)]
        limits = {
            "--max-num-seqs": self.max_num_seqs,
            "--max-num-batched-tokens": self.max_num_batched_tokens,
            "--max-model-len": self.max_model_len,
        }
        for flag, value in limits.items():
            flags += [flag, str(value)] if value is not None else []
        return flags

    def coefficient_flags(self) -> list[str]:
        """Return the coefficients as flags. Both flags together override the defaults file."""
        alphas, betas = self.coefficients.alphas, self.coefficients.betas
        return ["--alpha-coeffs", ",".join(map(number, alphas)), "--beta-coeffs", ",".join(map(number, betas))]

    def command_line(self) -> str:
        """Return all flags, quoted for a shell."""
        return shlex.join([*self.server_flags(), *self.coefficient_flags()])

    def comments(self) -> tuple[str, ...]:
        """Return the comments of the defaults file: provenance, and the flags that the file cannot set."""
        return (*self.provenance, f"run BLIS with: {shlex.join(self.server_flags())}")

    def edit(self, path: Path) -> Edit:
        """Return the change that puts this deployment into a `defaults.yaml`."""
        return edit_defaults(path, self.coefficients, self.model, self.comments())


def edits_for_several(exports: Sequence[BlisExport], folder: Path, defaults: Path | None = None) -> list[Edit]:
    """Return the changes that make one defaults file for each deployment, and `blis-flags.sh` for all of them.

    BLIS reads one set of coefficients a file. A new file begins as a copy of `defaults` if that is given. Raises
    InputError if two deployments would have the same file name.
    """
    names = [export.slug for export in exports]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name}: given twice; one set of coefficients for a model, GPU and tensor parallel size")
    edits: list[Edit] = []
    for export in exports:
        path = folder / f"{export.slug}.defaults.yaml"
        edit = export.edit(path if path.exists() or defaults is None else defaults)
        edits.append(Edit(path, edit.before if path.exists() else None, edit.after))
    index = folder / "blis-flags.sh"
    before = index.read_text("utf-8") if index.is_file() else None
    return [*edits, Edit(index, before, index_of(exports))]


def index_of(exports: Sequence[BlisExport]) -> str:
    """Return a shell file that defines `blis_flags NAME`, for `blis run $(blis_flags llama-2-7b-hf-h100-tp1) ...`."""
    cases = "".join(
        f'    {export.slug}) echo "{shlex.join(export.server_flags())} '
        f'--defaults-filepath $BLIS_DEFAULTS_FOLDER/{export.slug}.defaults.yaml" ;;\n'
        for export in exports
    )
    return (
        "# Flags of each calibrated deployment. Source this file, then: blis run $(blis_flags NAME) ...\n"
        "# BLIS_DEFAULTS_FOLDER is where the defaults files are (default: the current folder).\n"
        ': "${BLIS_DEFAULTS_FOLDER:=.}"\n'
        f'BLIS_DEPLOYMENTS="{" ".join(export.slug for export in exports)}"\n'
        "blis_flags() {\n"
        '  case "$1" in\n'
        f"{cases}"
        '    *) echo "blis_flags: no deployment $1, expected one of: $BLIS_DEPLOYMENTS" >&2; return 2 ;;\n'
        "  esac\n"
        "}\n"
    )


def read_export(path: Path) -> BlisExport:
    """Return the deployment in the `blis` section of a coefficients file.

    Raises InputError, naming file and field, if a value is missing or BLIS would refuse it.
    """
    read = read_coefficients(path)
    if read.blis is None:
        raise InputError(f"{path}: blis: missing; fit with --target blis")
    provenance = [f"fitted by roofml {read.fit.roofml} from {path.name}"]
    if read.fit.runs:
        provenance.append(f"on {read.fit.requests} requests of {', '.join(read.fit.runs)}")
    blis = read.blis
    return BlisExport(
        model=ModelEntry(read.model.name, read.gpu, read.tensor_parallel, read.model.hf_repo),
        coefficients=BlisCoefficients.of(blis.alpha_coeffs, blis.beta_coeffs, source=f"{path}: blis"),
        total_kv_blocks=blis.total_kv_blocks,
        block_size=blis.block_size,
        max_num_seqs=blis.max_num_seqs,
        max_num_batched_tokens=blis.max_num_batched_tokens,
        max_model_len=blis.max_model_len,
        provenance=tuple(provenance),
    )


def defaults_edits(exports: Sequence[BlisExport], defaults: Path | None, output: Path) -> list[Edit]:
    """Return the changes that put the deployments into defaults files: the given file, or new ones in a folder.

    Raises InputError for a folder or a file that does not exist.
    """
    if len(exports) > 1:
        if not output.is_dir():
            raise InputError(f"{output}: no such folder")
        if defaults is not None and not defaults.is_file():
            raise InputError(f"{defaults}: no such file")
        return edits_for_several(exports, output, defaults)
    return [exports[0].edit(defaults if defaults is not None else output / f"{exports[0].slug}.defaults.yaml")]


def hardware_edits(exports: Sequence[BlisExport], path: Path) -> list[Edit]:
    """Return one edit of a `hardware_config.json` that adds the GPUs of all deployments."""
    edit: Edit | None = None
    for name in dict.fromkeys(export.model.gpu for export in exports):
        edit = edit_hardware(path, name, hardware_of(load_gpu(name)), edit)
    return [] if edit is None else [edit]
