"""The artifact: one calibration as the Go package reads it.

Schema `roofml-go/1`, JSON. Everything a step's time needs: parameters, and the tables of the deployment's physics as
far as the formula reads them. It says of which coefficients file it was made (by digest), for which model, GPU and
tensor parallel size, and for which formula: one for another is an error where it is read, never a fallback.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from roofml.calibration.calibrate import load
from roofml.calibration.calibration import Calibration
from roofml.export.formula.tree import Program
from roofml.export.go.knots import knots
from roofml.latency.components import ComponentTables
from roofml.latency.parameters import RequestParameters, StepParameters
from roofml.util.digest import digest
from roofml.util.errors import InputError, NotSupportedError
from roofml.util.names import shown
from roofml.util.outside_text import for_file_name
from roofml.util.reading import read_bytes
from roofml.util.version import __version__

SCHEMA = "roofml-go/1"
REACH = 65_536
"""New tokens of a step that tables reach to; past that the Go package goes on with their last slope."""

RANGES = ("batch", "context", "new_tokens")
"""What the artifact says of the steps that a fit has seen."""


@dataclass(frozen=True)
class Artifact:
    """One calibration for the Go package."""

    calibration: Calibration
    """With tables that reach to `REACH`."""
    coefficients_sha256: str
    server: str | None = None
    """The run of the fit whose server it is of; None: of any."""

    @property
    def name(self) -> str:
        """Model, GPU and tensor parallel size: what its file is called, and Go asks for."""
        deployment = self.calibration.deployment
        model, gpu = for_file_name(deployment.model.name.rsplit("/", 1)[-1]), for_file_name(deployment.gpu.name)
        return f"{model}-{gpu}-tp{deployment.tp}"

    def document(self, program: Program, formula_sha256: str) -> dict[str, Any]:
        """What its file holds.

        Raises NotSupportedError for a calibration of something else than our formula with its learned blend.
        """
        calibration, deployment = self.calibration, self.calibration.deployment
        if deployment.tables.norm is not None:
            raise NotSupportedError(f"{self.name}: its overlap is a norm, expected the learned blend")
        parameters = calibration.parameters
        return {
            "schema": SCHEMA,
            "formula_sha256": formula_sha256,
            "name": self.name,
            "model": deployment.model.name,
            "hf_repo": deployment.hf_repo,
            "gpu": deployment.gpu.name,
            "tensor_parallel": deployment.tp,
            "engine": f"{deployment.engine.name} {deployment.engine.version or '(version not said)'}",
            "server": self.server,
            "coefficients_sha256": self.coefficients_sha256,
            "config_sha256": deployment.model.config_sha256,
            "roofml": __version__,
            "doubts": list(calibration.doubts),
            "valid": {name: list(calibration.posterior.valid[name]) for name in RANGES},
            "step": _numbers(parameters.step, program.structs[StepParameters]),
            "request": _numbers(parameters.request, program.structs[RequestParameters]),
            "tables": _tables(deployment.tables, program.structs[ComponentTables]),
        }

    def text(self, program: Program, formula_sha256: str) -> str:
        """The same as JSON, a table a line."""
        document = self.document(program, formula_sha256)
        tables = document.pop("tables")
        rows = ",\n".join(f"    {json.dumps(name)}: {json.dumps(value)}" for name, value in tables.items())
        head = json.dumps(document, indent=2, allow_nan=False).removesuffix("\n}")
        return f'{head},\n  "tables": {{\n{rows}\n  }}\n}}\n'


def check_apart_deployments(artifacts: Sequence[Artifact]) -> None:
    """Raise InputError where two calibrations are of one deployment."""
    names = [artifact.name for artifact in artifacts]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name}: given twice, expected one file of coefficients for each deployment")


def read_artifact(path: Path, server: str | None = None) -> Artifact:
    """The calibration in a coefficients file, with tables that reach far enough.

    `server` is the name of a run of the fit whose server it is to be of: its steps take as long as that one's. Raises
    InputError as `load` does, and for a run whose server the file does not know.
    """
    calibration = load(path)
    calibration = replace(calibration, deployment=calibration.deployment.reaching(REACH))
    if server is not None:
        paces = {run.name: run.pace for run in calibration.runs if run.pace is not None}
        if server not in paces:
            raise InputError(f"{path}: knows no pace of {shown(server)}, expected one of {', '.join(paces) or 'none'}")
        parameters = calibration.parameters.paced(paces[server])
        values = np.array([*parameters.step, *parameters.request])
        calibration = replace(calibration, posterior=replace(calibration.posterior, values=values))
    return Artifact(calibration, sha256(read_bytes(path)).hexdigest(), server)


def formula_digest(source: str) -> str:
    """What tells one formula, and the structs that an artifact fills, from another."""
    return digest(SCHEMA, source)


def _numbers(values: Any, fields: Any) -> dict[str, float]:
    return {name: float(getattr(values, name)) for name in fields}


def _tables(tables: ComponentTables, fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, kind in fields.items():
        value = getattr(tables, name)
        if value is None:
            found[name] = None
        elif kind == "table":
            places, values = knots(np.asarray(value))
            found[name] = {"places": places, "values": values}
        else:
            found[name] = value.tolist() if isinstance(value, np.ndarray) else float(value)
    return found
