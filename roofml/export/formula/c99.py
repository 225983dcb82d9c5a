"""The formula in C99: functions for a header, whose names begin with `roofml_`."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from roofml.export.formula.infix import infix, literal
from roofml.export.formula.tree import (
    Absent,
    Add,
    Assign,
    Builtin,
    Call,
    Element,
    Expression,
    Field,
    For,
    Function,
    If,
    Lookup,
    Number,
    Operation,
    Program,
    Return,
    Statement,
    Struct,
    Type,
    Unpack,
    Variable,
    first_sentence,
    several,
)

TYPES = {
    "float": "double",
    "int": "int64_t",
    "table": "roofml_table",
    "floats": "double *",
    "floats4": "roofml_rows",
    "ints4": "roofml_reaches",
}


KEYWORDS = frozenset({
    "auto", "break", "case", "char", "const", "continue", "default", "do", "double", "else", "enum", "extern", "float",
    "for", "goto", "if", "inline", "int", "long", "register", "restrict", "return", "short", "signed", "sizeof",
    "static", "struct", "switch", "typedef", "union", "unsigned", "void", "volatile", "while",
})  # fmt: skip


def local(name: str) -> str:
    """The name of a variable."""
    return f"{name}_" if name in KEYWORDS else name


def snake(python: str) -> str:
    """`StepSums` -> `step_sums`."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in python).lstrip("_")


def type_name(kind: Type) -> str:
    """The name of a type."""
    if several(kind):
        return f"roofml_values{len(several(kind))}"
    return TYPES[kind] if isinstance(kind, str) else f"roofml_{snake(kind.__name__)}"


def c_source(program: Program) -> str:
    """Structs, constants and functions, without includes and the types of TYPES."""
    counts = sorted({len(several(function.returns)) for function in program.functions} - {0})
    parts = [f"typedef struct {{ double at[{count}]; }} roofml_values{count};\n" for count in counts]
    parts += [f"#define ROOFML_{name} {value!r}\n" for name, value in program.constants.items()]
    parts += [_struct(kind, fields) for kind, fields in program.structs.items()]
    parts += [_function(function) for function in program.functions]
    return "\n".join(parts)


def _struct(kind: Any, fields: Mapping[str, Type]) -> str:
    says = _comment(f"{kind.__module__}.{kind.__name__}: {first_sentence(kind.__doc__)}")
    lines = [f"    {_declared(of, name)};" for name, of in fields.items()]
    return "\n".join([*says, "typedef struct {", *lines, f"}} {type_name(kind)};\n"])


def _declared(kind: Type, name: str) -> str:
    of = type_name(kind)
    return f"{of}{'' if of.endswith('*') else ' '}{local(name)}"


def _function(function: Function) -> str:
    says = _comment(f"{function.origin}.{function.name}: {function.says}")
    parameters = ", ".join(_declared(kind, name) for name, kind in function.parameters)
    returns = "void" if function.returns == "none" else type_name(function.returns)
    head = f"static inline {returns} roofml_{function.name}({parameters}) {{"
    return "\n".join([*says, head, *_block(function.body, 1), "}\n"])


def _comment(text: str) -> list[str]:
    lines = textwrap.wrap(text.replace("*/", "* /"), 112)
    return [f"{'/*' if i == 0 else '  '} {line}{' */' if i == len(lines) - 1 else ''}" for i, line in enumerate(lines)]


def _block(statements: Sequence[Statement], depth: int) -> list[str]:
    return [line for statement in statements for line in _statement(statement, depth)]


def _statement(statement: Statement, depth: int) -> list[str]:
    tab = "    " * depth
    match statement:
        case Return(()):
            return [f"{tab}return;"]
        case Return((value,)):
            return [f"{tab}return {_show(value)};"]
        case Return(values):
            inside = ", ".join(map(_show, values))
            return [f"{tab}return (roofml_values{len(values)}){{{{{inside}}}}};"]
        case Assign(name, value, declared):
            return [f"{tab}{_declared(value.type, name) if declared else local(name)} = {_show(value)};"]
        case Unpack(names, value):
            whole = f"of_{value.function}"
            lines = [f"{tab}const {type_name(value.type)} {whole} = {_show(value)};"]
            return lines + [f"{tab}const double {name} = {whole}.at[{i}];" for i, name in enumerate(names)]
        case Add(element, value):
            return [f"{tab}{_show(element)} += {_show(value)};"]
        case If(condition, then, otherwise):
            lines = [f"{tab}if ({_show(condition)}) {{", *_block(then, depth + 1)]
            if otherwise:
                lines += [f"{tab}}} else {{", *_block(otherwise, depth + 1)]
            return [*lines, f"{tab}}}"]
        case For(name, bound, body):
            head = f"{tab}for (int64_t {name} = 0; {name} < {_show(bound)}; {name}++) {{"
            return [head, *_block(body, depth + 1), f"{tab}}}"]


def _show(value: Expression) -> str:
    match value:
        case Number():
            return literal(value)
        case Variable(name, constant=constant):
            return f"ROOFML_{name}" if constant else local(name)
        case Field(of, name):
            return f"{_show(of)}.{name}"
        case Lookup(table, place):
            return f"roofml_at({_show(table)}, {_show(place)})"
        case Element(array, places):
            rows = ".row" if array.type in ("floats4", "ints4") else ""
            return f"{_show(array)}{rows}" + "".join(f"[{_show(place)}]" for place in places)
        case Absent(array):
            return f"{_show(array)}.count == 0"
        case Struct(kind, values):
            return f"({type_name(kind)}){{{', '.join(map(_show, values))}}}"
        case Call(function, arguments):
            return f"roofml_{function}({', '.join(map(_show, arguments))})"
        case Builtin("length", (array,)):
            return f"{_show(array)}.count"
        case Builtin("float", (number,)):
            return f"(double)({_show(number)})"
        case Builtin("truth", (condition,)):
            return f"({_show(condition)} ? 1.0 : 0.0)"
        case Builtin("abs", (number,)) if value.type == "float":
            return f"fabs({_show(number)})"
        case Builtin(name, arguments):
            suffix = "" if value.type == "float" else "_whole"
            return f"roofml_{name}{suffix}({', '.join(map(_show, arguments))})"
        case Operation(operator="**", left=left, right=right):
            return f"pow({_show(left)}, {_show(right)})"
        case Operation():
            return infix(value, _show)
