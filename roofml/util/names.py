"""Names and values from outside: what can name something, and how an error shows what was found instead."""

from __future__ import annotations

from roofml.util.outside_text import for_line, for_terminal

LONGEST_NAME = 4096
"""Characters of a name or sentence; a model's may be a path."""
LONGEST_SHOWN = 60
"""Characters of a value in an error."""


def is_name(text: str, longest: int = LONGEST_NAME) -> bool:
    """Whether a text can name something: one line that says something, and that a terminal shows as it is."""
    return len(text) <= longest and bool(text.strip()) and not set("\n\t") & set(text) and for_terminal(text) == text


def shown(value: object) -> str:
    """A value from outside, for an error: on one line and not too long."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        text = "a number of thousands of digits"
    return for_line(text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}...")
