"""Our formula in other languages: what is translated, and what is refused by name."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roofml.export.formula.go import go_name, go_source
from roofml.export.formula.program import formula_program
from roofml.export.formula.translate import translate
from roofml.export.go.knots import CLOSE, knots
from roofml.latency.components import ComponentTables, StepComponents
from roofml.latency.parameters import RequestParameters, StepParameters
from roofml.util.errors import NotSupportedError

SCALE = 3
RATE = 0.5


class Pair(NamedTuple):
    """Two numbers."""

    first: float
    second: float


def double(x: Any) -> Any:
    """Twice x."""
    return 2 * x


def everything(x: Any, n: Any, pair: Any, norm: Any = None) -> Any:
    """What the translation knows, in one function.

    Not its second paragraph.
    """
    total = 0.0
    if norm is None:
        total = total + RATE * pair.first
    else:
        total = total + norm
        total = norm
    half = n // 2 if n > SCALE else 1
    for i in range(n):
        total = total + (x - i) * (x > 1)
    made = halved(pair)
    return Pair(double(total) + total_of(made) + total_of(pair), max(half % 2, n) / 3)


def halved(pair: Any) -> Any:
    """Half of each."""
    return Pair(pair.first / 2, pair.second / 2)


def total_of(pair: Any) -> Any:
    """Of both."""
    return pair.first + pair.second


def go_of(function: Any, *types: Any) -> str:
    return go_source(translate({function: types}, lambda struct, name: "float", {}), "made up")


def test_statements_and_expressions_become_those_of_go() -> None:
    shown = go_of(everything, "float", "int", Pair)
    assert (
        """
func everything(x float64, n int64, pair *Pair) Pair {
	total := float64(0)
	total = total + rate*pair.First
	half := int64(1)
	if n > scale {
		half = n / 2
	}
	for i := int64(0); i < n; i++ {
		total = total + (x-float64(i))*truth(x > 1)
	}
	made := halved(pair)
	return Pair{
		First:  double(total) + totalOf(&made) + totalOf(pair),
		Second: float64(max(half%2, n)) / 3,
	}
}
"""
        in shown
    )
    assert "const scale = 3\n" in shown
    assert "const rate = 0.5\n" in shown
    assert "everything: What the translation knows, in one function.\n" in shown
    assert shown.index("func double") < shown.index("func everything")


def unknown_call(x: Any) -> Any:
    """Of a library."""
    return np.exp(x)


def unknown_statement(x: Any) -> Any:
    """A loop without an end."""
    while x > 1:
        x = x / 2
    return x


def unknown_name(x: Any) -> Any:
    """A constant that is no number."""
    return x + Pair


def text(x: Any) -> Any:
    """Not a number."""
    return "x"


def two_kinds(x: Any) -> Any:
    """Now a number, now two."""
    if x > 1:
        return x
    return x, x


def whole_division(x: Any) -> Any:
    """Of what is not whole."""
    return x // 2


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (unknown_call, "unknown_call: no other language is told of 'np.exp(x)'"),
        (unknown_statement, "unknown_statement: no other language is told of 'while x > 1"),
        (unknown_name, "unknown_name: no other language is told of 'Pair'"),
        (text, "text: no other language is told of"),
        (two_kinds, "two_kinds: returns"),
        (whole_division, "whole_division: // of numbers that are not whole"),
    ],
)
def test_what_is_not_known_is_refused_by_name(function: Any, said: str) -> None:
    with pytest.raises(NotSupportedError) as refused:
        go_of(function, "float")
    assert said in str(refused.value)


def test_every_parameter_and_component_is_there_and_no_table_that_the_formula_does_not_read() -> None:
    program = formula_program()
    assert tuple(program.structs[StepParameters]) == StepParameters._fields
    assert tuple(program.structs[RequestParameters]) == RequestParameters._fields
    assert tuple(program.structs[StepComponents]) == StepComponents._fields
    assert set(ComponentTables._fields) - set(program.structs[ComponentTables]) == {
        "experts", "experts_per_token", "shares", "block_ratio", "acceptance", "norm",
    }  # fmt: skip


def test_names_are_those_of_go() -> None:
    assert go_name("prefill_gemm") == "prefillGemm"
    assert go_name("growth_16", exported=True) == "Growth16"
    assert go_name("LONG_CONTEXT") == "longContext"
    assert go_name("range") == "range_"


@given(st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=2, max_size=60), st.integers(1, 5))
def test_straight_lines_between_knots_meet_the_table(numbers: list[float], repeated: int) -> None:
    table = np.repeat(np.array(numbers), repeated)
    places, values = knots(table)
    assert (places[0], places[-2:]) == (0, [len(table) - 2, len(table) - 1][-len(places) :])
    met = np.interp(np.arange(len(table)), places, values)
    assert np.all(np.abs(met - table) <= 2 * CLOSE * np.abs(table))


def test_a_table_of_straight_lines_has_few_knots() -> None:
    tokens = np.arange(10_000.0)
    assert len(knots(3.5 * tokens)[0]) <= 3
    assert len(knots(np.maximum(100.0, 0.1 * tokens))[0]) <= 5
    with pytest.raises(ValueError, match="expected at least 2"):
        knots(np.zeros(1))
