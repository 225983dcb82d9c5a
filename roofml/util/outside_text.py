"""Text from outside (names in traces, sheets, configs, messages) on its way to a terminal, a shell, YAML or a path.

Every room that hands such a text on does so through one of these functions, so that no file can write to a terminal,
run a command, add a line to another file or leave its folder.
"""

from __future__ import annotations

import json
import re
import shlex
import unicodedata
from collections.abc import Sequence

LONGEST_FILE_NAME = 100
"""Characters of a file name made of outside text: room for endings, and under every system's limit of 255 bytes."""

_PLAIN_YAML = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+-]*")
_YAML_WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})


def for_terminal(text: str) -> str:
    """The text with what a terminal would obey, or what would reorder the line, written out as an escape.

    That is every control, format, surrogate, private or line-breaking character (Unicode categories C and Zl, Zp) but
    the line break and the tab, which tables and help texts need.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if _harmless(character) else _escaped(character) for character in text)


def for_line(text: str) -> str:
    """The text on one line for a terminal, a comment or a heading: white space in a row is one space."""
    return for_terminal(" ".join(text.split()))


def for_shell(words: Sequence[str]) -> str:
    """A command line that a POSIX shell reads as these words, whatever is in them."""
    return " ".join(shlex.quote(word) for word in words)


def for_yaml(text: str) -> str:
    """A YAML scalar, on one line, that is read as this text: plain where that is safe, else in double quotes."""
    number = re.fullmatch(r"[+-]?[\d._]+([eE][+-]?\d+)?|0[xob]\w+", text)
    if _PLAIN_YAML.fullmatch(text) and text.lower() not in _YAML_WORDS and not number:
        return text
    return json.dumps(text)


def for_file_name(text: str) -> str:
    """One component of a path that stands for this text: lower case, no separator, no leading dot, not too long."""
    name = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip(".-")
    return name[:LONGEST_FILE_NAME] or "unnamed"


def _harmless(character: str) -> bool:
    category = unicodedata.category(character)
    return character in "\n\t" or not (category.startswith("C") or category in {"Zl", "Zp"})


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
