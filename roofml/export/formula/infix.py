"""Expressions of languages with C's operators: operands in the language's own words, and few parentheses."""

from __future__ import annotations

from collections.abc import Callable

from roofml.export.formula.tree import Expression, Number, Operation

PRECEDENCE = {"*": 5, "/": 5, "//": 5, "%": 5, "+": 4, "-": 4, ">": 3, "<": 3, ">=": 3, "<=": 3, "==": 3, "!=": 3}


def infix(value: Operation, operand: Callable[[Expression], str]) -> str:
    """An operation with blanks around its operator; `operand` writes what is no operation of its own."""
    own = PRECEDENCE[value.operator]
    symbol = "/" if value.operator == "//" else value.operator
    return f"{_side(value.left, own, operand)} {symbol} {_side(value.right, own + 1, operand)}"


def _side(value: Expression, least: int, operand: Callable[[Expression], str]) -> str:
    text = operand(value)
    inside = isinstance(value, Operation) and value.operator in PRECEDENCE and PRECEDENCE[value.operator] < least
    return f"({text})" if inside else text


def literal(value: Number) -> str:
    """A number: a float always with a point."""
    return str(int(value.value)) if value.type == "int" else repr(float(value.value))
