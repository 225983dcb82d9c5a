"""Parameters: declared once, in order, with bounds that hold the priors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from synthetic import request_parameters, step_parameters

from roofml.engine.replay import RequestParameters
from roofml.latency.formula import GROWTH_TOKENS, StepParameters
from roofml.latency.parameters import (
    BY_NAME,
    LOGARITHMIC,
    LOWER,
    NAMES,
    PARAMETERS,
    PRIOR_SD,
    PRIOR_VALUES,
    UPPER,
    Parameter,
    from_coordinates,
    split,
    to_coordinates,
)


@pytest.mark.parametrize("parameter", PARAMETERS, ids=NAMES)
def test_a_parameter_is_fully_declared(parameter: Parameter) -> None:
    assert parameter.lower <= parameter.prior <= parameter.upper
    assert parameter.lower >= 0
    assert parameter.sd > 0
    assert parameter.meaning
    assert parameter.unit == ("µs" if parameter.name.endswith("_us") else "")
    assert parameter.logarithmic == (parameter.group == "corrections")
    assert parameter.lower > 0 or not parameter.logarithmic


def test_names_are_the_fields_in_order_and_unique() -> None:
    assert StepParameters._fields + RequestParameters._fields == NAMES
    assert len(set(NAMES)) == len(NAMES) == len(BY_NAME)


def test_every_growth_has_its_number_of_tokens() -> None:
    assert tuple(f"growth_{tokens}" for tokens in GROWTH_TOKENS[1:]) == tuple(
        parameter.name for parameter in PARAMETERS if parameter.group == "gemm_growth"
    )


@given(step_parameters, request_parameters)
def test_coordinates_go_there_and_back_within_the_bounds(step: StepParameters, request: RequestParameters) -> None:
    """To 1e-14: a logarithm and an exponential round once each."""
    values = np.array([*step, *request])
    x = to_coordinates(values)
    assert np.all((x >= LOWER) & (x <= UPPER))
    np.testing.assert_allclose(from_coordinates(x), values, rtol=1e-14)


@given(step_parameters, request_parameters)
def test_split_gives_each_tuple_its_own(step: StepParameters, request: RequestParameters) -> None:
    assert split(np.array([*step, *request])) == (step, request)


def test_priors_lie_within_three_deviations_of_no_bound_but_zero_and_one() -> None:
    """A prior cut off by a bound would not be the prior it says, except where the physics is: at zero and at one."""
    x = to_coordinates(PRIOR_VALUES)
    low, high = x - 3 * PRIOR_SD < LOWER, x + 3 * PRIOR_SD > UPPER
    assert set(np.array(NAMES)[high]) == {"max_weight"}
    assert not np.any(low & LOGARITHMIC)
    assert all(BY_NAME[name].lower == 0 for name in np.array(NAMES)[low])
