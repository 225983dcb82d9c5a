"""BLIS's step times, against 902 calls of the real thing and against its formula by hand."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_runs import config_of

from roofml.blis.deployment import SHIPPED_HARDWARE, BlisDeployment, check_deployment, validate_coefficients
from roofml.blis.latency import (
    INT64_MAX,
    BlisSteps,
    basis,
    betas_from_step_times,
    complete,
    roofline_times_us,
    step_times_us,
)
from roofml.blis.model_view import blis_model
from roofml.util.errors import InputError


def golden_rows(shared: Path) -> list[dict[str, Any]]:
    with (shared / "golden" / "blis_step_times.jsonl").open() as file:
        return [json.loads(line) for line in file]


def deployment_of(shared: Path, row: dict[str, Any]) -> BlisDeployment:
    name = row["model"].rpartition("/")[2]
    return BlisDeployment(
        blis_model(config_of(shared, row["model"]), name),
        SHIPPED_HARDWARE[row["hardware"]],
        row["tp"],
        row["dp"],
        row.get("moe_comm_backend") or "allgather_reducescatter",
    )


def steps_of(*batches: list[dict[str, int]]) -> BlisSteps:
    fields = ("input_len", "output_len", "progress_index", "num_new_tokens")
    rows = [[tuple(request[f] for f in fields) for request in batch] for batch in batches]
    return BlisSteps.from_batches(rows)  # pyright: ignore[reportArgumentType]


def predicted(shared: Path, row: dict[str, Any]) -> int:
    deployment, steps = deployment_of(shared, row), steps_of(row["batch"])
    if row["backend"] == "roofline":
        return int(roofline_times_us(deployment, steps)[0])
    return int(step_times_us(deployment, steps, row["beta_coeffs"])[0])


def test_step_times_are_the_integers_blis_printed(shared: Path) -> None:
    rows = golden_rows(shared)
    off = [abs(predicted(shared, row) - row["step_time_us"]) for row in rows]
    assert len(rows) == 902
    # Sums in another order of rounding may fall on the other side of an integer: 1 µs in at most 0.1 % of the rows.
    assert max(off) <= 1
    assert sum(off) <= 0.001 * len(rows)


def test_many_steps_at_once_are_the_same_as_one_by_one(shared: Path) -> None:
    by_model: defaultdict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in golden_rows(shared):
        if row["backend"] == "trained-physics":
            by_model[row["model"], row["hardware"], row["tp"], row["dp"], len(row["beta_coeffs"])].append(row)
    rows = max(by_model.values(), key=len)
    together = step_times_us(
        deployment_of(shared, rows[0]), steps_of(*(row["batch"] for row in rows)), rows[0]["beta_coeffs"]
    )
    alone = [predicted(shared, {**row, "beta_coeffs": rows[0]["beta_coeffs"]}) for row in rows]
    assert together.tolist() == alone


def test_what_surrounds_a_step_is_the_alphas_truncated(shared: Path) -> None:
    for row in golden_rows(shared):
        if row["backend"] == "trained-physics":
            printed = [row[f] for f in ("queueing_time_us", "post_decode_fixed_us", "output_token_processing_us")]
            assert [int(alpha) for alpha in row["alpha_coeffs"][:3]] == printed


SEVEN = [1.0] * 7
THREE = [1.0] * 3
DENSE = {
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 4, "hidden_size": 4096,
    "intermediate_size": 11008, "torch_dtype": "float16",
}  # fmt: skip
ONE_SHORT_PREFILL = [(10, 2, 0, 10)]

# BLIS's answers are recorded by name alone: these are sets and deployments made after the name and the error text.
CASES: dict[str, dict[str, Any]] = {
    "ok_7betas": {},
    "6betas": {"betas": [1.0] * 6},
    "2alphas": {"alphas": [1.0] * 2},
    "4alphas_5th_ignored": {"alphas": [1.0] * 4},
    "12betas_extra_ignored": {"betas": [1.0] * 12},
    "12betas_extra_negative": {"betas": [1.0] * 11 + [-5.0]},
    "neg_beta": {"betas": [1.0, 1.0, -0.1, 1.0, 1.0, 1.0, 1.0]},
    "neg_zero_beta": {"betas": [1.0, 1.0, -0.0, 1.0, 1.0, 1.0, 1.0]},
    "nan_beta": {"betas": [1.0, 1.0, float("nan"), 1.0, 1.0, 1.0, 1.0]},
    "inf_beta": {"betas": [1.0, 1.0, float("inf"), 1.0, 1.0, 1.0, 1.0]},
    "neg_alpha": {"alphas": [-1.0, 1.0, 1.0]},
    "heads_not_div_tp": {"tp": 3},
    "kvheads_not_div_tp": {"config": {"num_attention_heads": 28, "num_key_value_heads": 4}, "tp": 7},
    "kvheads_not_div_tp_roofline_ok": {
        "config": {"num_attention_heads": 28, "num_key_value_heads": 4}, "tp": 7, "backend": "roofline",
    },
    "tp0": {"tp": 0},
    "dense_dp2": {"dp": 2},
    "unknown_comm": {"moe_comm_backend": "foo"},
    "unknown_backend": {"backend": "blackbox"},
    "roofline_0betas": {"backend": "roofline", "betas": []},
    "roofline_neg_beta_not_checked": {"backend": "roofline", "betas": [-1.0] * 7},
    "bytesperparam0": {"config": {"torch_dtype": "mystery"}},
}  # fmt: skip


def answer(
    config: dict[str, Any] | None = None,
    alphas: list[float] = THREE,
    betas: list[float] = SEVEN,
    backend: str = "trained-physics",
    tp: int = 1,
    **deployment: Any,
) -> str:
    model = blis_model({**DENSE, **(config or {})}, "dense")
    try:
        check_deployment(BlisDeployment(model, SHIPPED_HARDWARE["H100"], tp, **deployment), backend)
        validate_coefficients(alphas, betas, backend)
    except InputError as error:
        return str(error)
    return ""


def test_the_same_sets_are_accepted_and_refused_as_by_blis(shared: Path) -> None:
    recorded = json.loads((shared / "golden" / "blis_coefficient_validation.json").read_text())
    assert {case["name"] for case in recorded} == set(CASES)
    for case in recorded:
        assert (answer(**CASES[case["name"]]) == "") == (case["error"] == ""), case["name"]


def test_a_refusal_names_the_field_and_what_was_found() -> None:
    assert answer(betas=[1.0] * 6) == "coefficients: beta_coeffs: expected at least 7 numbers, found 6"
    assert answer(alphas=[1.0, float("nan"), 1.0]) == (
        "coefficients: alpha_coeffs[1]: expected a finite number >= 0, found nan"
    )
    assert answer(config={"num_key_value_heads": 3}, tp=2) == (
        "dense: num_key_value_heads 3 does not divide by tensor parallel size 2, as BLIS requires"
    )


def test_fewer_betas_take_the_larger_of_compute_and_memory() -> None:
    deployment = BlisDeployment(blis_model(DENSE, "dense"), SHIPPED_HARDWARE["H100"], 1)
    steps = BlisSteps.from_batches([ONE_SHORT_PREFILL, [(10, 5, 4000, 1)] * 64])
    full, nine, seven = (basis(deployment, steps, count) for count in (11, 9, 7))
    assert np.array_equal(seven[:, 0], np.maximum(full[:, 0], full[:, 8]))
    assert np.array_equal(nine[:, 0], full[:, 0])
    assert np.array_equal(nine[:, 1], np.maximum(full[:, 1], full[:, 9]))
    assert not seven[:, 8:10].any()


def test_the_eleventh_beta_is_the_fourth_where_it_is_not_given() -> None:
    assert complete([1, 2, 3, 4, 5, 6, 7])[10] == 4
    assert complete(list(range(1, 12)))[10] == 11


def test_step_times_keep_within_one_microsecond_and_the_largest_integer() -> None:
    deployment = BlisDeployment(blis_model(DENSE, "dense"), SHIPPED_HARDWARE["H100"], 1)
    steps = BlisSteps.from_batches([ONE_SHORT_PREFILL, []])
    assert step_times_us(deployment, steps, [0.0] * 7).tolist() == [1, 1]
    assert step_times_us(deployment, steps, [1e300] * 7).tolist() == [INT64_MAX, 1]


def test_betas_come_back_from_the_step_times_they_make() -> None:
    deployment = BlisDeployment(blis_model(DENSE, "dense"), SHIPPED_HARDWARE["H100"], 1)
    random = np.random.default_rng(1)
    steps = BlisSteps.from_batches(
        [(500, 9, int(context), 1) for context in random.integers(500, 3000, int(size))]
        + [(int(new) * 4, 9, 0, int(new)) for new in random.integers(1, 900, 2)]
        for size in random.integers(1, 128, 60)
    )
    matrix = basis(deployment, steps)
    betas = np.array([0.8, 0.4, 1.2, 0, 0, 5, 0, 0, 0, 1.5, 0])
    # No noise and six columns that differ: exact but for the solver's 1e-10.
    found = betas_from_step_times(matrix, matrix @ betas)
    np.testing.assert_allclose(matrix @ found, matrix @ betas, rtol=1e-9)
    weak = betas_from_step_times(matrix, matrix @ betas, prior=np.full(11, 2.0), prior_weight=1e-6)
    assert weak[3] == pytest.approx(2.0)  # nothing says what communication costs at TP 1: the prior does


def test_step_times_that_do_not_fit_the_basis_are_refused() -> None:
    with pytest.raises(InputError, match="expected 2 positive numbers"):
        betas_from_step_times(np.ones((2, 11)), np.array([1.0]))
    with pytest.raises(InputError, match="expected 1 positive numbers"):
        betas_from_step_times(np.ones((1, 11)), np.array([0.0]))
