"""What of our formula other languages are given, and the types of its structs."""

from __future__ import annotations

from typing import Any, get_type_hints

from roofml.export.formula.translate import translate
from roofml.export.formula.tree import Program, Type
from roofml.latency.batch import StepSums, add_near
from roofml.latency.components import ComponentTables, StepComponents, step_components
from roofml.latency.formula import step_time
from roofml.latency.launches import no_shorter_than_launches
from roofml.latency.parameters import RequestParameters, StepParameters
from roofml.util.arrays import Floats
from roofml.util.errors import NotSupportedError

ARRAYS: dict[tuple[Any, str], Type] = {
    (StepSums, "near"): "floats",
    (ComponentTables, "near"): "floats4",
    (ComponentTables, "reaches"): "ints4",
}
"""Arrays whose type does not say their shape. Any other array of `ComponentTables` is a table."""


def field_type(struct: Any, name: str) -> Type:
    """The type of a field of a NamedTuple of the formula. Raises NotSupportedError for one that is no number."""
    if (struct, name) in ARRAYS:
        return ARRAYS[struct, name]
    kind = get_type_hints(struct)[name]
    if struct is ComponentTables and kind in (Floats, Floats | None):
        return "table"
    if kind in (float, int, Floats):
        return "float"
    raise NotSupportedError(f"{struct.__name__}.{name}: is {kind}, expected a number or an array of floats")


def formula_program() -> Program:
    """The time of a step from its sums, and the sums of layers that do not read their whole context.

    Raises NotSupportedError where the formula has something that no other language is told of.
    """
    return translate(
        {
            add_near: ("floats", "ints4", "int", "int", "int"),
            step_components: (ComponentTables, StepSums, "int", "int", "int"),
            step_time: (StepComponents, "float", "float", "float", "float", StepParameters),
            no_shorter_than_launches: ("float", "float", ComponentTables),
        },
        field_type,
        also={ComponentTables: ("layers", "reaches"), RequestParameters: RequestParameters._fields},
    )
