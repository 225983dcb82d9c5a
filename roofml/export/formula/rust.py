"""The formula in Rust: a module of plain functions, without dependencies."""

from __future__ import annotations

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

FIELDS = {
    "float": "f64",
    "int": "i64",
    "table": "Table",
    "floats": "[f64; MOST_NEAR]",
    "floats4": "&'static [[f64; 4]]",
    "ints4": "&'static [[i64; 4]]",
}
PARAMETERS = {**FIELDS, "table": "&Table", "floats": "&[f64]", "floats4": "&[[f64; 4]]", "ints4": "&[[i64; 4]]"}


def rust_source(program: Program) -> str:
    """Structs, constants and functions, without the type Table and the constant MOST_NEAR."""
    parts = [f"const {name}: {_constant(value)};\n" for name, value in program.constants.items()]
    parts += [_struct(kind, fields) for kind, fields in program.structs.items()]
    parts += [_function(function) for function in program.functions]
    return "\n".join(parts)


def _constant(value: float) -> str:
    return f"i64 = {value}" if isinstance(value, int) else f"f64 = {value!r}"


def _struct(kind: Any, fields: Mapping[str, Type]) -> str:
    says = f"/// {kind.__module__}.{kind.__name__}: {first_sentence(kind.__doc__)}"
    lines = [f"    pub {name}: {FIELDS[of]}," for name, of in fields.items()]
    return "\n".join([says, "#[derive(Clone, Copy, Debug)]", f"pub struct {kind.__name__} {{", *lines, "}\n"])


def _function(function: Function) -> str:
    changed = {name for name, kind in function.parameters if kind == "floats" and _adds_to(function.body, name)}
    parameters = ", ".join(f"{name}: {_parameter(kind, name in changed)}" for name, kind in function.parameters)
    if several(function.returns):
        returns = f" -> ({', '.join(_value(kind) for kind in several(function.returns))})"
    else:
        returns = "" if function.returns == "none" else f" -> {_value(function.returns)}"
    says = f"/// {function.origin}.{function.name}: {function.says}"
    head = f"fn {function.name}({parameters}){returns} {{"
    return "\n".join([says, head, *_block(function.body, 1), "}\n"])


def _adds_to(statements: Sequence[Statement], name: str) -> bool:
    for statement in statements:
        match statement:
            case Add(Element(Variable(array)), _) if array == name:
                return True
            case If(_, then, otherwise) if _adds_to((*then, *otherwise), name):
                return True
            case For(_, _, body) if _adds_to(body, name):
                return True
            case _:
                pass
    return False


def _parameter(kind: Type, changed: bool) -> str:
    if not isinstance(kind, str):
        return f"&{kind.__name__}"
    return "&mut [f64]" if changed else PARAMETERS[kind]


def _value(kind: Type) -> str:
    return FIELDS[kind] if isinstance(kind, str) else kind.__name__


def _block(statements: Sequence[Statement], depth: int) -> list[str]:
    return [
        line
        for number, statement in enumerate(statements)
        for line in _statement(statement, depth, statements[number + 1 :])
    ]


def _changes(name: str, statements: Sequence[Statement]) -> bool:
    """Whether any of these statements gives the variable another value."""
    for statement in statements:
        match statement:
            case Assign(changed, _, declared) if changed == name and not declared:
                return True
            case If(_, then, otherwise) if _changes(name, (*then, *otherwise)):
                return True
            case For(_, _, body) if _changes(name, body):
                return True
            case _:
                pass
    return False


def _statement(statement: Statement, depth: int, after: Sequence[Statement]) -> list[str]:
    tab = "    " * depth
    match statement:
        case Return(()):
            return [f"{tab}return;"]
        case Return((value,)):
            return [f"{tab}return {_show(value)};"]
        case Return(values):
            return [f"{tab}return ({', '.join(map(_show, values))});"]
        case Assign(name, value, declared):
            mut = "mut " if _changes(name, after) else ""
            start = f"let {mut}{name}: {_value(value.type)}" if declared else name
            return [f"{tab}{start} = {_show(value)};"]
        case Unpack(names, value):
            return [f"{tab}let ({', '.join(names)}) = {_show(value)};"]
        case Add(element, value):
            return [f"{tab}{_show(element)} += {_show(value)};"]
        case If(condition, then, otherwise):
            lines = [f"{tab}if {_show(condition)} {{", *_block(then, depth + 1)]
            if otherwise:
                lines += [f"{tab}}} else {{", *_block(otherwise, depth + 1)]
            return [*lines, f"{tab}}}"]
        case For(name, bound, body):
            return [f"{tab}for {name} in 0..{_show(bound)} {{", *_block(body, depth + 1), f"{tab}}}"]


def _argument(value: Expression) -> str:
    """Arrays and structs are lent; parameters of a function are already."""
    handed = isinstance(value, Variable) and not value.own
    lent = not handed and (value.type in ("table", "floats") or not isinstance(value.type, str))
    return f"&{_show(value)}" if lent else _show(value)


def _show(value: Expression) -> str:
    match value:
        case Number():
            return literal(value)
        case Variable(name):
            return name
        case Field(of, name):
            return f"{_show(of)}.{name}"
        case Lookup(table, place):
            return f"{_show(table)}.at({_show(place)})"
        case Element(array, places):
            return _show(array) + "".join(f"[{_place(place)}]" for place in places)
        case Absent(array):
            return f"{_show(array)}.is_empty()"
        case Struct(kind, values):
            pairs = zip(kind._fields, values, strict=True)
            return f"{kind.__name__} {{ {', '.join(f'{name}: {_show(each)}' for name, each in pairs)} }}"
        case Call(function, arguments):
            return f"{function}({', '.join(map(_argument, arguments))})"
        case Builtin("length", (array,)):
            return f"{_show(array)}.len() as i64"
        case Builtin("float", (number,)):
            return f"({_show(number)}) as f64"
        case Builtin("truth", (condition,)):
            return f"f64::from({_show(condition)})"
        case Builtin(name, arguments):
            kind = "f64" if value.type == "float" else "i64"
            owner = kind if name == "abs" or kind == "f64" else "std::cmp"
            return f"{owner}::{name}({', '.join(map(_show, arguments))})"
        case Operation(operator="**", left=left, right=right):
            return f"f64::powf({_show(left)}, {_show(right)})"
        case Operation():
            return infix(value, _operand)


def _operand(value: Expression) -> str:
    """A cast binds less than Rust's readers expect."""
    text = _show(value)
    return f"({text})" if isinstance(value, Builtin) and value.name in ("float", "length") else text


def _place(value: Expression) -> str:
    return literal(value) if isinstance(value, Number) else f"({_show(value)}) as usize"
