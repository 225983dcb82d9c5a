"""The formula in Go, as gofmt would have it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from roofml.export.formula.infix import PRECEDENCE
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
    "float": "float64",
    "int": "int64",
    "table": "table",
    "floats": "[]float64",
    "floats4": "[][4]float64",
    "ints4": "[][4]int64",
}
KEYWORDS = frozenset({
    "break", "case", "chan", "const", "continue", "default", "defer", "else", "fallthrough", "for", "func", "go",
    "goto", "if", "import", "interface", "map", "package", "range", "return", "select", "struct", "switch", "type",
    "var",
})  # fmt: skip


def go_name(python: str, exported: bool = False) -> str:
    """`prefill_gemm` -> `prefillGemm`, or `PrefillGemm` where other packages, or a JSON reader, must see it."""
    first, *rest = [word for word in python.lower().split("_") if word]
    name = (first.capitalize() if exported else first) + "".join(word.capitalize() for word in rest)
    return f"{name}_" if name in KEYWORDS else name


def type_name(kind: Type) -> str:
    """The name of a type."""
    return TYPES[kind] if isinstance(kind, str) else kind.__name__


def go_source(program: Program, comment: str) -> str:
    """The file: structs, constants and functions of package roofml, under a comment that says where they are from."""
    parts = [f'// {comment}\n\npackage roofml\n\nimport "math"\n']
    parts += [_constant(name, value) for name, value in program.constants.items()]
    parts += [_struct(kind, fields) for kind, fields in program.structs.items()]
    parts += [_function(function) for function in program.functions]
    return "\n".join(parts)


def _constant(name: str, value: float) -> str:
    return f"const {go_name(name)} = {_literal(value, 'int' if isinstance(value, int) else 'float')}\n"


def _struct(kind: Any, fields: Any) -> str:
    """A struct whose fields a JSON reader knows by their Python names, in columns as gofmt aligns them."""
    rows = [(go_name(name, exported=True), TYPES[of], name) for name, of in fields.items()]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    lines = [f'\t{name:{widths[0]}} {of:{widths[1]}} `json:"{tag}"`' for name, of, tag in rows]
    says = _comment(f"{type_name(kind)} is {kind.__module__}.{kind.__name__}: {first_sentence(kind.__doc__)}")
    return "\n".join([*says, f"type {type_name(kind)} struct {{", *lines, "}\n"])


def _comment(text: str) -> list[str]:
    return [f"// {line}" for line in textwrap.wrap(text, 116, break_long_words=False)]


def _function(function: Function) -> str:
    says = _comment(f"{go_name(function.name)} is {function.origin}.{function.name}: {function.says}")
    parameters = ", ".join(f"{go_name(name)} {_parameter_type(kind)}" for name, kind in function.parameters)
    if several(function.returns):
        result = f" ({', '.join(map(type_name, several(function.returns)))})"
    else:
        result = "" if function.returns == "none" else f" {type_name(function.returns)}"
    head = f"func {go_name(function.name)}({parameters}){result} {{"
    return "\n".join([*says, head, *_block(function.body, 1), "}\n"])


def _parameter_type(kind: Type) -> str:
    """Structs are handed on by their address: those of tables are large."""
    return type_name(kind) if isinstance(kind, str) else f"*{type_name(kind)}"


def _block(statements: Sequence[Statement], depth: int) -> list[str]:
    return [line for statement in statements for line in _statement(statement, depth)]


def _statement(statement: Statement, depth: int) -> list[str]:
    tab = "\t" * depth
    match statement:
        case Return(values):
            if len(values) == 1 and isinstance(values[0], Struct):
                return _struct_lines(f"{tab}return ", values[0], tab)
            return [f"{tab}return {', '.join(_show(value) for value in values)}".rstrip()]
        case Assign(name, value, declared):
            sign = ":=" if declared else "="
            shown = _show(value)
            if declared and isinstance(value, Number):
                shown = f"{TYPES[value.type]}({shown})"
            return [f"{tab}{go_name(name)} {sign} {shown}"]
        case Unpack(names, value):
            return [f"{tab}{', '.join(map(go_name, names))} := {_show(value)}"]
        case Add(element, value):
            return [f"{tab}{_show(element)} += {_show(value)}"]
        case If(condition, then, otherwise):
            lines = [f"{tab}if {_show(condition)} {{", *_block(then, depth + 1)]
            if otherwise:
                lines += [f"{tab}}} else {{", *_block(otherwise, depth + 1)]
            return [*lines, f"{tab}}}"]
        case For(name, bound, body):
            variable = go_name(name)
            head = f"{tab}for {variable} := int64(0); {variable} < {_show(bound)}; {variable}++ {{"
            return [head, *_block(body, depth + 1), f"{tab}}}"]


def _struct_lines(start: str, value: Struct, tab: str) -> list[str]:
    fields = [go_name(name, exported=True) for name in value.type._fields]
    width = max(map(len, fields)) + 1
    lines = [f"{tab}\t{name + ':':{width}} {_show(each)}," for name, each in zip(fields, value.values, strict=True)]
    return [f"{start}{type_name(value.type)}{{", *lines, f"{tab}}}"]


def _show(value: Expression, depth: int = 1) -> str:
    """An expression, `depth` deep in others as gofmt counts: there it leaves out spaces."""
    match value:
        case Number(number, kind):
            return _literal(number, kind)
        case Variable(name):
            return go_name(name)
        case Field(of, name):
            return f"{_show(of)}.{go_name(name, exported=True)}"
        case Lookup(table, place):
            return f"{_show(table)}.at({_show(place, depth)})"
        case Element(array, places):
            return _show(array) + "".join(f"[{_show(place, depth + 1)}]" for place in places)
        case Absent(array):
            return f"len({_show(array)}) == 0"
        case Struct():
            raise AssertionError("a struct is only ever returned")
        case Call(function, arguments):
            return f"{go_name(function)}({_arguments(arguments, depth)})"
        case Builtin(name, arguments):
            return f"{_BUILTINS[name, value.type]}({_arguments(arguments, depth)})" + (")" if name == "length" else "")
        case Operation(operator="**", left=left, right=right):
            return f"math.Pow({_arguments((left, right), depth)})"
        case Operation():
            return _binary(value, 1, depth)


_BUILTINS = {
    ("abs", "float"): "math.Abs",
    ("min", "int"): "min",
    ("min", "float"): "min",
    ("max", "int"): "max",
    ("max", "float"): "max",
    ("float", "float"): "float64",
    ("truth", "float"): "truth",
    ("length", "int"): "int64(len",
}


def _arguments(arguments: Sequence[Expression], depth: int) -> str:
    inner = depth + 1 if len(arguments) > 1 else depth
    return ", ".join(_address(argument) + _show(argument, inner) for argument in arguments)


def _address(argument: Expression) -> str:
    """Structs are handed on by their address, which a parameter is already."""
    struct = not isinstance(argument.type, str)
    return "&" if struct and not (isinstance(argument, Variable) and not argument.own) else ""


def _literal(number: float, kind: Type) -> str:
    return str(int(number)) if kind == "int" or float(number).is_integer() else repr(float(number))


# gofmt's own rules for blanks around operators (go/printer/nodes.go, binaryExpr).


def _operation(value: Expression) -> Operation | None:
    return value if isinstance(value, Operation) and value.operator != "**" else None


def _levels(value: Operation) -> set[int]:
    """The precedences of an operation and of those in it that stand without parentheses."""
    own = PRECEDENCE[value.operator]
    found = {own}
    left, right = _operation(value.left), _operation(value.right)
    if left is not None and PRECEDENCE[left.operator] >= own:
        found |= _levels(left)
    if right is not None and PRECEDENCE[right.operator] > own:
        found |= _levels(right)
    return found


def _cutoff(value: Operation, depth: int) -> int:
    if {4, 5} <= _levels(value):
        return 5 if depth == 1 else 4
    return 6 if depth == 1 else 4


def _binary(value: Operation, outer: int, depth: int) -> str:
    own = PRECEDENCE[value.operator]
    if own < outer:
        return f"({_binary(value, 1, max(1, depth - 1))})"
    blank = " " if own < _cutoff(value, depth) else ""
    symbol = "/" if value.operator == "//" else value.operator
    left, right = _operation(value.left), _operation(value.right)
    deeper = depth + (left is None or PRECEDENCE[left.operator] != own)
    first = _show(value.left, deeper) if left is None else _binary(left, own, deeper)
    second = _show(value.right, depth + 1) if right is None else _binary(right, own + 1, depth + 1)
    return f"{first}{blank}{symbol}{blank}{second}"
