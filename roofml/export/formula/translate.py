"""Python functions of plain arithmetic -> a tree that other languages are printed from.

What the formula is made of is little: numbers, sums and products, lookups, a few loops and conditions. What is more is
refused by name, so that a formula that outgrows this is noticed by the tests of the export and not by a wrong number.

Types follow from the arguments of the functions that are asked for. A condition on whether an argument is there
(`if norm is None`) is decided here where the argument is never there, and else asked of the array.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from roofml.export.formula.tree import (
    ARRAYS,
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
    several,
)
from roofml.util.errors import NotSupportedError

ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
}
COMPARED: dict[type[ast.cmpop], str] = {
    ast.Gt: ">",
    ast.Lt: "<",
    ast.GtE: ">=",
    ast.LtE: "<=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}
ELEMENT = {"table": "float", "floats": "float", "floats4": "float", "ints4": "int"}

FieldTypes = Callable[[Any, str], Type]
"""A NamedTuple class and the name of one of its fields -> its type."""


def translate(
    entries: Mapping[Callable[..., Any], Sequence[Type]],
    field_types: FieldTypes,
    also: Mapping[Any, Sequence[str]],
) -> Program:
    """The functions that are asked for, each with the types of its arguments, and those that they call.

    Parameters beyond these must have the default None, and are taken for absent. `also` are fields that structs have
    besides those that the functions read. Raises NotSupportedError naming function and expression for what no other
    language is told.
    """
    translator = _Translator(field_types)
    for function, types in entries.items():
        translator.function(function, tuple(types))
    for struct, names in also.items():
        for name in names:
            translator.field(struct, name)
    structs = {
        struct: {name: fields[name] for name in struct._fields if name in fields}
        for struct, fields in translator.structs.items()
    }
    return Program(tuple(translator.done.values()), structs, translator.constants)


class _Translator:
    """What was translated so far."""

    def __init__(self, field_types: FieldTypes) -> None:
        self.field_types = field_types
        self.done: dict[str, Function] = {}
        self.kinds: dict[str, tuple[Type, ...]] = {}
        self.structs: dict[Any, dict[str, Type]] = {}
        self.constants: dict[str, float] = {}

    def function(self, function: Any, types: tuple[Type, ...]) -> Function:
        """The function for arguments of these types, translated once."""
        name: str = function.__name__
        if name in self.done:
            if self.kinds[name] != types:
                raise NotSupportedError(f"{name}: called with {types} and with {self.kinds[name]}")
            return self.done[name]
        parsed = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
        if not isinstance(parsed, ast.FunctionDef):
            raise NotSupportedError(f"{name}: is no function")
        given = [*types, *["none"] * (len(parsed.args.args) - len(types))]
        parameters = {argument.arg: kind for argument, kind in zip(parsed.args.args, given, strict=True)}
        body = _Body(self, function, parameters, parsed)
        statements = body.block(parsed.body)
        made = Function(
            name,
            function.__module__,
            " ".join((ast.get_docstring(parsed) or "").split("\n\n")[0].split()),
            tuple((parameter, kind) for parameter, kind in parameters.items() if kind != "none"),
            statements,
            body.returns,
        )
        self.done[name], self.kinds[name] = made, types
        return made

    def field(self, struct: Any, name: str) -> Type:
        """The type of a field, which the struct has from now on."""
        kind = self.field_types(struct, name)
        if kind != "none":
            self.structs.setdefault(struct, {})[name] = kind
        return kind


class _Body:
    """The body of one function."""

    def __init__(
        self, translator: _Translator, function: Any, parameters: Mapping[str, Type], parsed: ast.FunctionDef
    ) -> None:
        self.translator = translator
        self.globals: dict[str, Any] = function.__globals__
        self.name = function.__name__
        self.scopes: list[dict[str, Type]] = [dict(parameters)]
        self.returns: Type = "none"
        self.hoisted: list[list[Statement]] = []
        self.choices = 0

    def unknown(self, node: ast.AST) -> NotSupportedError:
        """The error for what this does not know."""
        return NotSupportedError(f"{self.name}: no other language is told of {ast.unparse(node)[:80]!r}")

    # Statements

    def block(self, nodes: Sequence[ast.stmt]) -> tuple[Statement, ...]:
        """The statements of a block, up to the first that always returns."""
        self.scopes.append({})
        statements: list[Statement] = []
        self.hoisted.append(statements)
        for node in nodes:
            self.statement(node, statements)
            if statements and isinstance(statements[-1], Return):
                break
        self.hoisted.pop()
        self.scopes.pop()
        return tuple(statements)

    def statement(self, node: ast.stmt, out: list[Statement]) -> None:
        """Add what a statement becomes."""
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                return
            case ast.Return(value=None):
                out.append(Return(()))
            case ast.Return(value=ast.Tuple(elts=elements)):
                values = tuple(self.number(element) for element in elements)
                self.returned(tuple(value.type for value in values))
                out.append(Return(values))
            case ast.Return(value=ast.expr() as returned):
                value = self.expression(returned)
                self.returned(value.type)
                out.append(Return((value,)))
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.IfExp(test=test, body=then, orelse=otherwise)):
                first, second = self.alike(self.number(then), self.number(otherwise))
                condition = self.expression(test)
                out.append(self.assign(name, second))
                out.append(If(condition, (self.assign(name, first),)))
            case ast.Assign(targets=[ast.Name(id=name)], value=assigned):
                value = self.expression(assigned)
                if several(value.type):
                    assert isinstance(value, Call)
                    self.scopes[-1][name] = value.type
                    out.append(Unpack(tuple(f"{name}_{i}" for i in range(len(several(value.type)))), value))
                else:
                    out.append(self.assign(name, value))
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
                made = [self.number(value) for value in values]
                out.extend(self.assign(_name(name), value) for name, value in zip(names, made, strict=True))
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=assigned):
                row = self.expression(assigned)
                if not (isinstance(row, Element) and len(row.places) == 1 and row.type == "row"):
                    raise self.unknown(node)
                kind = ELEMENT[row.array.type]
                for i, name in enumerate(names):
                    out.append(self.assign(_name(name), Element(row.array, (*row.places, Number(i, "int")), kind)))
            case ast.AugAssign(target=ast.Subscript() as target, op=ast.Add(), value=added):
                element = self.expression(target)
                assert isinstance(element, Element)
                out.append(Add(element, self.as_type(self.expression(added), element.type)))
            case ast.If(test=test, body=then, orelse=otherwise):
                self.condition(test, then, otherwise, out)
            case ast.For(target=ast.Name(id=name), iter=ast.Call(func=ast.Name(id="range"), args=[bound])):
                limit = self.expression(bound)
                self.scopes.append({name: "int"})
                out.append(For(name, limit, self.block(node.body)))
                self.scopes.pop()
            case _:
                raise self.unknown(node)

    def condition(
        self, test: ast.expr, then: Sequence[ast.stmt], otherwise: Sequence[ast.stmt], out: list[Statement]
    ) -> None:
        """A condition that is decided here leaves the statements of one side; any other becomes an If."""
        match test:
            case ast.Compare(left=left, ops=[ast.Is()], comparators=[ast.Constant(value=None)]):
                asked = self.expression(left)
                if asked.type == "none":
                    for node in then:
                        self.statement(node, out)
                    return
                if asked.type not in ARRAYS:
                    for node in otherwise:
                        self.statement(node, out)
                    return
                condition: Expression = Absent(asked)
            case _:
                condition = self.expression(test)
        out.append(If(condition, self.block(then), self.block(otherwise)))

    def assign(self, name: str, value: Expression) -> Assign:
        """An assignment, which declares the variable where no block around has it."""
        known = next((scope[name] for scope in reversed(self.scopes) if name in scope), None)
        if known is None:
            self.scopes[-1][name] = value.type
        else:
            value = self.as_type(value, known)
        return Assign(name, value, known is None)

    def returned(self, kind: Type) -> None:
        """All returns of a function are alike."""
        if self.returns not in ("none", kind):
            raise NotSupportedError(f"{self.name}: returns {self.returns} and {kind}")
        self.returns = kind

    # Expressions

    def expression(self, node: ast.expr) -> Expression:
        """What an expression becomes."""
        match node:
            case ast.Constant(value=bool()):
                raise self.unknown(node)
            case ast.Constant(value=int() as value):
                return Number(value, "int")
            case ast.Constant(value=float() as value):
                return Number(value, "float")
            case ast.Name(id=name):
                return self.variable(name, node)
            case ast.Attribute(value=inner, attr=name):
                of = self.expression(inner)
                if isinstance(of.type, str):
                    raise self.unknown(node)
                kind = self.translator.field(of.type, name)
                return Field(of, name, kind)
            case ast.Subscript(value=inner, slice=place):
                return self.element(inner, place)
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in ARITHMETIC:
                return self.operation(ARITHMETIC[type(operator)], self.number(left), self.number(right))
            case ast.Compare(left=left, ops=[operator], comparators=[right]) if type(operator) in COMPARED:
                sides = self.alike(self.number(left), self.number(right))
                return Operation(COMPARED[type(operator)], *sides, "bool")
            case ast.IfExp(test=test, body=then, orelse=otherwise):
                return self.choice(test, then, otherwise)
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self.call(name, arguments, node)
            case _:
                raise self.unknown(node)

    def number(self, node: ast.expr) -> Expression:
        """As `expression`, with 1 or 0 for a comparison."""
        value = self.expression(node)
        return Builtin("truth", (value,), "float") if value.type == "bool" else value

    def variable(self, name: str, node: ast.expr) -> Expression:
        """A variable of the function, or a constant of its module."""
        for depth, scope in reversed(list(enumerate(self.scopes))):
            if name in scope:
                return Variable(name, scope[name], own=depth > 0)
        value = self.globals.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.unknown(node)
        self.translator.constants[name] = value
        return Variable(name, "int" if isinstance(value, int) else "float", constant=True)

    def element(self, inner: ast.expr, place: ast.expr) -> Expression:
        """An element of an array, a row of one, or a value of several."""
        array = self.expression(inner)
        places = tuple(self.expression(each) for each in (place.elts if isinstance(place, ast.Tuple) else [place]))
        if array.type == "table":
            return Lookup(array, places[0])
        if several(array.type):  # values that a call returned at once, each in a variable of its own
            number = places[0]
            assert isinstance(number, Number)
            assert isinstance(array, Variable)
            which = int(number.value)
            return Variable(f"{array.name}_{which}", several(array.type)[which])
        if array.type not in ELEMENT:
            raise self.unknown(inner)
        kind = "row" if array.type.endswith("4") and len(places) == 1 else ELEMENT[array.type]
        return Element(array, places, kind)

    def operation(self, operator: str, left: Expression, right: Expression) -> Expression:
        """Arithmetic on two numbers, of which a whole one becomes a float beside one that is."""
        if operator == "/":
            left, right = self.as_type(left, "float"), self.as_type(right, "float")
        left, right = self.alike(left, right)
        if operator in ("//", "%") and left.type != "int":
            raise NotSupportedError(f"{self.name}: {operator} of numbers that are not whole")
        return Operation(operator, left, right, left.type)

    def alike(self, left: Expression, right: Expression) -> tuple[Expression, Expression]:
        """Both as floats where one of them is."""
        if left.type == right.type:
            return left, right
        return self.as_type(left, "float"), self.as_type(right, "float")

    def as_type(self, value: Expression, kind: Type) -> Expression:
        """A whole number as a float where that is asked for."""
        if value.type == kind:
            return value
        if (value.type, kind) == ("int", "float"):
            return (
                Number(float(value.value), "float")
                if isinstance(value, Number)
                else Builtin("float", (value,), "float")
            )
        raise NotSupportedError(f"{self.name}: {value.type} where {kind} is expected")

    def choice(self, test: ast.expr, then: ast.expr, otherwise: ast.expr) -> Expression:
        """One of two values, in a variable of its own: not every language has an expression for it."""
        self.choices += 1
        name = f"chosen_{self.choices}"
        first, second = self.alike(self.number(then), self.number(otherwise))
        self.scopes[-1][name] = first.type
        self.hoisted[-1].append(Assign(name, second, declared=True))
        chosen = Assign(name, first, declared=False)
        self.hoisted[-1].append(If(self.expression(test), (chosen,)))
        return Variable(name, first.type)

    def call(self, name: str, arguments: Sequence[ast.expr], node: ast.expr) -> Expression:
        """A function of the formula, a struct, or one of the few functions of Python it uses."""
        if name == "len" and len(arguments) == 1:
            return Builtin("length", (self.expression(arguments[0]),), "int")
        if name == "abs" and len(arguments) == 1:
            value = self.number(arguments[0])
            return Builtin("abs", (value,), value.type)
        if name in ("min", "max") and len(arguments) == 2:
            sides = self.alike(self.number(arguments[0]), self.number(arguments[1]))
            return Builtin(name, sides, sides[0].type)
        called = self.globals.get(name)
        values = tuple(self.number(argument) for argument in arguments)
        if isinstance(called, type) and hasattr(called, "_fields"):
            fields: tuple[str, ...] = getattr(called, "_fields")  # noqa: B009
            kinds = [self.translator.field(called, field) for field in fields]
            if len(kinds) != len(values):
                raise self.unknown(node)
            return Struct(called, tuple(map(self.as_type, values, kinds)))
        if not inspect.isfunction(called):
            raise self.unknown(node)
        made = self.translator.function(called, tuple(value.type for value in values))
        return Call(called.__name__, tuple(value for value in values if value.type != "none"), made.returns)


def _name(node: ast.expr) -> str:
    assert isinstance(node, ast.Name)
    return node.id
