"""StepTable: what requests add to a step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import Request, decodes, prefills

from roofml.latency.batch import StepTable
from roofml.util.errors import InputError

EXPECTED = "expected at least one new token, and context and prompt tokens of at least 0"
batches = st.lists(st.lists(st.one_of(prefills, decodes), max_size=6), max_size=5)


def test_a_mixed_step_by_hand() -> None:
    """A whole prompt of 4, a second chunk of 2 after 6 tokens, decodes at contexts 9 and 5."""
    steps = StepTable.from_batches([[(4, 0, 4), (2, 6, 100), (1, 9, 9), (1, 5, 3)]])
    assert len(steps) == 1
    assert steps.prefill_tokens[0] == 4 + 2
    assert steps.decode_tokens[0] == 2
    assert steps.requests[0] == 4
    assert steps.prefill_pairs[0] == (1 + 2 + 3 + 4) + (7 + 8)
    assert steps.prefill_context[0] == 6
    assert steps.decode_context[0] == 9 + 5


@given(batches)
def test_pairs_are_the_causal_mask_counted(batches: list[list[Request]]) -> None:
    """Token i of a chunk sees the context and the chunk's tokens up to itself: an exact sum of whole numbers."""
    steps = StepTable.from_batches(batches)
    for row, batch in enumerate(batches):
        chunks = [(new, context) for new, context, prompt in batch if context < prompt]
        assert steps.prefill_pairs[row] == sum(context + i for new, context in chunks for i in range(1, new + 1))


@given(st.lists(st.one_of(prefills, decodes), max_size=6), st.lists(st.one_of(prefills, decodes), max_size=6))
def test_a_step_is_the_sum_of_its_requests(left: list[Request], right: list[Request]) -> None:
    """Every column adds up, exactly: counts and half-integers far below 2^53."""
    steps = StepTable.from_batches([left, right, left + right])
    for column in (getattr(steps, field) for field in StepTable.__dataclass_fields__):
        assert column[0] + column[1] == column[2]


def test_no_steps_and_an_empty_step() -> None:
    assert len(StepTable.from_batches([])) == 0
    steps = StepTable.from_batches([[]])
    assert [getattr(steps, field)[0] for field in StepTable.__dataclass_fields__] == [0.0] * 7


def test_columns_are_the_fields_in_order() -> None:
    steps = StepTable.from_columns(np.arange(14.0).reshape(2, 7))
    assert [getattr(steps, field).tolist() for field in StepTable.__dataclass_fields__] == [
        [column, column + 7.0] for column in range(7)
    ]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ((0, 5, 5), f"step 1: request (0, 5, 5): {EXPECTED}"),
        ((1, -1, 5), f"step 1: request (1, -1, 5): {EXPECTED}"),
        ((1, 1, -5), f"step 1: request (1, 1, -5): {EXPECTED}"),
        ((2, 5, 5), "step 1: 2 new tokens after the prompt: speculative decoding is not modelled"),
    ],
)
def test_impossible_requests_are_refused(request_: Request, message: str) -> None:
    with pytest.raises(InputError) as error:
        StepTable.from_batches([[], [(3, 0, 3), request_]])
    assert str(error.value) == message
