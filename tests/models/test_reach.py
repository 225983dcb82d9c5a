"""Reach: the closed forms count what a loop over queries and entries counts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roofml.models.reach import WHOLE, Reach, entries, keys, pairs_up_to

reaches = st.builds(
    Reach,
    window=st.integers(0, 9),
    chunk=st.sampled_from([0, 0, 1, 3, 8]),
    compression=st.just(1),
    top_k=st.integers(0, 7),
) | st.builds(Reach, window=st.integers(1, 9), compression=st.integers(2, 5), top_k=st.integers(0, 7))


@given(reaches, st.integers(0, 60))
def test_the_pairs_of_a_prompt_are_the_keys_of_its_queries(reach: Reach, n: int) -> None:
    assert pairs_up_to(n, *reach) == sum(keys(position, *reach) for position in range(n))


@given(reaches, st.integers(0, 60))
def test_one_token_reads_as_many_entries_as_it_has_keys(reach: Reach, context: int) -> None:
    assert entries(context, 1, *reach) == keys(context, *reach)


@given(reaches, st.integers(0, 60), st.integers(1, 20))
def test_no_reach_reads_more_than_the_whole_context(reach: Reach, context: int, new: int) -> None:
    """Merged entries lie beside the window's own: up to a token in `compression` more."""
    merged = (context + new) // reach.compression if reach.compression > 1 else 0
    assert keys(context, *reach) <= keys(context, *WHOLE) + merged
    assert entries(context, new, *reach) <= entries(context, new, *WHOLE) + merged


@given(st.integers(1, 9), st.integers(9, 60))
def test_beyond_a_window_every_query_reads_as_much(window: int, position: int) -> None:
    assert keys(position, *Reach(window=window)) == window
