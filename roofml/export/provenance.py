"""Our comment lines in a user's file: where coefficients come from, and for which deployment they are.

BLIS reads one set of coefficients a file and does not ask for which model, so that a second set would silently take
the place of the first.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from roofml.util.errors import InputError
from roofml.util.outside_text import for_line, for_shell

MARK = "# roofml:"
"""Our comment lines begin with this, so that the next export finds them."""
RUN_WITH = "run BLIS with: "
"""The comment that says the flags of a deployment begins with this."""


@dataclass(frozen=True)
class Named:
    """The deployment that a comment names."""

    model: str
    gpu: str
    tp: str

    def __str__(self) -> str:
        """As messages name it."""
        return f"{self.model} on {self.gpu} with TP {self.tp}"


def run_with(flags: Sequence[str]) -> str:
    """Return the line, made to be pasted into a shell, that says with which flags BLIS runs a deployment."""
    return RUN_WITH + for_line(for_shell(flags))


def as_comments(provenance: Sequence[str]) -> str:
    """Return comment lines of ours, one for each text, whatever is in it."""
    return "".join(f"{MARK} {for_line(text)}".rstrip() + "\n" for text in provenance)


def deployment_in(comments: Sequence[str]) -> Named | None:
    """Return the deployment that comments, with or without our mark, name; None where they name none."""
    for comment in comments:
        text = comment.removeprefix(MARK).strip()
        if not text.startswith(RUN_WITH):
            continue
        with suppress(ValueError):  # a quotation that does not end
            words = shlex.split(text.removeprefix(RUN_WITH))
            flags = dict(zip(words[::2], words[1::2], strict=False))
            with suppress(KeyError):
                return Named(flags["--model"], flags["--hardware"], flags["--tp"])
    return None


def check_same_deployment(path: Path, there: Sequence[str], ours: Sequence[str]) -> None:
    """Raise InputError if the comments that are there are ours and name another deployment than the new ones.

    Coefficients that no comment of ours stands above are BLIS's own, and are replaced.
    """
    new = deployment_in(as_comments(ours).splitlines())
    if not there or new is None:
        return
    old = deployment_in(there)
    if old != new:
        whose = "of a deployment that they do not name" if old is None else f"of {old}"
        raise InputError(
            f"{path}: holds roofml's coefficients {whose}, and BLIS reads one set a file: "
            f"give {new} another file, or say --replace"
        )
