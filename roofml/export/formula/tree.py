"""The tree that the formula is translated into: expressions with types, and the few statements it is made of.

Types are the words of `Type`, a NamedTuple class (a struct), or a tuple of types (several values returned at once).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

Type = Any
"""One of these words, or as the module says:

float, int, bool    numbers, and comparisons
table               numbers by tokens or requests, whose last slope goes on past the end (`Lookup`)
floats              an array of numbers
floats4, ints4      an array of rows of four
none                known to be absent when the formula is translated
"""

ARRAYS = ("table", "floats", "floats4", "ints4")


def several(kind: Type) -> tuple[Type, ...]:
    """The types of values that are returned at once; none for a type of one value."""
    return cast("tuple[Type, ...]", kind) if isinstance(kind, tuple) else ()


def first_sentence(docstring: str | None) -> str:
    """The first paragraph of a docstring, on one line: what a printed struct says of itself."""
    return " ".join((docstring or "").split("\n\n")[0].split())


@dataclass(frozen=True)
class Number:
    """A literal."""

    value: float
    type: Type


@dataclass(frozen=True)
class Variable:
    """A local variable, a parameter of the function, or a constant of the formula."""

    name: str
    type: Type
    constant: bool = False
    own: bool = False
    """The function made it, and is not handed it."""


@dataclass(frozen=True)
class Field:
    """A field of a struct."""

    of: Expression
    name: str
    type: Type


@dataclass(frozen=True)
class Lookup:
    """The number of a table at a whole number of tokens or requests."""

    table: Expression
    place: Expression
    type: Type = "float"


@dataclass(frozen=True)
class Element:
    """An element of an array, by one place or, of rows of four, by two."""

    array: Expression
    places: tuple[Expression, ...]
    type: Type


@dataclass(frozen=True)
class Operation:
    """Two operands and one of + - * / // % ** > < >= <= == !=."""

    operator: str
    left: Expression
    right: Expression
    type: Type


@dataclass(frozen=True)
class Builtin:
    """What every language has: abs, min, max, length; `float` of a whole number, `truth` (1 or 0) of a comparison."""

    name: Literal["abs", "min", "max", "length", "float", "truth"]
    arguments: tuple[Expression, ...]
    type: Type


@dataclass(frozen=True)
class Call:
    """A call of another function of the formula."""

    function: str
    arguments: tuple[Expression, ...]
    type: Type


@dataclass(frozen=True)
class Struct:
    """A struct made of the values of all its fields."""

    type: Type
    values: tuple[Expression, ...]


@dataclass(frozen=True)
class Absent:
    """Whether an array is absent."""

    array: Expression
    type: Type = "bool"


@dataclass(frozen=True)
class Return:
    """One value, or several at once."""

    values: tuple[Expression, ...]


@dataclass(frozen=True)
class Assign:
    """`declared`: the variable is new in its block."""

    name: str
    value: Expression
    declared: bool


@dataclass(frozen=True)
class Unpack:
    """Several new variables, which a call returns at once."""

    names: tuple[str, ...]
    value: Call


@dataclass(frozen=True)
class Add:
    """Add to an element of an array."""

    element: Element
    value: Expression


@dataclass(frozen=True)
class If:
    """Where a condition holds, and where it does not."""

    condition: Expression
    then: tuple[Statement, ...]
    otherwise: tuple[Statement, ...] = ()


@dataclass(frozen=True)
class For:
    """A variable from 0 to a bound, which is not reached."""

    name: str
    bound: Expression
    body: tuple[Statement, ...]


Expression = Number | Variable | Field | Lookup | Element | Operation | Builtin | Call | Struct | Absent
Statement = Return | Assign | Unpack | Add | If | For


@dataclass(frozen=True)
class Function:
    """A function of the formula."""

    name: str
    origin: str
    """The module it is read from."""
    says: str
    """The first sentence of its docstring."""
    parameters: tuple[tuple[str, Type], ...]
    body: tuple[Statement, ...]
    returns: Type


@dataclass(frozen=True)
class Program:
    """Functions in an order in which each is there before it is called, and what they need."""

    functions: tuple[Function, ...]
    structs: Mapping[Any, Mapping[str, Type]]
    """NamedTuple class -> the fields that it has here, and their types."""
    constants: Mapping[str, float] = field(default_factory=dict[str, float])
