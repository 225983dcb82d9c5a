"""A calibrated deployment for BLIS: its coefficients and the flags that belong to them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from roofml.blis.deployment import BlisCoefficients
from roofml.calibration.coefficients import read_coefficients
from roofml.export.defaults import ModelEntry, edit_defaults, number
from roofml.export.edit import Edit
from roofml.export.hub_name import checked_repository, hub_repository
from roofml.export.provenance import run_with
from roofml.util.errors import InputError
from roofml.util.outside_text import for_file_name, for_line, for_shell


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
    warnings: tuple[str, ...] = ()
    """What whoever uses the coefficients has to know: the fit does not describe its runs."""
    config: str = ""
    """Under which name or path the model's config was found; empty: under the model's."""
    config_sha256: str = ""
    """Digest of the config that they were fitted over; empty where nobody knows it."""

    def __post_init__(self) -> None:
        """Raise InputError for counts that BLIS would refuse."""
        for field in ("total_kv_blocks", "block_size", "max_num_seqs", "max_num_batched_tokens", "max_model_len"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise InputError(f"{self.model.name}: {field} {value}: expected at least 1")

    def of_repository(self, given: str) -> BlisExport:
        """Return the same with the model's repository as the user says it."""
        return replace(self, model=replace(self.model, hf_repo=checked_repository(given)))

    @property
    def slug(self) -> str:
        """The deployment's name in file names: model, GPU and tensor parallel size."""
        model, gpu = for_file_name(self.model.name.rsplit("/", 1)[-1]), for_file_name(self.model.gpu)
        return f"{model}-{gpu}-tp{self.model.tensor_parallel}"

    def server_flags(self) -> list[str]:
        """Return the flags, without coefficients, that make BLIS run the measured deployment."""
        limits = (self.max_num_seqs, self.max_num_batched_tokens, self.max_model_len)
        return server_flags(self.model, self.total_kv_blocks, self.block_size, *limits)

    def coefficient_flags(self) -> list[str]:
        """Return the coefficients as flags. Both flags together override the defaults file."""
        alphas, betas = self.coefficients.alphas, self.coefficients.betas
        return ["--alpha-coeffs", ",".join(map(number, alphas)), "--beta-coeffs", ",".join(map(number, betas))]

    def command_line(self) -> str:
        """Return all flags on one line, quoted for a shell."""
        return for_line(for_shell([*self.server_flags(), *self.coefficient_flags()]))

    def comments(self) -> tuple[str, ...]:
        """Return the comments of the defaults file: provenance, and the flags that the file cannot set."""
        return (*self.provenance, *(f"warning: {text}" for text in self.warnings), run_with(self.server_flags()))

    def edit(self, path: Path, *, replace: bool = False) -> Edit:
        """Return the change that puts this deployment into a `defaults.yaml`.

        Unless `replace`, a file that holds our coefficients of another deployment is refused with InputError.
        """
        return edit_defaults(path, self.coefficients, self.model, self.comments(), replace=replace)


def server_flags(
    model: ModelEntry,
    total_kv_blocks: int,
    block_size: int,
    max_num_seqs: int | None,
    max_num_batched_tokens: int | None,
    max_model_len: int | None,
) -> list[str]:
    """BLIS's flags of a deployment. A limit of None is not given: BLIS takes its own."""
    flags = ["--model", model.key, "--hardware", model.gpu, "--tp", str(model.tensor_parallel)]
    flags += ["--latency-model", "trained-physics", "--total-kv-blocks", str(total_kv_blocks)]
    flags += ["--block-size-in-tokens", str(block_size)]
    limits = {
        "--max-num-seqs": max_num_seqs,
        "--max-num-batched-tokens": max_num_batched_tokens,
        "--max-model-len": max_model_len,
    }
    for flag, value in limits.items():
        flags += [flag, str(value)] if value is not None else []
    return flags


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
        model=ModelEntry(read.model.name, read.gpu, read.tensor_parallel, hub_repository(read.model.hf_repo)),
        coefficients=BlisCoefficients.of(blis.alpha_coeffs, blis.beta_coeffs, source=f"{path}: blis"),
        total_kv_blocks=blis.total_kv_blocks,
        block_size=blis.block_size,
        max_num_seqs=blis.max_num_seqs,
        max_num_batched_tokens=blis.max_num_batched_tokens,
        max_model_len=blis.max_model_len,
        provenance=tuple(provenance),
        warnings=tuple(f"{path.name}: the fit does not describe its runs: {text}" for text in read.fit.misfit or ()),
        config=read.model.hf_repo,
        config_sha256=read.model.config_sha256,
    )
