"""alpha, beta and gamma of llm-d's model-tuner: its form, its files, and how sure the three are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from roofml.export.closed_loop import ClosedLoop
from roofml.export.model_tuner import chunks, export_model_tuner, fit_state, form
from roofml.export.subject import Subject, read_subject
from roofml.traces.server import ServerOverrides


class FilterData(BaseModel):
    """pkg/config/types.go of llm-inferno/model-tuner (2026)."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel)
    gamma_factor: float = Field(gt=0)
    error_level: float = Field(gt=0)
    t_percentile: float = Field(gt=0)


class ModelData(BaseModel):
    """The same; `checkConfigData` of pkg/core/configurator.go wants equal lengths."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel)
    init_state: list[float] = Field(min_length=3, max_length=3)
    percent_change: list[float] = Field(min_length=3, max_length=3)
    bounded_state: bool
    min_state: list[float] = Field(min_length=3, max_length=3)
    max_state: list[float] = Field(min_length=3, max_length=3)
    expected_observations: list[float] = Field(min_length=2, max_length=2)


@pytest.fixture
def subject(coefficients: Callable[..., Path]) -> Subject:
    said = ServerOverrides(max_num_seqs=16, max_num_batched_tokens=2048)
    return read_subject([coefficients()], said, (300, 60))


@pytest.fixture
def files(subject: Subject) -> dict[str, Any]:
    exported = export_model_tuner(subject, Path("tuner"))
    return {path.name: json.loads(content) for path, content in exported.files.items()}


def loops_of(values: tuple[float, float, float], budget: int, prompt: float, output: float) -> list[ClosedLoop]:
    """Loops that take just what the form says, in µs."""
    batches = [1, 2, 4, 8, 16]
    first, later = form(batches, budget, prompt, output)
    one = np.ones(3)
    return [
        ClosedLoop(batch, np.full(3, round(prompt)), one * 1e3 * (row @ values), one * 1e3 * (other @ values), 0.0)
        for batch, row, other in zip(batches, first, later, strict=True)
    ]


@given(st.floats(1, 50), st.floats(0.001, 1), st.floats(1e-6, 1e-3), st.sampled_from([256, 2048, 8192]))
def test_parameters_of_the_form_are_found_again(alpha: float, beta: float, gamma: float, budget: int) -> None:
    values, errors = fit_state(loops_of((alpha, beta, gamma), budget, 700.0, 200.0), budget, 700.0, 200.0, gamma)
    assert values == pytest.approx([alpha, beta, gamma], rel=1e-6)
    assert np.abs(errors).max() < 1e-6


@given(st.integers(1, 200), st.integers(256, 16384), st.floats(1, 8000), st.floats(1, 4000))
def test_chunks_solve_the_budget_s_equation(batch: int, budget: int, prompt: float, output: float) -> None:
    """M·c² + (m·(M - N) - n·(N + 1))·c - n·m is negative before the last chunk and not after it."""

    def excess(count: float) -> float:
        return budget * count**2 + (output * (budget - batch) - prompt * (batch + 1)) * count - prompt * output

    count = chunks(batch, budget, prompt, output)
    scale = budget * count**2 + prompt * output
    assert excess(count) >= -1e-9 * scale
    assert count == 1 or excess(count - 1) < 1e-9 * scale


def test_one_request_takes_what_the_estimator_of_the_tuner_says() -> None:
    """Equations 12 and 13 of pkg/estimator/guess.go, for a prompt in one step; TTFT has the first token's step too."""
    first, later = form([1], 8192, 100.0, 50.0)
    alpha, beta, gamma = 5.0, 0.02, 1e-4
    itl = alpha + beta + gamma * (100 + 51 / 2)
    assert later[0] @ (alpha, beta, gamma) == pytest.approx(itl)
    assert first[0] @ (alpha, beta, gamma) == pytest.approx(alpha + (beta + gamma) * 100 + itl)


def test_the_filter_takes_its_file(files: dict[str, Any]) -> None:
    document = files["default-config-data.json"]
    FilterData.model_validate(document["filterData"])
    model = ModelData.model_validate(document["modelData"])
    for least, value, most in zip(model.min_state, model.init_state, model.max_state, strict=True):
        assert 0 < least <= value <= most
    assert all(0.01 <= change <= 1 for change in model.percent_change)


def test_the_covariance_is_one_and_its_diagonal_is_what_the_filter_begins_with(files: dict[str, Any]) -> None:
    document = files["default-config-data.json"]
    covariance = np.array(document["roofml"]["covariance"])
    assert covariance == pytest.approx(covariance.T, rel=1e-5)
    sd = np.sqrt(np.diag(covariance))
    assert np.linalg.eigvalsh(covariance / np.outer(sd, sd)).min() > -1e-6
    change, value = (np.array(document["modelData"][key]) for key in ("percentChange", "initState"))
    inside = (change > 0.01) & (change < 1)
    assert inside.any()
    assert (change * value)[inside] == pytest.approx(sd[inside], rel=1e-4)


def test_the_optimizer_gets_the_same_parameters(files: dict[str, Any], subject: Subject) -> None:
    (entry,) = files["model-data.json"]["models"]
    assert set(entry) == {"name", "acc", "accCount", "maxBatchSize", "atTokens", "perfParms"}
    assert list(entry["perfParms"].values()) == files["default-config-data.json"]["modelData"]["initState"]
    assert (entry["name"], entry["acc"], entry["accCount"]) == ("meta-llama/Llama-2-7b-hf", "H100", 1)
    assert entry["maxBatchSize"] == 16
    assert all(isinstance(entry[name], int) for name in ("accCount", "maxBatchSize", "atTokens"))


def test_the_same_subject_gives_the_same_bytes(subject: Subject) -> None:
    assert export_model_tuner(subject, Path("t")).files == export_model_tuner(subject, Path("t")).files
