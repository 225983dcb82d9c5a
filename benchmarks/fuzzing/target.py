"""A target of random inputs: how a case is made from a recipe, what takes it, and what is wrong with an answer."""

from __future__ import annotations

import traceback
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from roofml.util.errors import InputError

LONGEST_MESSAGE = 4000
PACKAGE = str(Path(__file__).resolve().parents[2] / "roofml")


@dataclass(frozen=True)
class Recipe:
    """How a case is made: a valid input, and changes of it, each drawn from a seed of its own.

    So a case can be made again anywhere, and made smaller by leaving changes out.
    """

    base: int
    steps: tuple[int, ...]

    @classmethod
    def of(cls, seed: int, target: str, case: int) -> Recipe:
        """The recipe of case number `case`: mostly one or two changes, sometimes none, sometimes many."""
        random = Random(f"{seed}/{target}/{case}")
        changes = random.choices((0, 1, 2, 3, 5, 12), (1, 40, 25, 15, 12, 7))[0]
        return cls(random.getrandbits(32), tuple(random.getrandbits(32) for _ in range(changes)))


class NonsenseError(Exception):
    """An input was accepted, or refused, in a way that cannot be right. The message says what is wrong."""


class Hang(BaseException):
    """A case took more time than it may."""


@dataclass(frozen=True)
class Target:
    """Something that takes inputs from outside."""

    name: str
    make: Callable[[Random, tuple[Random, ...]], Any]
    """A valid input drawn with the first generator, with one change for each of the others."""
    take: Callable[[Any], None]
    """Raises InputError where it refuses the input, NonsenseError where what it makes of it cannot be right."""
    files: Callable[[Any], Mapping[str, bytes]]
    """The input as files, to keep one that fails."""
    most_s: float = 3.0
    """Seconds of processor time that one case may take."""
    share: float = 1.0
    """Of its group's cases, relative to the others."""

    def case(self, recipe: Recipe) -> Any:
        """The input that a recipe makes."""
        return self.make(Random(recipe.base), tuple(map(Random, recipe.steps)))


@dataclass(frozen=True)
class Failure:
    """One case that was neither taken nor refused as it should be."""

    kind: str
    """crash, hang or nonsense."""
    where: str
    """The same for failures of one cause: the exception and the line of roofml that it came from."""
    text: str


def outcome(target: Target, recipe: Recipe) -> str | Failure:
    """Run one case: "accepted", "refused" or a failure."""
    value = target.case(recipe)
    try:
        target.take(value)
    except InputError as error:
        problem = problem_of_message(str(error))
        return "refused" if problem is None else Failure("nonsense", f"message {problem}", f"{problem}: {error!r}")
    except NonsenseError as error:
        return Failure("nonsense", str(error)[:60], str(error))
    except Hang:
        return Failure("hang", f"hang {_place()}", traceback.format_exc())
    except MemoryError:
        return Failure("crash", f"MemoryError {_place()}", traceback.format_exc())
    except Exception as error:
        return Failure("crash", f"{type(error).__name__} {_place()}", traceback.format_exc())
    return "accepted"


def _place() -> str:
    """Where in roofml the exception that is being handled came from."""
    import sys

    frames = traceback.extract_tb(sys.exc_info()[2])
    ours = [frame for frame in frames if frame.filename.startswith(PACKAGE)]
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "outside"


def problem_of_message(message: str) -> str | None:
    """What is wrong with the message of a refusal: it is one line, not too long, and names something."""
    if not message.strip():
        return "is empty"
    if len(message.splitlines()) > 1:
        return "has several lines"
    if len(message) > LONGEST_MESSAGE:
        return "is too long"
    if ": " not in message:
        return "names nothing"
    return None


def controls_in(text: str) -> str:
    """Characters in it that a terminal would obey."""
    found = {character for character in text if character not in "\n\t" and unicodedata.category(character)[0] == "C"}
    return "".join(sorted(found))


def smaller(
    target: Target, recipe: Recipe, failure: Failure, run: Callable[[Target, Recipe], str | Failure]
) -> tuple[Recipe, Failure]:
    """The recipe with as few changes as still fail in the same place, and how that fails."""
    for step in recipe.steps:
        shorter = replace(recipe, steps=tuple(one for one in recipe.steps if one != step))
        result = run(target, shorter)
        if isinstance(result, Failure) and (result.kind, result.where) == (failure.kind, failure.where):
            recipe, failure = shorter, result
    return recipe, failure
