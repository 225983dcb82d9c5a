"""Python values as logs print them: `name=value, name=value` and `{'name': value}`, objects that are no literal too."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator

LONGEST = 200_000
"""Characters of one printed value that are taken apart."""
DEEPEST = 50
_OPEN, _CLOSE = "([{<", ")]}>"


def balanced(text: str, start: int) -> str:
    """The part of `text` from the bracket at `start` to the one that closes it; the rest if none does."""
    depth = 0
    for place, character in _outside_quotes(text[start : start + LONGEST]):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
            if depth == 0:
                return text[start : start + place + 1]
    return text[start : start + LONGEST]


def pairs(text: str, joint: str) -> dict[str, str]:
    """Name -> printed value of a list such as `a=1, b='x, y'` (`joint` is `=`) or `'a': 1, 'b': 2` (`:`).

    What stands in brackets or quotes is not taken apart; a part without a name is left out. The first of a name counts.
    """
    found: dict[str, str] = {}
    for part in _parts(text[:LONGEST]):
        name, sign, value = part.partition(joint)
        name = name.strip().strip("'\"")
        if sign and name.replace("-", "_").isidentifier():
            found.setdefault(name, value.strip())
    return found


def value_of(text: str) -> object:
    """The value of a Python or JSON literal; the text itself where it is another object. No code is run."""
    text = text.strip()
    if text.startswith("torch."):
        return text.removeprefix("torch.")
    depth = most = 0
    for _, character in _outside_quotes(text):
        depth += (character in "([{") - (character in ")]}")
        most = max(most, depth)
    if most > DEEPEST or len(text) > LONGEST:
        return text
    for read in (ast.literal_eval, json.loads):
        try:
            return read(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return text


def mapping_of(text: str) -> dict[str, object]:
    """A printed dict, whose values may be other objects than literals: those are left as text."""
    return {name: value_of(value) for name, value in pairs(text.strip()[1:-1], ":").items()}


def _parts(text: str) -> Iterator[str]:
    """The parts between the commas that stand in no bracket and no quotes."""
    depth, begin = 0, 0
    for place, character in _outside_quotes(text):
        if character in _OPEN:
            depth += 1
        elif character in _CLOSE:
            depth = max(0, depth - 1)
        elif character == "," and depth <= 0:
            yield text[begin:place]
            begin = place + 1
    yield text[begin:]


def _outside_quotes(text: str) -> Iterator[tuple[int, str]]:
    """Place and character of whatever stands in no quotes. A quote within a word is an apostrophe."""
    quote, skip = "", False
    for place, character in enumerate(text):
        if skip:
            skip = False
        elif quote:
            if character == "\\":
                skip = True
            elif character == quote:
                quote = ""
        elif character in "'\"" and not (place and text[place - 1].isalnum()):
            quote = character
        else:
            yield place, character
