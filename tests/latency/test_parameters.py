"""Parameters: declared once, in order, with bounds that hold the priors."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from synthetic import request_parameters, step_parameters

from roofml.latency.formula import growth
from roofml.latency.parameters import (
    BY_NAME,
    LOGARITHMIC,
    LOWER,
    NAMES,
    NEUTRAL_VALUES,
    PARAMETERS,
    PRIOR_SD,
    PRIOR_VALUES,
    UPPER,
    Parameter,
    Parameters,
    RequestParameters,
    StepParameters,
    from_coordinates,
    to_coordinates,
)
from roofml.latency.pauses import NO_PAUSES


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
    """It begins at the number of the one before, the first at 1, and is there at its own."""
    names = [parameter.name for parameter in PARAMETERS if parameter.group == "gemm_growth"]
    tokens = [1, *(int(name.removeprefix("growth_")) for name in names)]
    assert tokens == [1, 16, 32, 48, 64, 128, 256]
    for name, (start, end) in zip(names, pairwise(tokens), strict=True):
        alone = StepParameters(**{name: 0.5})
        assert [growth(at, alone) for at in (1, start, 0.5 * (start + end), end, 1000)] == [0, 0, 0.25, 0.5, 0.5], name


def test_a_default_is_the_value_that_changes_nothing() -> None:
    """So a file may lack a parameter. That of long contexts came last, and what it corrects was free before."""
    neutral = {parameter.name: parameter.neutral for parameter in PARAMETERS}
    assert neutral == {**StepParameters()._asdict(), **RequestParameters()._asdict()}
    assert neutral == dict(zip(NAMES, NEUTRAL_VALUES, strict=True))
    for parameter in PARAMETERS:
        expected = 1 if parameter.group in ("corrections", "blend") and parameter.name != "long_context" else 0
        assert parameter.neutral == expected, parameter.name
        assert parameter.name == "long_context" or parameter.lower <= parameter.neutral <= parameter.upper


@given(step_parameters, request_parameters)
def test_coordinates_go_there_and_back_within_the_bounds(step: StepParameters, request: RequestParameters) -> None:
    """To 1e-14: a logarithm and an exponential round once each."""
    values = np.array([*step, *request])
    x = to_coordinates(values)
    assert np.all((x >= LOWER) & (x <= UPPER))
    np.testing.assert_allclose(from_coordinates(x), values, rtol=1e-14)


@given(step_parameters, request_parameters)
def test_values_come_apart_into_those_of_a_step_and_of_a_request(
    step: StepParameters, request: RequestParameters
) -> None:
    assert Parameters.of(np.array([*step, *request])) == (step, request, NO_PAUSES)


@given(step_parameters, request_parameters)
def test_a_pace_is_of_steps_alone_and_leaves_the_blend(step: StepParameters, request: RequestParameters) -> None:
    paced = Parameters(step, request).paced(2.0)
    assert paced.request == request
    assert paced.step.max_weight == step.max_weight
    assert paced.step._replace(max_weight=0.0) == tuple(2 * value for value in step._replace(max_weight=0.0))


def test_priors_lie_within_three_deviations_of_no_bound_but_zero_and_one() -> None:
    """A prior cut off by a bound would not be the prior it says, except where the physics is: at zero and at one."""
    x = to_coordinates(PRIOR_VALUES)
    low, high = x - 3 * PRIOR_SD < LOWER, x + 3 * PRIOR_SD > UPPER
    assert set(np.array(NAMES)[high]) == {"max_weight"}
    assert not np.any(low & LOGARITHMIC)
    assert all(BY_NAME[name].lower == 0 for name in np.array(NAMES)[low])
