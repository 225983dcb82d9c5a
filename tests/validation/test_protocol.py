"""Protocol: which way of judging a command line asks for, and what it may not ask for together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fitted import a_calibration, a_run, measured_again
from served import served

from roofml.util.errors import InputError
from roofml.validation.protocol import planned

PLANS: list[tuple[Mapping[str, Any], tuple[str, float, bool]]] = [
    ({}, ("zero-shot", 0.0, True)),
    ({"given": True}, ("coeffs", 0.0, True)),
    ({"given": True, "train_fraction": 0.5}, ("coeffs", 0.5, True)),
    ({"train_fraction": 0.5}, ("temporal", 0.5, True)),
    ({"protocol": "temporal"}, ("temporal", 0.6, True)),
    ({"protocol": "zero-shot", "train_fraction": 0.5}, ("zero-shot", 0.5, True)),
    ({"protocol": "lomo"}, ("lomo", 0.0, False)),
    ({"protocol": "lowo"}, ("lowo", 0.0, False)),
    ({"protocol": "load"}, ("load", 0.0, False)),
    ({"as_blis": True}, ("temporal", 0.6, False)),
    ({"as_blis": True, "given": True}, ("coeffs", 0.0, False)),
]


def asked(
    protocol: str | None = None, train_fraction: float | None = None, given: bool = False, as_blis: bool = False
) -> Any:
    return planned(protocol, train_fraction, given=given, as_blis=as_blis)


@pytest.mark.parametrize(("options", "expected"), PLANS)
def test_what_is_not_said_follows_from_what_is(options: Mapping[str, Any], expected: tuple[str, float, bool]) -> None:
    """Protocol, share that is fitted or skipped, and whether cycle times can be judged as well."""
    plan = asked(**options)
    assert (plan.protocol, plan.fraction, plan.judges_cycles) == expected
    assert plan.as_blis == options.get("as_blis", False)


BETWEEN = "expected at least 0 (more for temporal) and less than 1"
REFUSED: list[tuple[Mapping[str, Any], str]] = [
    (
        {"protocol": "temporal", "given": True},
        "--coeffs and --protocol: expected one of them; a protocol fits its own coefficients",
    ),
    ({"protocol": "loo"}, "--protocol 'loo': expected temporal, lomo, lowo, load or zero-shot"),
    ({"protocol": "coeffs"}, "--protocol 'coeffs': expected temporal, lomo, lowo, load or zero-shot"),
    ({"protocol": "lowo", "as_blis": True}, "--target blis: expected --protocol temporal, not lowo"),
    ({"protocol": "zero-shot", "as_blis": True}, "--target blis: expected --protocol temporal, not zero-shot"),
    (
        {"protocol": "lomo", "train_fraction": 0.5},
        "--train-fraction: protocol lomo leaves out whole runs: leave it away",
    ),
    (
        {"protocol": "lowo", "train_fraction": 0.0},
        "--train-fraction: protocol lowo leaves out whole runs: leave it away",
    ),
    (
        {"protocol": "load", "train_fraction": 0.5},
        "--train-fraction: protocol load splits runs by their rate: leave it away",
    ),
    ({"protocol": "temporal", "train_fraction": 0.0}, f"--train-fraction 0: {BETWEEN}"),
    ({"train_fraction": 1.0}, f"--train-fraction 1: {BETWEEN}"),
    ({"given": True, "train_fraction": -0.1}, f"--train-fraction -0.1: {BETWEEN}"),
    ({"protocol": "zero-shot", "train_fraction": float("nan")}, f"--train-fraction nan: {BETWEEN}"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_does_not_go_together_is_refused_by_its_options(options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        asked(**options)
    assert str(refused.value) == message


def test_what_is_wrong_with_the_last_run_is_said_before_the_first_is_fitted() -> None:
    good = served(80)
    failed = measured_again(a_run(), name="failed", ok=a_run().ok & False)
    with pytest.raises(InputError, match="failed: no successful request from 60% to 100%"):
        asked("temporal").check([good, failed], None)
    with pytest.raises(InputError, match="protocol lomo: expected runs of at least two models"):
        asked("lomo").check([good, a_run()], None)
    with pytest.raises(InputError, match="protocol lowo: expected at least two runs of one model"):
        asked("lowo").check([good], None)
    with pytest.raises(InputError, match="protocol load: expected a run of stages with different rates"):
        asked("load").check([good], None)
    asked("temporal").check([good, a_run()], None)
    assert (asked("temporal").folds([good, a_run()]), asked().folds([good, a_run()])) == (1, 2)


def test_coefficients_are_checked_against_the_runs_first(tmp_path: Path) -> None:
    path, run = tmp_path / "c.yaml", a_run()
    a_calibration([run]).save(path)
    with pytest.raises(InputError, match="blis: missing; fit with --target blis"):
        asked(given=True, as_blis=True).check([run], path)
    with pytest.raises(InputError, match=f"elsewhere: GPU A100-SXM is not that of {path}: H100"):
        asked(given=True).check([run, served(80, "elsewhere", gpu="A100-SXM")], path)


def test_a_plan_says_how_it_judged_and_announces_what_it_leaves_out() -> None:
    seen: list[str] = []
    run = served(80)
    found = asked().evaluate([run], None, [], seen.append)
    assert (found.protocol, found.train_fraction, seen) == ("zero-shot", 0.0, ["served"])
    assert found.caption == (
        "without a trace of the model: physics and what other models taught, judged on all requests; "
        "errors in %, + is too slow"
    )
    assert found.converged
