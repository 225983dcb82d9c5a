"""A catalogue of the fits that the package ships, without a fit being made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from roofml.calibration.coefficients import read_coefficients
from roofml.catalog.index import Row, index_bytes
from roofml.util.digest import digest
from roofml.util.package_data import data_folder

NAMES = (
    "codellama-34b-instruct-hf-h100-tp2",
    "llama-2-70b-hf-h100-tp4",
    "llama-2-7b-hf-h100-tp1",
    "mixtral-8x7b-v0.1-h100-tp2",
)


def row(**changes: Any) -> Row:
    """A row of an index."""
    values: dict[str, Any] = {
        "name": "m-h100-tp1",
        "key": "0" * 64,
        "model": "m",
        "hf_repo": "org/m",
        "config_sha256": "1" * 64,
        "gpu": "H100",
        "tp": 1,
        "engine": "vllm",
        "engine_version": None,
        "kv_dtype": "bfloat16",
        "settings": "",
        "runs": 2,
        "saturated_runs": 0,
        "requests": 1000,
        "held_out_e2e_pct": 0.5,
        "held_out_ttft_pct": 2.5,
        "held_out_tpot_pct": 0.4,
        "worst_e2e_pct": 0.7,
        "untraced_e2e_pct": 2.0,
        "in_sample_e2e_pct": 0.2,
        "in_sample_ttft_pct": 1.0,
        "in_sample_tpot_pct": 0.2,
        "not_judged": None,
        "converged": True,
        "misfit": [],
        "not_identified": ["kv_cache"],
        "prior": "package",
        "batch": [1, 40],
        "context": [100, 900],
        "new_tokens": [1, 2048],
        "gaps": [],
        "recorded": "2026-02-17",
        "releases_since": 3,
        "drift_pct": None,
        "reference_us": [1.0, None],
        "before_us": None,
        "coefficients_sha256": "2" * 64,
    }
    return Row(**{**values, **changes})


def write_shipped(folder: Path, **changes: Any) -> Path:
    """A catalogue of the shipped fits; `changes` are of the Llama-2-7B's row."""
    (folder / "coeffs").mkdir(parents=True)
    rows: list[Row] = []
    for name in NAMES:
        source = data_folder("coeffs") / f"{name}.yaml"
        text, read = source.read_text("utf-8"), read_coefficients(source)
        (folder / "coeffs" / f"{name}.yaml").write_text(text, "utf-8")
        said = {
            "name": name,
            "key": digest(name),
            "model": read.model.name,
            "hf_repo": read.model.hf_repo,
            "config_sha256": read.model.config_sha256,
            "gpu": read.gpu,
            "tp": read.tensor_parallel,
            "engine_version": read.engine.version,
            "kv_dtype": read.engine.kv_dtype,
            "requests": read.fit.requests,
            "coefficients_sha256": digest(text),
        }
        rows.append(row(**{**said, **(changes if "llama-2-7b" in name else {})}))
    (folder / "global-h100.yaml").write_bytes((data_folder("coeffs") / "global.yaml").read_bytes())
    (folder / "index.parquet").write_bytes(index_bytes(rows))
    return folder
