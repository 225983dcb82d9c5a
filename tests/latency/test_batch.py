"""StepSums: what requests add to a step; and Batch, one step as a person writes it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import Request, decodes, prefills

from roofml.latency.batch import Batch, StepSums
from roofml.util.errors import InputError

EXPECTED = "expected at least one new token, and context and prompt tokens of at least 0"
batches = st.lists(st.lists(st.one_of(prefills, decodes), max_size=6), max_size=5)


def test_a_mixed_step_by_hand() -> None:
    """A whole prompt of 4, a second chunk of 2 after 6 tokens, decodes at contexts 9 and 5."""
    steps = StepSums.from_requests([[(4, 0, 4), (2, 6, 100), (1, 9, 9), (1, 5, 3)]])
    assert steps.length == 1
    assert steps.prefill_tokens[0] == 4 + 2
    assert steps.decode_tokens[0] == 2
    assert steps.requests[0] == 4
    assert steps.prefill_pairs[0] == (1 + 2 + 3 + 4) + (7 + 8)
    assert steps.prefill_context[0] == 6
    assert steps.decode_context[0] == 9 + 5


@given(batches)
def test_pairs_are_the_causal_mask_counted(batches: list[list[Request]]) -> None:
    """Token i of a chunk sees the context and the chunk's tokens up to itself: an exact sum of whole numbers."""
    steps = StepSums.from_requests(batches)
    for row, batch in enumerate(batches):
        chunks = [(new, context) for new, context, prompt in batch if context < prompt]
        assert steps.prefill_pairs[row] == sum(context + i for new, context in chunks for i in range(1, new + 1))


@given(st.lists(st.one_of(prefills, decodes), max_size=6), st.lists(st.one_of(prefills, decodes), max_size=6))
def test_a_step_is_the_sum_of_its_requests(left: list[Request], right: list[Request]) -> None:
    """Every column adds up, exactly: counts and half-integers far below 2^53."""
    steps = StepSums.from_requests([left, right, left + right])
    for column in steps.columns().T:
        assert column[0] + column[1] == column[2]


def test_no_steps_and_an_empty_step() -> None:
    assert StepSums.from_requests([]).length == 0
    steps = StepSums.from_requests([[]])
    assert steps.columns().tolist() == [[0.0] * 7]


def test_columns_are_the_fields_in_order() -> None:
    steps = StepSums.from_columns(np.arange(14.0).reshape(2, 7))
    assert [getattr(steps, field).tolist() for field in StepSums._fields[:7]] == [
        [column, column + 7.0] for column in range(7)
    ]
    assert steps.columns().tolist() == np.arange(14.0).reshape(2, 7).tolist()
    assert steps.step(1).columns().tolist() == [list(np.arange(7.0, 14.0))]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ((0, 5, 5), f"step 1: request (0, 5, 5): {EXPECTED}"),
        ((1, -1, 5), f"step 1: request (1, -1, 5): {EXPECTED}"),
        ((1, 1, -5), f"step 1: request (1, 1, -5): {EXPECTED}"),
        (
            (2, 5, 5),
            "step 1: 2 new tokens after the prompt, expected 1: one, and the drafts that a server with "
            "speculative decoding verifies",
        ),
    ],
)
def test_impossible_requests_are_refused(request_: Request, message: str) -> None:
    with pytest.raises(InputError) as error:
        StepSums.from_requests([[], [(3, 0, 3), request_]])
    assert str(error.value) == message


def test_a_batch_is_the_sums_of_its_requests() -> None:
    batch = Batch(prefill=[(4, 0), (2, 6)], decode=[(9, 3), (5, 1)])
    assert batch.new_tokens == 4 + 2 + 3 + 1
    same = StepSums.from_requests([[(4, 0, 4), (2, 6, 8), *[(1, 9, 0)] * 3, (1, 5, 0)]])
    assert batch.sums().columns().tolist() == same.columns().tolist()
    assert batch.sums().mixed.tolist() == [1]
    assert Batch(decode=[(0, 1)]).sums().mixed.tolist() == [0]


@pytest.mark.parametrize(
    ("prefill", "decode", "message"),
    [
        ([], [], "batch: expected at least one request"),
        ([(0, 5)], [], r"batch: prefill \(0, 5\): expected new tokens >= 1"),
        ([(5, -1)], [], r"batch: prefill \(5, -1\): .*context >= 0"),
        ([], [(-1, 1)], r"batch: decode \(-1, 1\): expected context >= 0"),
        ([(5, 0)], [(7, 0)], r"batch: decode \(7, 0\): .*a count >= 1"),
    ],
)
def test_what_cannot_be_a_step_is_refused(
    prefill: list[tuple[int, int]], decode: list[tuple[int, int]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Batch(prefill, decode)


@pytest.mark.parametrize(
    ("prefill", "decode", "message"),
    [
        ([], [(700, 2**20 + 1)], "1048577 new tokens in the step: expected at most 1048576"),
        ([(10**9, 0)], [], "1000000000 new tokens in the step: expected at most"),
        ([], [(700, 10**400)], "new tokens in the step: expected at most"),
        ([(1, 10**400)], [], "batch: a context of 1000.* tokens, expected at most 1000000000"),
        ([], [(10**10, 1)], "batch: a context of 10000000000 tokens, expected at most"),
    ],
)
def test_numbers_that_no_engine_has_are_refused_before_anything_is_as_long(
    prefill: list[tuple[int, int]], decode: list[tuple[int, int]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Batch(prefill, decode)
