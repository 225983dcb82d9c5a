"""A coefficients file to export, without the seconds that a fit takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from blis_defaults import SET
from fitted import a_calibration

from roofml.calibration.coefficients import BlisSection

SECTION = BlisSection(
    alpha_coeffs=list(SET.alphas),
    beta_coeffs=list(SET.betas),
    total_kv_blocks=7462,
    block_size=16,
    max_num_seqs=128,
    max_num_batched_tokens=None,
    max_model_len=None,
)

Coefficients = Callable[..., Path]
"""Writes a coefficients file of this name, in which texts are replaced by others."""


@pytest.fixture(scope="session")
def coefficients_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("coefficients") / "coeffs.yaml"
    replace(a_calibration(), blis=SECTION).save(path)
    return path.read_text()


@pytest.fixture
def coefficients(coefficients_text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Coefficients:
    monkeypatch.chdir(tmp_path)

    def write(file: str = "coeffs.yaml", /, **changes: str) -> Path:
        """`changes`: a field's name -> the rest of its line."""
        lines = coefficients_text.splitlines()
        for field, value in changes.items():
            places = [number for number, line in enumerate(lines) if line.strip().startswith(f"{field}:")]
            assert places, field
            head = lines[places[0]].split(":")[0]
            lines[places[0]] = f"{head}: {value}"
        (tmp_path / file).write_text("\n".join(lines) + "\n")
        return Path(file)

    return write
